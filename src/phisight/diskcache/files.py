"""What lies in a cache's folder: its files, read plainly, private, and cleared away.

Layout: FOLDER/phisight-cache/<model>/<name>.safetensors, `model` and `name` in hexadecimal. Other
files are never touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from phisight.errors import OptionError

SUFFIX = ".safetensors"
_INSIDE = "phisight-cache"
_OURS = re.compile(r"[0-9a-f]{2,128}\.safetensors")
_MODEL = re.compile(r"[0-9a-f]{2,128}")
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
_ABANDONED = 3600.0  # seconds after which nobody is still writing an unfinished file


class Entry(NamedTuple):
    """A file of the cache."""

    used: int  # when last written or read, in ns
    path: Path
    size: int


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
    """Where in a folder the cache's own files are. Raises OptionError for no name of a folder."""
    if not os.fspath(folder):
        raise OptionError("cache_dir='': name a folder; . is the current one")
    try:
        return Path(folder).expanduser().absolute() / _INSIDE
    except RuntimeError:
        text = os.fspath(folder)
        raise OptionError(f"cache_dir={text!r}: there is no such home folder") from None


def reason(error: Exception) -> str:
    """Why a folder is of no use: no ValueError's own text, which is of a NUL in its name."""
    return (error.strerror or "") if isinstance(error, OSError) else "it is no file name"


def read_plain(path: Path, most: int) -> bytes | None:
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


def check_private(folder: Path) -> None:
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


class Stored(NamedTuple):
    """What is kept for one model, or one way of running it."""

    model: str
    files: int
    bytes: int
    used: float  # when last, in seconds since 1970


def stored(folder: str | os.PathLike[str]) -> list[Stored]:
    """What a folder holds, the models used last first. Raises OptionError for a folder that is not
    this user's own, or cannot be read."""
    return _by_model(entries(_readable(folder)))


def clear(folder: str | os.PathLike[str]) -> tuple[list[Stored], list[Path]]:
    """Remove all of the cache's files in a folder: what was removed, and what could not be. Raises
    OptionError as `stored` does."""
    root = _readable(folder)
    removed: list[Entry] = []
    left: list[Path] = []
    for entry in list(entries(root)) + list(_unfinished(root)):
        try:
            entry.path.unlink()
        except FileNotFoundError:  # another process was quicker
            continue
        except OSError:
            left.append(entry.path)
        else:
            removed.append(entry)
    for path in [*root.glob("*"), root]:
        if path == root or _MODEL.fullmatch(path.name):
            with contextlib.suppress(OSError):  # somebody else's files are in it
                path.rmdir()
    return _by_model(entry for entry in removed if entry.path.suffix == SUFFIX), left


def _readable(folder: str | os.PathLike[str]) -> Path:
    """A folder's root, if there is one; all in it can be listed."""
    root = cache_root(folder)
    try:
        check_private(root)
        for found in list(os.scandir(root)):
            if found.is_dir(follow_symlinks=False):
                os.scandir(found.path).close()
    except FileNotFoundError:
        pass
    except OptionError:  # it is a ValueError too
        raise
    except (OSError, ValueError) as error:
        raise OptionError(f"{root} cannot be read ({reason(error)})") from None
    return root


def _unfinished(root: Path) -> Iterator[Entry]:
    """What is being written, or was left by a crash."""
    for path in root.glob("*/.*.part"):
        if _UNFINISHED.fullmatch(path.name):
            yield Entry(0, path, 0)


def _by_model(found: Iterable[Entry]) -> list[Stored]:
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        groups.setdefault(entry.path.parent.name, []).append(entry)
    models = [
        Stored(model, len(group), sum(e.size for e in group), max(e.used for e in group) / 1e9)
        for model, group in groups.items()
    ]
    return sorted(models, key=lambda model: -model.used)
