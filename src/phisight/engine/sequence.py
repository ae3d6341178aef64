"""One answer being written, as the scheduler sees it: its tokens, its blocks, how far it is read.

Owns the names of blocks: a hash chain over the ids, what the pictures hold, and the RoPE regime, so
that equal names mean equal keys and values. Knows nothing of tensors.
"""

from __future__ import annotations

import bisect
import hashlib
from array import array
from collections.abc import Sequence as Items
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSlots:
    """A picture of a prompt: what it holds, by hash, and its positions in order."""

    key: bytes
    positions: tuple[int, ...]
    num_crops: int  # 0: already encoded

    def before(self, position: int) -> int:
        """How many of the picture's tokens stand before a position."""
        return bisect.bisect_left(self.positions, position)


class Sequence:
    """A growing list of ids and the blocks that hold the first `num_read` of them."""

    def __init__(
        self, request_id: int, ids: Items[int], images: Items[ImageSlots], block_size: int
    ) -> None:
        self.request_id, self.images = request_id, tuple(images)
        self.ids = list(ids)  # -n at the positions of picture n
        self.num_prompt = len(self.ids)
        self.block_size = block_size
        self.blocks: list[int] = []
        self.num_read = 0  # tokens whose keys and values are stored
        self.num_named = 0  # blocks given to others to find
        self.num_shared = 0  # of these, found when it was first let in
        self.is_long = False
        self._names: list[bytes] = []  # of the first blocks, in the present regime

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_decoding(self) -> bool:
        """Whether only its last token is still to be read, and that token is text."""
        return len(self.ids) - self.num_read == 1 and self.ids[-1] >= 0

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def set_regime(self, is_long: bool) -> None:
        """What is stored was computed in the other regime, if this changes it."""
        if is_long != self.is_long:
            assert not self.blocks, "reset first"
            self.is_long, self._names = is_long, []

    def name(self, index: int) -> bytes:
        """The name of full block `index`."""
        while len(self._names) <= index:
            self._names.append(self._link(len(self._names), self.block_size))
        return self._names[index]

    def part_name(self, index: int, count: int) -> bytes:
        """The name of the first `count` tokens of block `index`, whatever comes after them."""
        return self._link(index, count)

    def names_to_come(self) -> set[bytes]:
        """Names of the blocks that are still to be read of what there is."""
        first, stop = self.num_read // self.block_size, len(self) // self.block_size
        return {self.name(index) for index in range(first, stop)}

    @property
    def picture_ends(self) -> list[int]:
        """How many tokens there are up to the end of each picture, in order."""
        return sorted(image.positions[-1] + 1 for image in self.images if image.positions)

    def _link(self, index: int, count: int) -> bytes:
        """The hash of block `index`'s first `count` tokens and all before them."""
        before = self.name(index - 1) if index else b"long" if self.is_long else b"short"
        start = index * self.block_size
        ids = self.ids[start : start + count]
        assert len(ids) == count, "only what is there has a name"
        # Pictures are numbered anew in each block: what they hold counts, not their place in the
        # prompt.
        slots = dict.fromkeys(token for token in ids if token < 0)
        shown = {slot: -1 - place for place, slot in enumerate(slots)}
        link = hashlib.blake2b(before, digest_size=16, salt=count.to_bytes(8, "little"))
        link.update(array("q", [shown.get(token, token) for token in ids]).tobytes())
        for slot in slots:
            image = self.images[-slot - 1]
            link.update(array("q", [len(image.key), image.before(start)]).tobytes())
            link.update(image.key)
        return link.digest()

    def images_in(self, start: int, stop: int) -> list[int]:
        """Which pictures (from 0) have tokens at positions start..stop-1, in order of position."""
        slots = dict.fromkeys(token for token in self.ids[start:stop] if token < 0)
        return [-slot - 1 for slot in slots]


@dataclass(frozen=True)
class Slice:
    """Tokens start..start+count-1 of a sequence, and guesses of what may come after the last."""

    sequence: Sequence
    start: int
    count: int
    guesses: tuple[int, ...] = ()

    @property
    def gives_token(self) -> bool:
        """Whether it reaches the last token, after which the next one is chosen."""
        return self.start + self.count == len(self.sequence)
