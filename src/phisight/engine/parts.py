"""Blocks' parts up to pictures' ends, by name, in main memory: of each prompt less than a block.

Apart from the encoded pictures, which many questions on one picture would else push out.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class PartCache:
    """`room` is bytes; the least recently used go first."""

    def __init__(self, room: float) -> None:
        self.room = room
        self._parts: OrderedDict[bytes, Tensor] = OrderedDict()  # oldest first
        self._bytes = 0

    def __contains__(self, name: bytes) -> bool:
        return name in self._parts

    def find(self, name: bytes) -> Tensor | None:
        """One that is there is from now on the last to go."""
        if name in self._parts:
            self._parts.move_to_end(name)
        return self._parts.get(name)

    def put(self, name: bytes, part: Tensor) -> None:
        """A part that is not there yet."""
        self._parts[name] = part
        self._bytes += part.nbytes
        while self._bytes > self.room:
            self._bytes -= self._parts.popitem(last=False)[1].nbytes

    def forget(self) -> None:
        self._parts.clear()
        self._bytes = 0
