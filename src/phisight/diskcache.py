"""A folder of safetensors files under names, for any number of processes at once.

A file is written under another name, synced and renamed, so that there is none by halves; what is
read is checked all the same, and a file that is not what its name says is removed. The files used
longest ago go when there are too many bytes. No locks: whoever loses a race finds nothing, and
works without. Knows nothing of what the tensors are.

Layout: FOLDER/phisight-cache/<model>/<name>.safetensors, `model` and `name` in hexadecimal. Other
files in FOLDER are never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from phisight.errors import OptionError, PhisightWarning

FORMAT = "phisight 1"  # of the files: others are not read
_INSIDE = "phisight-cache"
_SUFFIX = ".safetensors"
_OURS = re.compile(r"[0-9a-f]{2,128}\.safetensors")
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
_ABANDONED = 3600.0  # seconds after which nobody is still writing an unfinished file
_LONGEST_HEADER = 2**20


class Entry(NamedTuple):
    """A file of the cache."""

    used: int  # when last written or read, in ns
    path: Path
    size: int


class DiskCache:
    """One model's files in a folder, which all models' files together fill up to `room` bytes.

    Raises OptionError for a folder that cannot be made, or in which others can read.
    """

    def __init__(self, folder: str | os.PathLike[str], room: float, model: bytes) -> None:
        self._root = Path(folder).expanduser().absolute() / _INSIDE
        self._folder, self._room, self._model = self._root / model.hex(), room, model.hex()
        try:
            self._root.parent.mkdir(parents=True, exist_ok=True)
            for made in (self._root, self._folder):
                with contextlib.suppress(FileExistsError):
                    made.mkdir(mode=0o700)
        except OSError as error:
            raise OptionError(
                f"cache_dir={os.fspath(folder)!r}: cannot be made ({error.strerror}); "
                "name a folder of your own"
            ) from None
        for made in (self._root, self._folder):
            _check_private(made)

    def __contains__(self, name: bytes) -> bool:
        """Whether there is a file of this name; `read` says whether it is any good."""
        return self._path(name).is_file()

    def read(self, name: bytes, most: int) -> bytes | None:
        """The file's bytes, as `write` sealed them under this very name; None without such a file.

        `most` bytes of tensors are expected. They are copied and not mapped: a mapped file that
        somebody cuts ends the process.
        """
        path = self._path(name)
        try:
            blob = _read_plain(path, most + _LONGEST_HEADER)
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

    def touch(self, names: list[bytes]) -> None:
        """These have been used, the first most lately: it is the last to go."""
        now = time.time_ns()
        for age, name in enumerate(names):
            with contextlib.suppress(OSError):  # gone, or a folder that is only read
                os.utime(self._path(name), ns=(now - age, now - age), follow_symlinks=False)

    def write(self, files: Iterable[tuple[bytes, bytes]], size: int) -> None:
        """Keep safetensors files by name, about `size` bytes in all, as if used one after the
        other, the first most lately. A full disk is told of in a line, and is no error."""
        if size > self._room:
            self._say(
                f"{size / 2**20:.0f} MiB of one prompt are more than the cache may hold "
                f"({self._room / 2**20:.0f} MiB), and are not kept: raise cache_disk"
            )
            return
        try:
            self._make_room(size)
            now = time.time_ns()
            for age, (name, blob) in enumerate(files):
                self._write(name, blob, now - age)
        except OSError as error:
            self._say(f"nothing more is kept ({error.strerror}); answers are given without")

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
        return self._folder / f"{name.hex()}{_SUFFIX}"

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
        message = f"cache_dir {self._root.parent}: {text}"
        try:
            warnings.warn(message, PhisightWarning, stacklevel=3)
        except PhisightWarning as told:  # where warnings are errors: no answer fails for this one
            warnings.showwarning(told, PhisightWarning, __file__, 0)


def entries(root: Path) -> Iterator[Entry]:
    """All files of all models under a root; unfinished ones that nobody finishes are removed."""
    with contextlib.suppress(OSError):
        for folder in list(os.scandir(root)):
            if folder.is_dir(follow_symlinks=False):
                yield from _entries_in(folder)


def _entries_in(folder: os.DirEntry[str]) -> Iterator[Entry]:
    with contextlib.suppress(OSError):
        for file in list(os.scandir(folder)):
            with contextlib.suppress(OSError):
                found = file.stat(follow_symlinks=False)
                if _UNFINISHED.fullmatch(file.name) and stat.S_ISREG(found.st_mode):
                    if found.st_mtime < time.time() - _ABANDONED:
                        Path(file.path).unlink()
                elif _OURS.fullmatch(file.name):
                    yield Entry(found.st_mtime_ns, Path(file.path), found.st_size)


def cache_root(folder: str | os.PathLike[str]) -> Path:
    """Where in a folder the cache's own files are."""
    return Path(folder).expanduser().absolute() / _INSIDE


def sealed(blob: bytes, labels: dict[str, str]) -> list[bytes | memoryview]:
    """The pieces of a safetensors file whose header also has labels, and a hash of all."""
    length = int.from_bytes(blob[:8], "little")
    tensors, data = json.loads(blob[8 : 8 + length]), memoryview(blob)[8 + length :]
    tensors.pop("__metadata__", None)
    header = {"__metadata__": labels | {"hash": _hash(tensors, labels, data)}, **tensors}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, data]


def fault_of(blob: bytes, labels: dict[str, str]) -> str | None:
    """What is wrong with a file; None if it is the one that was sealed with these labels."""
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > min(_LONGEST_HEADER, len(blob) - 8):
        return "it is cut short, or no safetensors file"
    try:
        tensors = json.loads(blob[8 : 8 + length])
        found = tensors.pop("__metadata__")
        digest = found.pop("hash")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return "its header is damaged"
    if found != labels:
        return "it was written for another model or by another version"
    if digest != _hash(tensors, labels, memoryview(blob)[8 + length :]):
        return "its hash does not fit: it is damaged"
    return None


def _hash(tensors: dict[str, object], labels: dict[str, str], data: memoryview) -> str:
    link = hashlib.sha256(json.dumps([tensors, labels], sort_keys=True).encode())
    link.update(data)
    return link.hexdigest()


def _read_plain(path: Path, most: int) -> bytes | None:
    """The bytes of a regular file of at most so many; None of anything else. A link is not
    followed, a pipe not waited for."""
    if path.is_symlink():
        return None
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            return None
        return file.read(found.st_size)  # fewer if it has been cut since, which the hash finds


def _check_private(folder: Path) -> None:
    """Raise OptionError unless the folder is a real one, of this user, that others cannot read."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OptionError(f"cache_dir: {folder} is no folder (links are not followed): remove it")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise OptionError(f"cache_dir: {folder} belongs to another user: name a folder of your own")
    if os.name == "posix" and stat.S_IMODE(found.st_mode) & 0o077:
        raise OptionError(
            f"cache_dir: others can read {folder}, and it holds what pictures show: "
            f"chmod 700 {folder}"
        )
