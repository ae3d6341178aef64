"""A folder of safetensors files under names, for any number of processes at once.

A file is written under another name, synced and renamed, so that there is none by halves; what is
read is checked all the same, and a file that is not what its name says is removed. The files used
longest ago go when there are too many bytes. No locks: whoever loses a race finds nothing, and
works without. Knows nothing of what the tensors are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from phisight.diskcache.files import SUFFIX, cache_root, check_private, entries, read_plain, reason
from phisight.diskcache.sealed import FORMAT, LONGEST_HEADER, fault_of, sealed
from phisight.errors import OptionError, tell


class DiskCache:
    """One model's files in a folder, which all models' files together fill up to `room` bytes.

    Raises OptionError for a folder that cannot be made, or in which others can read. Where it is
    only read, and holds nothing of the model, nothing is found and nothing kept.
    """

    def __init__(self, folder: str | os.PathLike[str], room: float, model: bytes) -> None:
        self._root = cache_root(folder)
        self._folder, self._room, self._model = self._root / model.hex(), room, model.hex()
        try:
            self._root.parent.mkdir(parents=True, exist_ok=True)
            _make(self._root)
            check_private(self._root)
            self._is_closed = not self._opened()
        except OptionError:  # it is a ValueError too
            raise
        except (OSError, ValueError) as error:
            raise OptionError(
                f"cache_dir={os.fspath(folder)!r}: cannot be made ({reason(error)}); "
                "name a folder of your own"
            ) from None

    def __contains__(self, name: bytes) -> bool:
        """Whether there is a file of this name; `read` says whether it is any good."""
        # Path.is_file raises where a share has gone.
        return os.path.isfile(self._path(name))  # noqa: PTH113

    def read(self, name: bytes, most: int) -> bytes | None:
        """The file's bytes, as `write` sealed them under this very name; None without such a file.

        `most` bytes of tensors are expected. They are copied and not mapped: a mapped file that
        somebody cuts ends the process.
        """
        path = self._path(name)
        try:
            blob = read_plain(path, most + LONGEST_HEADER)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._say(f"{path.name} cannot be read ({error.strerror}), and is not used")
            return None
        fault = "it is no regular file of this size" if blob is None else None
        if blob is None or (fault := fault_of(blob, self._labels(name))):
            self.reject(name, fault or "")
            return None
        return blob

    def reject(self, name: bytes, why: str) -> None:
        """Remove a file that is of no use, and say so."""
        path = self._path(name)
        with contextlib.suppress(OSError):
            path.unlink()
        self._say(f"{path.name} is not used, and removed: {why}")

    def touch(self, names: Sequence[bytes]) -> None:
        """These have been used, the first most lately: it is the last to go."""
        now, follow = time.time_ns(), os.utime not in os.supports_follow_symlinks  # Windows
        for age, name in enumerate(names):
            with contextlib.suppress(OSError):  # gone, or a folder that is only read
                os.utime(self._path(name), ns=(now - age, now - age), follow_symlinks=follow)

    def takes(self, size: int) -> bool:
        """Whether so many bytes of one prompt can be kept at all; if not, that is said."""
        if self._is_closed:
            return False
        if size > self._room:
            self._say(
                f"{size / 2**20:.0f} MiB of one prompt are more than the cache may hold "
                f"({self._room / 2**20:.0f} MiB), and are not kept: raise cache_disk"
            )
        return size <= self._room

    def write(self, files: Iterable[tuple[bytes, bytes]], size: int) -> None:
        """Keep safetensors files by name, about `size` bytes in all, as if used one after the
        other, the first most lately. A full disk is told of in a line, and is no error."""
        if not self.takes(size):
            return
        try:
            for folder in (self._root, self._folder):  # somebody may have cleared the cache
                _make(folder)
            self._make_room(size)
            now = time.time_ns()
            for age, (name, blob) in enumerate(files):
                self._write(name, blob, now - age)
        except OSError as error:
            self._say(f"nothing more is kept ({error.strerror}); answers are given without")

    def _opened(self) -> bool:
        """Whether there is the model's own folder, now; if there can be none, that is said."""
        try:
            _make(self._folder)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            self._say(f"it is only read ({error.strerror}), and nothing is kept for this model")
            return False
        check_private(self._folder)
        return True

    def _write(self, name: bytes, blob: bytes, used: int) -> None:
        unfinished = self._folder / f".{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
                for piece in sealed(blob, self._labels(name)):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.utime(unfinished, ns=(used, used))
            unfinished.replace(self._path(name))
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def _path(self, name: bytes) -> Path:
        return self._folder / f"{name.hex()}{SUFFIX}"

    def _labels(self, name: bytes) -> dict[str, str]:
        return {"format": FORMAT, "model": self._model, "name": name.hex()}

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until so many bytes more are within bounds."""
        kept = sorted(entries(self._root))
        excess = sum(entry.size for entry in kept) + size - self._room
        for entry in kept:
            if excess <= 0:
                break
            with contextlib.suppress(OSError):  # another process was quicker, or is reading it
                entry.path.unlink()
            excess -= entry.size

    def _say(self, text: str) -> None:
        tell(f"cache_dir {self._root.parent}: {text}")


def _make(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
