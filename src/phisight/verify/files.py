"""The files of a model folder: their sizes and hashes, and what the hub cache says they should be.

Reads bytes, never their meaning, and no more than a piece of a file at a time.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from phisight.verify.report import FileRecord, Finding, gigabytes, listed, worst

_REQUIRED = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
_READ = (
    *_REQUIRED,
    "generation_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)
_NEVER_OPENED = (".py", ".bin", ".pt", ".pth", ".pkl", ".ckpt")  # code, or pickles, which are code
_PIECE = 2**20
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
    return place.removeprefix("models--").replace("--", "/", 1), folder.name


def check_files(folder: Path) -> tuple[Finding, list[Hashed]]:
    """Hash everything that is read."""
    faults = [f"{name} is missing" for name in _REQUIRED if not _is_there(folder / name)]
    hashed = []
    for path in readable_files(folder):
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
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _NEVER_OPENED)
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
    return Hashed(FileRecord(path.name, size, digest), blob, earned)


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
