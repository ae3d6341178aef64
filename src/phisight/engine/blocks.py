"""Blocks of the paged cache: who holds which, and which may be shared or taken back.

A block holds the keys and values of a fixed number of tokens. A full one has a name (what it was
computed from), under which others find it; when nobody holds it any more it stays findable until
its room is needed, least recently held first. Numbers and names only: knows nothing of tensors.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """`contiguous` looks for neighbouring blocks, which the CPU reads in place."""

    def __init__(self, num_blocks: int, *, contiguous: bool = False) -> None:
        self.num_blocks, self._contiguous = num_blocks, contiguous
        self._holders = [0] * num_blocks
        self._blank = dict.fromkeys(range(num_blocks - 1, -1, -1))  # in the order they came back
        self._idle: OrderedDict[int, None] = OrderedDict()  # named, held by nobody, oldest first
        self._by_name: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be taken, those with something findable in them included."""
        return len(self._blank) + len(self._idle)

    def is_idle(self, block: int) -> bool:
        return self._holders[block] == 0

    def find(self, name: bytes) -> int | None:
        """The block of this name, not yet held."""
        return self._by_name.get(name)

    def share(self, block: int) -> None:
        """Hold a block that was found."""
        self._idle.pop(block, None)
        self._holders[block] += 1

    def take(self, after: int | None = None) -> int:
        """A blank block to write to, next to `after` if there is a choice; IndexError if none."""
        if not self.num_free:
            raise IndexError("every block is held")
        if not self._blank:
            self.forget(next(iter(self._idle)))
        block = self._choose(after) if self._contiguous else next(reversed(self._blank))
        del self._blank[block]
        self._holders[block] = 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """Give a sequence's blocks back, the last first: its beginning stays findable longest."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                (self._idle if block in self._names else self._blank)[block] = None

    def name(self, block: int, name: bytes) -> bool:
        """Make a full block findable, unless another of this name is; whether it was done."""
        if name in self._by_name or block in self._names:
            return False
        self._by_name[name], self._names[block] = block, name
        return True

    def forget(self, block: int) -> None:
        """Make a block findable no more."""
        name = self._names.pop(block, None)
        if name is not None:
            del self._by_name[name]
        if block in self._idle:
            del self._idle[block]
            self._blank[block] = None

    def forget_all(self) -> None:
        """Make every block findable no more."""
        for block in list(self._names):
            self.forget(block)

    def check(self, held: Iterable[Sequence[int]]) -> None:
        """Assert that the books agree with what the sequences hold: none lost, none used twice."""
        counts = Counter(block for blocks in held for block in blocks)
        assert self._holders == [counts[block] for block in range(self.num_blocks)]
        free = [*self._blank, *self._idle]
        assert len(free) == len(set(free)), "a block is free twice"
        assert set(free) == {block for block, count in enumerate(self._holders) if count == 0}
        assert self._names == {block: name for name, block in self._by_name.items()}
        assert not any(block in self._names for block in self._blank)
        assert all(block in self._names for block in self._idle)

    def _choose(self, after: int | None) -> int:
        """The next block if it is blank; else the start of the pool, or the middle of its largest
        gap, so that sequences which grow side by side do not get into each other's way."""
        if after is not None and after + 1 in self._blank:
            return after + 1
        if len(self._blank) == self.num_blocks:
            return 0
        blank = sorted(self._blank)
        start, length, best, longest = blank[0], 0, blank[0], 0
        for i, block in enumerate(blank):
            if i and block != blank[i - 1] + 1:
                start, length = block, 0
            length += 1
            if length > longest:
                best, longest = start, length
        # A gap that begins after somebody's last block is that sequence's room to grow.
        return best if best == 0 else best + longest // 2
