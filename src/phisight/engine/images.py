"""Pictures' image tokens, found again by what the pictures hold.

Those that a request still needs stay; the others as long as they fit, least recently needed first
to go. Knows nothing of pixels.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from torch import Tensor


class ImageCache:
    """`room` is bytes for pictures that no request needs now."""

    def __init__(self, room: float) -> None:
        self._room = room
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()  # oldest first
        self._needed: Counter[bytes] = Counter()

    def __contains__(self, key: bytes) -> bool:
        return key in self._features

    def __getitem__(self, key: bytes) -> Tensor:
        """(num_tokens, D) image tokens."""
        return self._features[key]

    @property
    def num_needed(self) -> int:
        """Pictures that some request needs."""
        return len(self._needed)

    def put(self, key: bytes, features: Tensor) -> None:
        self._features[key] = features
        self._trim()

    def need(self, key: bytes) -> None:
        """Keep this picture, now or once it is there, until as many `drop`s."""
        self._needed[key] += 1

    def drop(self, key: bytes) -> None:
        self._needed[key] -= 1
        if self._needed[key] == 0:
            del self._needed[key]
        if key in self._features:
            self._features.move_to_end(key)
        self._trim()

    def forget(self) -> None:
        """Drop the pictures that no request needs."""
        for key in [key for key in self._features if key not in self._needed]:
            del self._features[key]

    def _trim(self) -> None:
        idle = [key for key in self._features if key not in self._needed]
        excess = sum(self._features[key].nbytes for key in idle) - self._room
        for key in idle:
            if excess <= 0:
                break
            excess -= self._features.pop(key).nbytes
