"""Words on the command line to pictures: files, folders, patterns, URLs, and - for stdin."""

from __future__ import annotations

import glob
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from phisight.errors import ImageError, PhisightWarning, PromptError
from phisight.fetch import is_url

STDIN = "-"
# What a folder is searched for; a file named on its own may have any suffix.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class Picture(NamedTuple):
    """A picture as it was named, and what `Model.ask` takes."""

    name: str
    source: str | bytes


def find_pictures(words: Iterable[str]) -> list[Picture]:
    """The pictures that some words name, in order. Raises ImageError for a word that names none."""
    found: list[Picture] = []
    for word in words:
        if word == STDIN:
            if any(picture.name == STDIN for picture in found):
                raise ImageError("- stands for standard input, which holds one picture only")
            found.append(Picture(STDIN, read_stdin()))
        elif is_url(word) or _exists(word):
            found += _in_folder(word) if Path(word).is_dir() else [Picture(word, word)]
        else:
            found += _matching(word)
    return found


def read_stdin() -> bytes:
    """All of standard input. Raises ImageError at a terminal, where it would wait for typing."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ImageError("- reads standard input, and nothing is piped into it")
    data = sys.stdin.buffer.read()
    if not data:
        raise ImageError("-: standard input is empty")
    return data


def read_question() -> str:
    """The question on standard input. Raises PromptError if it is no text."""
    try:
        return read_stdin().decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise PromptError(
            "the question on standard input is no UTF-8 text; a picture goes before the question: "
            'phisight ask - "What is this?"'
        ) from None


def is_file(word: str) -> bool:
    """Whether a word names a file; a long question does not."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def looks_like_a_picture(word: str) -> bool:
    """Whether a word in the question's place was meant as a picture, there or not."""
    return (
        is_url(word)
        or _exists(word)
        or (len(word.split()) == 1 and word.lower().endswith(_SUFFIXES))
    )


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def _in_folder(word: str) -> list[Picture]:
    try:
        files = sorted(path for path in Path(word).iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise ImageError(f"{word}: the folder cannot be read ({error.strerror})") from None
    if not files:
        raise ImageError(
            f"{word}: no picture in this folder ({', '.join(_SUFFIXES)}); "
            "subfolders are not searched"
        )
    others = [p.name for p in sorted(Path(word).iterdir()) if p not in files and p.name[0] != "."]
    if others:
        names = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        message = f"{word}: left out {len(others)} that are no pictures by their names: {names}"
        warnings.warn(message, PhisightWarning, stacklevel=2)
    return [Picture(str(path), str(path)) for path in files]


def _matching(word: str) -> list[Picture]:
    """Files of a pattern, where no shell has expanded it (in quotes, or on Windows)."""
    if not glob.has_magic(word):
        raise ImageError(f"{word}: no such file")
    names = glob.glob(word, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = sorted(name for name in names if Path(name).is_file())
    if not files:
        raise ImageError(f"{word}: no file matches this pattern")
    return [Picture(name, name) for name in files]
