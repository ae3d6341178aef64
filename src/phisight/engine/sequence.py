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
            before = self._names[-1] if self._names else b"long" if self.is_long else b"short"
            start = len(self._names) * self.block_size
            ids = self.ids[start : start + self.block_size]
            assert len(ids) == self.block_size, "only full blocks have names"
            # Pictures are numbered anew in each block: what they hold counts, not their place in
            # the prompt.
            slots = dict.fromkeys(token for token in ids if token < 0)
            shown = {slot: -1 - place for place, slot in enumerate(slots)}
            link = hashlib.blake2b(before, digest_size=16)
            link.update(array("q", [shown.get(token, token) for token in ids]).tobytes())
            for slot in slots:
                image = self.images[-slot - 1]
                link.update(array("q", [len(image.key), image.before(start)]).tobytes())
                link.update(image.key)
            self._names.append(link.digest())
        return self._names[index]

    def images_in(self, start: int, stop: int) -> list[int]:
        """Which pictures (from 0) have tokens at positions start..stop-1, in order of position."""
        slots = dict.fromkeys(token for token in self.ids[start:stop] if token < 0)
        return [-slot - 1 for slot in slots]
