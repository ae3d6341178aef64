"""The one thread that writes to a cache on disk what others hand over, within bounds.

What is beyond the bounds is dropped: a disk that is slower than the model must cost neither memory
nor threads. The thread is there while there is work, and the interpreter waits for it when it ends.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from phisight.diskcache.cache import DiskCache
from phisight.errors import tell

_MOST_BYTES = 2**30  # on their way to the disk
_MOST_ORDERS = 64


class Order(NamedTuple):
    """Files to write, made one by one, and names to mark as used, the first most lately."""

    files: Iterator[tuple[bytes, bytes]]
    sizes: Mapping[bytes, int]  # bytes of each file, about
    used: Sequence[bytes]


class Writer:
    """For one thread that orders."""

    def __init__(self, disk: DiskCache) -> None:
        self._disk = disk
        self._changing = threading.Lock()
        self._orders: deque[Order] = deque()
        self._waiting: dict[bytes, int] = {}  # bytes of what is still to be written, by name
        self._thread: threading.Thread | None = None
        self._told = False

    def __contains__(self, name: bytes) -> bool:
        """Whether a file of this name is on its way."""
        return name in self._waiting

    def takes(self, size: int) -> bool:
        """Whether so many bytes more can be ordered; to be asked before they are copied."""
        if not self._disk.takes(size):
            return False
        with self._changing:
            waiting, orders = sum(self._waiting.values()), len(self._orders)
        if orders < _MOST_ORDERS and waiting + size <= _MOST_BYTES:
            return True
        if not self._told:
            self._told = True
            tell("the cache on disk is written too slowly: some of what was read is not kept there")
        return False

    def put(self, order: Order) -> None:
        """Have it written; dropped where too many wait, or, told of, where no thread can start."""
        with self._changing:
            if len(self._orders) >= _MOST_ORDERS:
                return
            self._orders.append(order)
            self._waiting.update(order.sizes)
            if self._thread is not None:
                return
            ending = not threading.main_thread().is_alive()
            if not ending:
                self._start()
        if ending:  # of the interpreter, which takes no more threads, or waits for none
            self._work()

    def wait(self) -> None:
        """Until all that was ordered is on the disk."""
        while True:
            with self._changing:
                thread = self._thread
            if thread is None:
                return
            thread.join()

    def _start(self) -> None:
        # Not as the engine's thread is, which may be left behind: the interpreter waits for this.
        thread = threading.Thread(target=self._work, name="phisight-disk", daemon=False)
        try:
            thread.start()
        except RuntimeError:
            self._orders.clear()
            self._waiting.clear()
            tell("no thread can be started to write to the cache on disk: nothing is kept there")
            return
        self._thread = thread

    def _work(self) -> None:
        while True:
            with self._changing:
                if not self._orders:
                    self._thread = None
                    return
                order = self._orders.popleft()
            try:
                self._write(order)
            except Exception as error:
                tell(f"what was read is not kept on disk ({type(error).__name__}: {error})")
            finally:
                with self._changing:
                    for name in order.sizes:
                        self._waiting.pop(name, None)

    def _write(self, order: Order) -> None:
        # Before, lest what the new files go on from makes room for them; and after, since without
        # it they are of no use: it goes last.
        self._disk.touch(order.used)
        if order.sizes:
            self._disk.write(order.files, sum(order.sizes.values()))
            self._disk.touch(order.used)
