"""Ending an answer at a stop string that may come in pieces. Knows text only."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Text in, text out up to the first stop string; what may begin one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None  # the stop string that came

    def add(self, text: str) -> str:
        """The text that is certain to stand before any stop string."""
        self._held += text
        places = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            # The one that ends first, as if the text had come letter by letter.
            at, self.found = min(places, key=lambda place: (place[0] + len(place[1]), place[0]))
            self._held = self._held[:at]
            return self.finish()
        return self._release(len(self._held) - self._longest_beginning())

    def finish(self) -> str:
        """What was held back, once nothing more comes."""
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        out, self._held = self._held[:count], self._held[count:]
        return out

    def _longest_beginning(self) -> int:
        """Characters at the end of the held text that a stop string begins with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for count in range(min(longest, len(self._held)), 0, -1):
            if self._held.endswith(
                tuple(stop[:count] for stop in self._stops if len(stop) > count)
            ):
                return count
        return 0
