"""The files of a model folder: their sizes and hashes, and what the hub cache says they should be.

Reads bytes, never their meaning, and no more than a piece of a file at a time. Owns which files
are never opened: those that may not end, and those outside the folder.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from phisight.config import TEXT_FILES
from phisight.errors import ModelNotFoundError
from phisight.hub import ModelFolder
from phisight.verify.report import FileRecord, Finding, gigabytes, listed, printed, worst

_READ = (
    *TEXT_FILES,
    "generation_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)
_NEVER_OPENED = (".py", ".bin", ".pt", ".pth", ".pkl", ".ckpt")  # code, or pickles, which are code
_PIECE = 2**20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


@dataclass(frozen=True)
class Hashed:
    """A file's record, and the blob name that the hub cache gives it and its content earns."""

    record: FileRecord
    blob: str | None  # None where the file is no link into a hub cache
    earned: str | None


def readable_files(folder: Path) -> list[Path]:
    """What phisight reads of a folder, in the order of the report."""
    weights = sorted(path for path in folder.glob("*.safetensors"))
    return [path for name in _READ if _is_there(path := folder / name)] + weights


def hub_name(folder: Path) -> tuple[str, str] | None:
    """Hub id and revision of a snapshot in a hub cache: models--owner--name/snapshots/commit."""
    place = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not place.startswith("models--"):
        return None
    if not _COMMIT.fullmatch(folder.name):
        return None
    return place.removeprefix("models--").replace("--", "/", 1), folder.name


def is_folder(found: ModelFolder) -> bool:
    """Whether a model was named by its place, and not by a name that phisight knows."""
    return Path(found.name).expanduser() == found.path


def shared_name(found: ModelFolder) -> str:
    """What to call a model to others: of a folder its own name, not the place."""
    return printed(found.path.resolve().name or "model" if is_folder(found) else found.name)


def refused_files(folder: Path, *, anywhere: bool = False) -> dict[str, str]:
    """The entries of a folder that must not be opened, and why.

    A link may lead into the folder or into its hub cache's blobs; with `anywhere`, to any file.
    Raises ModelNotFoundError for a folder that may not be listed.
    """
    folder = folder.resolve()
    homes = [folder]
    if folder.parent.name == "snapshots":
        homes.append(folder.parent.parent / "blobs")  # as it is called: it may be a link itself
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise ModelNotFoundError(f"{folder}: cannot be listed ({error.strerror})") from None
    refused = {}
    for path in paths:
        try:
            real = path.resolve()
            if not anywhere and not any(real.is_relative_to(home) for home in homes):
                refused[path.name] = "is a link to a file outside the folder; not read"
            elif not stat.S_ISREG(path.stat().st_mode):
                refused[path.name] = "is not a regular file; not read"
        except (FileNotFoundError, PermissionError):
            pass  # the check of files tells
        except (OSError, RuntimeError):  # a link to itself
            refused[path.name] = "is a link that leads nowhere; not read"
    return refused


def check_files(folder: Path, refused: Mapping[str, str]) -> tuple[Finding, list[Hashed]]:
    """Hash everything that is read; the refused are faults."""
    faults = [f"{name} is missing" for name in TEXT_FILES if not _is_there(folder / name)]
    hashed = []
    for path in readable_files(folder):
        if path.name in refused:
            faults.append(f"{path.name} {refused[path.name]}")
            continue
        try:
            hashed.append(_hashed(path))
        except FileNotFoundError:
            faults.append(f"{path.name} is a link to a file that is not there")
        except OSError as error:
            faults.append(f"{path.name} cannot be read ({error.strerror})")
    size = sum(item.record.size for item in hashed)
    return worst("files", faults, [], f"{len(hashed)} files, {gigabytes(size)}"), hashed


def check_cache(files: list[Hashed]) -> tuple[Finding, bool]:
    """Compare content with the hub's names for it."""
    linked = [item for item in files if item.blob is not None]
    faults = [
        f"{item.record.name} is damaged: its content hashes to {_short(item.earned)}, the hub "
        f"cache names it {_short(item.blob)}; delete the model from the cache and download it again"
        for item in linked
        if item.blob != item.earned
    ]
    notes = []
    if not linked:
        notes.append(
            "not measured: no hub cache snapshot, so nothing here says what the hashes should be"
        )
    elif len(linked) < len(files):
        loose = [item.record.name for item in files if item.blob is None]
        notes.append(f"{listed(loose)} cannot be compared: no link into the hub cache")
    fine = f"all {len(linked)} files have the content the hub cache names"
    return worst("hub cache", faults, notes, fine), not faults


def check_unread(folder: Path) -> tuple[Finding, list[str]]:
    """Name the files that are code, or may run code when read, and so never are."""
    names = sorted(printed(p.name) for p in folder.iterdir() if p.suffix.lower() in _NEVER_OPENED)
    notes = [f"present, never opened: {listed(names, 12)}"] if names else []
    return worst("code", [], notes, "no code and no pickles in the folder"), names


def _hashed(path: Path) -> Hashed:
    blob = _blob_name(path)
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), None
    if blob is not None and len(blob) == 40:  # a small file, kept by git itself
        git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            sha256.update(piece)
            if git is not None:
                git.update(piece)
    digest = sha256.hexdigest()
    earned = digest if git is None else git.hexdigest()
    return Hashed(FileRecord(printed(path.name), size, digest), blob, earned)


def _blob_name(path: Path) -> str | None:
    """The first link's target only: a blob may be a link itself, to a store shared by models."""
    if not path.is_symlink():
        return None
    target = path.readlink()
    if target.parent.name != "blobs" or not _ETAG.fullmatch(target.name):
        return None
    return target.name


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _short(digest: str | None) -> str:
    return f"{digest[:12]}..." if digest else "nothing"
