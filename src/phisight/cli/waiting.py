"""A live line on stderr while an answer is awaited at a terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

    from phisight.answer import Progress, Stream

PATIENCE = 1.0  # seconds without a line: most answers of nano begin sooner
_EVERY = 0.25  # seconds between two looks


class Waiting:
    """Tells how far a stream is until `close`; nothing where stderr is no terminal.

    `whole` answers are told of to their end, others until their first piece.
    """

    def __init__(self, stream: Stream, *, whole: bool = False) -> None:
        self._stream, self._whole = stream, whole
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Waiting:
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """The line is gone when this returns."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tell(self) -> None:
        if self._ended.wait(PATIENCE):
            return
        from rich.console import Console

        pace = Pace()
        with Console(stderr=True).status("", spinner="dots") as status:
            while not self._ended.wait(_EVERY):
                self._update(status, pace)

    def _update(self, status: Status, pace: Pace) -> None:
        progress = self._stream.progress
        if progress is None or (progress.written and not self._whole):
            status.update("")
        else:
            status.update(f"[dim]{pace.line(progress, time.monotonic())}[/dim]")


class Pace:
    """From what was seen of a request so far to a line about it."""

    def __init__(self) -> None:
        self._stage = ""
        self._began, self._first = 0.0, 0  # of the stage: when, and what was done then
        self._moved, self._done = 0.0, 0  # when something was done last, and what was done then

    def line(self, progress: Progress, now: float) -> str:
        """The stage, how much of it is done, and how long the rest will take at this pace."""
        if progress.crops_done < progress.crops:
            what, done, total = "looking at crops", progress.crops_done, progress.crops
        elif not progress.written:
            what, done, total = "reading tokens", progress.read, progress.prompt
        else:
            what, done, total = "writing tokens", progress.written, 0
        if what != self._stage:
            self._stage, self._began, self._first = what, now, done
        if done != self._done or now == self._began:
            self._moved, self._done = now, done
        gone, more = self._moved - self._began, done - self._first
        rate = more / gone if gone > 0 else 0.0
        if not total:
            return f"{what}: {done}" + (f", {rate:.1f} a second" if rate else "")
        if not rate:
            return f"{what}: {done} of {total}"
        left = max(0.0, (total - done) / rate - (now - self._moved))
        return f"{what}: {done} of {total}, about {left:.0f} s"
