"""`pull`: a model from the hub into the local cache, whole, unchanged, and nothing else.

Owns which files are taken and what is refused before the first byte of weights. Never takes code
or pickles, and draws nothing: progress is told to the caller.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from phisight.errors import (
    CheckpointError,
    DownloadError,
    ModelNotFoundError,
    OfflineError,
    OptionError,
)
from phisight.hub import cache, download, registry
from phisight.hub.find import NAMED, ModelFolder, adapter_error, folder_called
from phisight.hub.remote import Listing, RemoteFile, list_files, read_config
from phisight.jsonfile import brief
from phisight.machine import total_memory

RESERVE = 10**9  # bytes left free on the disk
_TAKEN = re.compile(r".*\.json|.*\.safetensors|chat_template\.jinja|LICENSE(\..*)?|README\.md")
_REVISION = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")


class Progress(Protocol):
    """What `pull` tells while it works."""

    def note(self, text: str) -> None:
        """A sentence for the reader."""

    def start(self, have: int, total: int) -> None:
        """Bytes that are here already, and bytes in all."""

    def advance(self, num_bytes: int) -> None:
        """More bytes have come; below 0 where they must come again."""


@dataclass(frozen=True)
class _Job:
    name: str
    revision: str
    listing: Listing
    snapshot: Path


def pull(
    name: str, *, revision: str | None = None, verify: bool = False, progress: Progress
) -> ModelFolder:
    """Fetch what is missing of a published model or a hub id, and check it.

    Without a revision: the commit we know of a published model, else main, whose commit is told.
    Every file is hashed when it comes. Of files that are here already the sizes are compared;
    `verify` hashes them too (8 GB take half a minute) and fetches wrong ones again. After an
    interrupt the next call goes on where this one stopped. Raises DownloadError, OfflineError,
    ModelNotFoundError for what is no name, OptionError for a folder and for what is no revision,
    CheckpointError for what is no model of this family.
    """
    if name == registry.BUNDLED:
        progress.note(f"{name} is bundled: there is nothing to fetch")
        return ModelFolder(name, registry.BUNDLED_PATH, None, NAMED)
    hub_id = _hub_id(name)
    if revision is not None and not _REVISION.fullmatch(revision):
        raise OptionError(f"revision={brief(revision)}: expected a commit, a branch or a tag")
    known = registry.published(hub_id)
    revision = revision or (known.revision if known else "main")
    try:
        listing = list_files(hub_id, revision)
    except OfflineError:
        here = cache.repo_folder(hub_id) / "snapshots" / revision
        if verify or not _COMMIT.fullmatch(revision) or cache.missing_files(here):
            raise
        progress.note(
            f"{hub_id} at {revision[:12]} is here and complete; the hub cannot be reached to "
            "compare sizes"
        )
        return ModelFolder(name, here, None, NAMED)
    snapshot = cache.repo_folder(hub_id) / "snapshots" / listing.commit
    if snapshot.is_symlink():
        raise DownloadError(
            f"{snapshot} is a link, and what it leads to may be yours: nothing there is touched. "
            "Remove the link and pull again, or use the folder with --model PATH"
        )
    job = _Job(name, revision, listing, snapshot)
    with _writing(hub_id):
        _bring(job, verify, progress)
    return ModelFolder(name, job.snapshot, None, NAMED)


def _hub_id(name: str) -> str:
    try:
        return registry.hub_id(name)
    except ModelNotFoundError:
        if folder_called(name):
            raise OptionError(
                f"{brief(name)} is a folder already here: use it with --model PATH"
            ) from None
        raise


def _bring(job: _Job, verify: bool, progress: Progress) -> None:
    listing = job.listing
    files = _chosen(listing)
    for file in files:
        place = download.pointer(listing, file)
        if place.is_file():
            right = (
                download.is_right(place, file) if verify else download.size_of(place) == file.size
            )
            if not right:
                download.remove(listing, file)
                progress.note(f"{file.name} here is not what the hub has; it is fetched again")
    what = f"{listing.hub_id} at {listing.commit[:12]}"
    lacking = [file for file in files if not download.pointer(listing, file).is_file()]
    if lacking:
        total = sum(file.size for file in files)
        have = sum(download.bytes_here(listing, file) for file in files)
        _check_model(listing)
        _check_disk(total - have)
        here = f", {cache.size_text(have)} of it here already" if have else ""
        progress.note(
            f"{what}: {len(files)} files, {cache.size_text(total)}{here}, to {cache.cache_root()}"
        )
        _note_memory(files, progress)
        progress.start(have, total)
        for file in lacking:
            if file.name.endswith(".safetensors"):
                _check_shards(job)
            download.download(listing, file, progress.advance)
    _check_shards(job)
    _record(job)
    checked = "every file hashed" if verify or lacking == files else "sizes compared"
    progress.note(f"{what} is here and complete ({checked})")


def _chosen(listing: Listing) -> list[RemoteFile]:
    """What phisight reads and the record of whose it is; small files first, weights last."""
    files = [file for file in listing.files if _TAKEN.fullmatch(file.name)]
    names = {file.name for file in files}
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise adapter_error(listing.hub_id, None)
        raise CheckpointError(f"{listing.hub_id} has no config.json: it is no model of this family")
    if not any(name.endswith(".safetensors") for name in names):
        others = [file.name for file in listing.files if file.name.endswith((".bin", ".pt"))]
        pickles = f", only {brief(others[0])}, a pickle, which is never opened" if others else ""
        raise CheckpointError(f"{listing.hub_id} has no weights in safetensors{pickles}")
    return sorted(files, key=lambda file: (file.name.endswith(".safetensors"), file.name))


def _check_model(listing: Listing) -> None:
    kind = read_config(listing).get("model_type")
    if kind != cache.MODEL_TYPE:
        raise CheckpointError(
            f"{listing.hub_id} is a model of type {brief(kind)}; phisight runs "
            f"{cache.MODEL_TYPE!r} only: {', '.join(registry.PUBLISHED)} and their finetunes"
        )


def _check_disk(needed: int) -> None:
    root = cache.cache_root().absolute()
    disk = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(disk).free
    if free < needed + RESERVE:
        raise DownloadError(
            f"{cache.size_text(needed)} are to be fetched and {cache.size_text(RESERVE)} kept "
            f"free, but the disk of {root} has {cache.size_text(free)}: make room, or set HF_HOME "
            "to a folder on another disk"
        )


def _check_shards(job: _Job) -> None:
    """Every shard of the index is here or on the hub: else 8 GB would come for nothing."""
    there = {file.name for file in job.listing.files}
    if lost := [name for name in cache.missing_files(job.snapshot) if name not in there]:
        raise CheckpointError(
            f"{job.listing.hub_id} itself lacks {brief(lost[0])}, which its index or phisight needs"
        )


def _note_memory(files: list[RemoteFile], progress: Progress) -> None:
    weights = sum(file.size for file in files if file.name.endswith(".safetensors"))
    memory = total_memory()
    if weights > memory:
        progress.note(
            f"the weights take {cache.size_text(weights)} and this machine has "
            f"{cache.size_text(memory)} of memory: they will not fit on its CPU"
        )


def _record(job: _Job) -> None:
    """A branch or a tag now means this commit, for us and for every tool that reads the cache."""
    if job.revision.lower() != job.listing.commit:
        ref = cache.repo_folder(job.listing.hub_id) / "refs" / job.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        temporary = ref.with_name(f"{ref.name}.tmp")
        temporary.write_text(job.listing.commit)
        temporary.replace(ref)


@contextmanager
def _writing(hub_id: str) -> Iterator[None]:
    """One writer at a time, and a full or locked disk as a sentence."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    root = cache.cache_root()
    lock = root / ".locks" / cache.repo_folder(hub_id).name / "phisight.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock, timeout=1):
            yield
    except TimeoutError:
        raise DownloadError(f"another phisight is fetching {hub_id}; wait for it") from None
    except OSError as error:
        raise DownloadError(
            f"cannot write to {root} ({error.strerror}); what has come is kept. Make room there, "
            "or set HF_HOME to another folder"
        ) from None
