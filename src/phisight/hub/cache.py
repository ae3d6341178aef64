"""The hub cache on this machine: where it is, what lies in it, what is complete.

Reads the layout that huggingface_hub documents (blobs, refs, snapshots) without importing it, for
this is looked at whenever a model is chosen. Downloads nothing and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phisight.config import TEXT_FILES
from phisight.errors import ConfigError
from phisight.hub import registry
from phisight.jsonfile import read_json

MODEL_TYPE = "phi3_v"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_REF = 100  # characters; a commit has 40


@dataclass(frozen=True)
class LocalModel:
    """A Phi-3-V model on this machine.

    `name` is what to type for it, `size` is in bytes on disk, `missing` names the files that a
    partial download still lacks, empty if it is complete.
    """

    name: str
    hub_id: str | None
    revision: str | None
    path: Path
    size: int
    missing: tuple[str, ...]


def cache_root() -> Path:
    """The folder of the hub cache, by the same variables and in the same order as huggingface_hub.

    Read at every call: a program may set them after importing us.
    """
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{caches}/huggingface")
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", str(Path(home, "hub")))
    root = os.environ.get("HF_HUB_CACHE", older)
    return Path(os.path.expandvars(Path(root).expanduser()))


def repo_folder(hub_id: str) -> Path:
    """Where the cache keeps a model, whether it is there or not."""
    return cache_root() / f"models--{hub_id.replace('/', '--')}"


def missing_files(folder: Path) -> tuple[str, ...]:
    """The files a snapshot lacks: those of every model, and all shards or model.safetensors."""
    wanted = list(TEXT_FILES)
    index = folder / INDEX
    if index.exists():
        try:
            shards = read_json(index).get("weight_map")
        except ConfigError:
            return (INDEX,)
        if not isinstance(shards, dict) or not shards:
            return (INDEX,)
        wanted += sorted({str(name) for name in shards.values()})
    else:
        wanted.append(WEIGHTS)
    return tuple(name for name in wanted if not _is_file(folder / name))


def commit_of(hub_id: str, revision: str) -> str | None:
    """The commit that a branch or tag had when it was last fetched."""
    ref = repo_folder(hub_id) / "refs" / revision
    try:
        if not ref.is_file():  # a pipe would block
            return None
        with ref.open(encoding="utf-8") as file:
            return file.read(_MOST_REF).strip() or None
    except (OSError, ValueError):
        return None


def find_snapshot(hub_id: str) -> Path | None:
    """The complete snapshot to use: at the revision we know, else at main."""
    return next((path for path in _usual(hub_id) if not missing_files(path)), None)


def is_partial(hub_id: str) -> bool:
    """Whether something of this model has been fetched, but nothing complete to use."""
    folder = repo_folder(hub_id)
    there = any(any(path.iterdir()) for path in _folders(folder / "snapshots"))
    return there or any((folder / "blobs").glob("*.incomplete"))


def cached_models() -> Iterator[tuple[str, Path]]:
    """Hub id and snapshot of every Phi-3-V model in the cache, complete or not.

    Costs a listing and one small file for each repository: 200 of them take some 20 ms.
    """
    for repo in _folders(cache_root()):
        kind, _, name = repo.name.partition("--")
        owner, _, name = name.partition("--")
        if kind == "models" and name:
            for snapshot in _folders(repo / "snapshots"):
                if _model_type(snapshot) == MODEL_TYPE:
                    yield f"{owner}/{name}", snapshot


def local_models() -> list[LocalModel]:
    """The bundled model, then what is in the hub cache."""
    path = registry.BUNDLED_PATH
    models = [LocalModel(registry.BUNDLED, None, None, path, _size(path), ())]
    for hub_id, snapshot in cached_models():
        missing = missing_files(snapshot)
        size = _size(snapshot)
        if missing:
            size += sum(p.stat().st_size for p in repo_folder(hub_id).glob("blobs/*.incomplete"))
        # A snapshot at another revision than those looked up by name is used by its folder.
        usual = snapshot == (find_snapshot(hub_id) or next(iter(_usual(hub_id)), snapshot))
        name = registry.short_name(hub_id) if usual else str(snapshot)
        models.append(LocalModel(name, hub_id, snapshot.name, snapshot, size, missing))
    return models


def size_text(size: int) -> str:
    """Bytes for people: 8.3 GB, 4.2 MB, 12 kB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{-(-size // 1000)} kB"


def _usual(hub_id: str) -> Iterator[Path]:
    known = registry.published(hub_id)
    commits = [known.revision if known else None, commit_of(hub_id, "main")]
    for commit in dict.fromkeys(commits):
        if commit and Path(commit).name == commit:  # a name: a ref must not lead out of the cache
            path = repo_folder(hub_id) / "snapshots" / commit
            if path.is_dir():
                yield path


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError:  # absent, or another user's
        return []


def _model_type(snapshot: Path) -> object:
    try:
        return read_json(snapshot / "config.json").get("model_type")
    except ConfigError:
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name in a strange index
        return False


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if _is_file(path))
