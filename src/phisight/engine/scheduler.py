"""What the next step reads: one token of every running answer, and a bounded piece of new prompts.

Owns who runs, in order of arrival, and every block. When blocks run out the youngest is taken off,
and reads its tokens again later; so is a sequence that outgrows the short RoPE factors, since its
keys must be those of the long ones. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Callable

from phisight.engine.blocks import BlockPool
from phisight.engine.plan import Limits, Plan
from phisight.engine.sequence import Sequence, Slice


class Scheduler:
    """`guess(sequence)` proposes ids that may come next, `is_encoded(key, num_tokens)` says whether
    a picture is at hand, `fetch(name, block, count)` fills a block's first tokens with what is kept
    under a name, if there is."""

    def __init__(
        self,
        pool: BlockPool,
        limits: Limits,
        *,
        guess: Callable[[Sequence], tuple[int, ...]],
        is_encoded: Callable[[bytes, int], bool],
        fetch: Callable[[bytes, int, int], bool],
    ) -> None:
        self.pool, self._limits = pool, limits
        self._guess, self._is_encoded, self._fetch = guess, is_encoded, fetch
        self.waiting: list[Sequence] = []  # in order of arrival, as are the running
        self.running: list[Sequence] = []
        self._suspects: list[Sequence] = []  # one of them broke a step: each is tried alone

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free what it holds; what is stored stays findable."""
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        for group in (self.waiting, self.running, self._suspects):
            if sequence in group:
                group.remove(sequence)

    def schedule(self) -> Plan:
        """The next step's plan, its blocks taken; empty when there is nothing to do."""
        plan = Plan()
        try:
            self._fill(plan)
        except BaseException:  # what has a name by now will not be written
            self.undo(plan)
            raise
        return plan

    def _fill(self, plan: Plan) -> None:
        suspect = self._suspects[0] if self._suspects else None
        for other in [other for other in self.running if suspect not in (None, other)]:
            self._send_back(other)
        self._decode(plan)
        budget, crops = self._limits.chunk_tokens, self._limits.chunk_crops
        if not plan.slices:
            budget = max(budget, self._limits.alone_tokens)
        encoding: set[bytes] = set()
        for sequence in list(self.running):
            if not sequence.is_decoding:
                budget, crops = self._read_on(plan, sequence, budget, crops, encoding)
        while budget > 0 and (entrant := self._let_in(plan, suspect)) is not None:
            budget = max(0, budget - plan.fetched)
            budget, crops = self._read_on(plan, entrant, budget, crops, encoding)

    def commit(self, plan: Plan) -> None:
        """The plan has been carried out."""
        for part in plan.slices:
            part.sequence.num_read = part.start + part.count
            if part.gives_token and part.sequence in self._suspects:
                self._suspects.remove(part.sequence)

    def undo(self, plan: Plan) -> list[Sequence]:
        """The plan broke: nothing it wrote counts. The sequences in it, to be tried one by one."""
        for block in plan.named:
            self.pool.forget(block)
        parts = [part.sequence for part in plan.slices] + [sequence for sequence, _ in plan.images]
        broken = list(dict.fromkeys(parts))
        new = set(plan.new_blocks)  # may not be blank yet, whoever holds them
        for sequence in [s for s in self.running if s in broken or new & set(s.blocks)]:
            self._send_back(sequence)
        self._suspects = broken + [other for other in self._suspects if other not in broken]
        return broken

    def reserve(self, plan: Plan) -> bool:
        """Take blocks for the step after a plan before its tokens are known, blank or not; False,
        and none taken, unless that step can only be one more token of every sequence in the plan.
        """
        same = [p.sequence for p in plan.slices if p.gives_token and p.count + len(p.guesses) == 1]
        full = not self.waiting or len(self.running) >= self._limits.max_batch
        if same != self.running or not full or plan.images or self._suspects:
            return False
        total = [len(sequence) + 1 for sequence in same]
        for sequence, length in zip(same, total, strict=True):
            if length > self._limits.short_reach and not sequence.is_long:
                return False  # it is about to be read again
        missing = [s.blocks_for(n) - len(s.blocks) for s, n in zip(same, total, strict=True)]
        if sum(missing) > self.pool.num_free:
            return False
        for sequence, length in zip(same, total, strict=True):
            self._grow(Plan(), sequence, length)
        return True

    def check(self) -> None:
        """Assert what must hold between steps."""
        self.pool.check([sequence.blocks for sequence in (*self.waiting, *self.running)])
        assert len(self.running) <= self._limits.max_batch
        for group in (self.waiting, self.running):
            arrivals = [sequence.request_id for sequence in group]
            assert arrivals == sorted(set(arrivals)), "out of order"
        assert not any(sequence.blocks or sequence.num_read for sequence in self.waiting)
        for sequence in self.running:
            assert sequence.num_read < len(sequence), "nothing left to read"
            assert sequence.num_read <= len(sequence.blocks) * sequence.block_size

    def _decode(self, plan: Plan) -> None:
        """One token, and guesses, of every sequence that has been read up to its last."""
        for sequence in list(self.running):
            if sequence not in self.running or not sequence.is_decoding:
                continue  # taken off for an older one, or still being read
            if self._regime(sequence) != sequence.is_long:
                self._send_back(sequence)
                continue
            while not self._grow(plan, sequence, len(sequence)):
                self._send_back(self.running[-1])
                if sequence not in self.running:
                    break
            else:
                guesses = self._guess(sequence)
                if not sequence.is_long:
                    guesses = guesses[: self._limits.short_reach - len(sequence)]
                if not self._grow(plan, sequence, len(sequence) + len(guesses)):
                    guesses = ()
                self._put(plan, Slice(sequence, len(sequence) - 1, 1, guesses))

    def _read_on(
        self, plan: Plan, sequence: Sequence, budget: int, crops: int, encoding: set[bytes]
    ) -> tuple[int, int]:
        """The next piece of a prompt, up to the first picture that cannot be encoded yet."""
        start = sequence.num_read
        stop = min(len(sequence), start + budget)
        for number in sequence.images_in(start, stop):
            image = sequence.images[number]
            if image.key in encoding or self._is_encoded(image.key, len(image.positions)):
                continue
            if image.num_crops > crops and encoding:
                stop = max(start, image.positions[image.before(start)])
                break
            plan.images.append((sequence, number))
            encoding.add(image.key)
            crops = max(0, crops - image.num_crops)
        if stop > start:
            self._put(plan, Slice(sequence, start, stop - start))
        return budget - (stop - start), crops

    def _let_in(self, plan: Plan, suspect: Sequence | None) -> Sequence | None:
        """The first waiting sequence, with blocks for all its tokens, if there is room for it."""
        if plan.fetched or not self.waiting or len(self.running) >= self._limits.max_batch:
            return None
        if (sequence := self.waiting[0] if suspect is None else suspect) not in self.waiting:
            return None
        sequence.set_regime(self._regime(sequence))
        shared: list[int] = []
        if self._limits.reuse:
            coming = set[bytes]().union(*(other.names_to_come() for other in self.running))
            # The last token is read in any case: what comes after it is what is asked for.
            for index in range((len(sequence) - 1) // sequence.block_size):
                name = sequence.name(index)
                if (block := self.pool.find(name)) is None:
                    if name in coming:
                        return None  # another one is about to read the same: wait for it
                    break
                shared.append(block)
        new = sequence.blocks_for(len(sequence)) - len(shared)
        if new > self.pool.num_free - sum(self.pool.is_idle(block) for block in shared):
            return None
        for block in shared:
            self.pool.share(block)
        sequence.blocks, sequence.num_named = shared, len(shared)
        sequence.num_read = len(shared) * sequence.block_size
        assert self._grow(plan, sequence, len(sequence))
        self.waiting.remove(sequence)
        self.running.append(sequence)
        self.running.sort(key=lambda other: other.request_id)
        if self._limits.reuse:
            self._fetch_on(plan, sequence)
        if len(sequence) == sequence.num_prompt and not sequence.num_shared:
            sequence.num_shared = sequence.num_read
        return sequence

    def _fetch_on(self, plan: Plan, sequence: Sequence) -> None:
        """Go on with what is kept elsewhere, up to the end of the last picture."""
        size = sequence.block_size
        ends = [end for end in sequence.picture_ends if sequence.num_read < end < len(sequence)]
        for index in range(sequence.num_named, max(ends, default=0) // size):
            block, name = sequence.blocks[index], sequence.name(index)
            if not self._fetch(name, block, size):
                break
            plan.fetched += size
            plan.new_blocks.remove(block)
            self.pool.name(block, name)
            sequence.num_read, sequence.num_named = (index + 1) * size, index + 1
        start, block = sequence.num_named * size, sequence.blocks[sequence.num_named]
        for count in [end - start for end in ends[::-1] if start < end < start + size]:
            if self._fetch(sequence.part_name(sequence.num_named, count), block, count):
                plan.new_blocks.remove(block)
                sequence.num_read = start + count
                break

    def _grow(self, plan: Plan, sequence: Sequence, num_tokens: int) -> bool:
        """Take blocks for so many tokens; False, and nothing taken, if there are not enough."""
        missing = sequence.blocks_for(num_tokens) - len(sequence.blocks)
        if missing > self.pool.num_free:
            return False
        for _ in range(missing):
            block = self.pool.take(sequence.blocks[-1] if sequence.blocks else None)
            sequence.blocks.append(block)
            plan.new_blocks.append(block)
        return True

    def _put(self, plan: Plan, part: Slice) -> None:
        """Plan a slice; the blocks it fills are findable at once, since a step's keys and values
        are all written, layer by layer, before any of them is read."""
        plan.slices.append(part)
        if not self._limits.reuse:
            return
        sequence, full = part.sequence, (part.start + part.count) // part.sequence.block_size
        for index in range(sequence.num_named, full):
            if self.pool.name(sequence.blocks[index], sequence.name(index)):
                plan.named.append(sequence.blocks[index])
        sequence.num_named = full

    def _send_back(self, sequence: Sequence) -> None:
        """Back to waiting, in order of arrival, to be read again from the first token."""
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.num_read, sequence.num_named = [], 0, 0
        self.running.remove(sequence)
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda other: other.request_id)

    def _regime(self, sequence: Sequence) -> bool:
        return len(sequence) > self._limits.short_reach
