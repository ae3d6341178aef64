"""One file of a model into the cache: resumed where it stopped, checked, then put in its place.

What has come lies in blobs/DIGEST.incomplete until its hash is right, so that nothing in the cache
under a final name is ever half a file. Does not know which files make a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from phisight.errors import DownloadError, OfflineError
from phisight.hub import cache
from phisight.hub.remote import Listing, RemoteFile, open_file, refusal

TRIES = 4  # that bring as good as nothing, before giving up
PAUSE = 1.0  # seconds between them
# A server that sends less than this in this many seconds is as good as dead: 1 kB/s.
LEAST_BYTES, LEAST_WINDOW = 60_000, 60.0

Advance = Callable[[int], None]


def pointer(listing: Listing, file: RemoteFile) -> Path:
    """Where a file of a model is read from."""
    return cache.repo_folder(listing.hub_id) / "snapshots" / listing.commit / file.name


def blob(listing: Listing, file: RemoteFile) -> Path:
    """Where the cache keeps a file's bytes."""
    return cache.repo_folder(listing.hub_id) / "blobs" / file.digest


def bytes_here(listing: Listing, file: RemoteFile) -> int:
    """How many bytes of a file need not be fetched."""
    if size_of(pointer(listing, file)) == file.size or size_of(blob(listing, file)) == file.size:
        return file.size
    here = size_of(_partial(listing, file)) or 0
    return here if here <= file.size else 0


def size_of(path: Path) -> int | None:
    """A regular file's size; None if there is none: a pipe must not be opened, for it may block."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_right(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the bytes that the hub says it has."""
    return size_of(path) == file.size and _digest(path, file) == file.digest


def remove(listing: Listing, file: RemoteFile) -> None:
    """Take a wrong file out of a snapshot, and its bytes out of blobs if they are wrong.

    What the snapshot's link points to stays: it may be the user's own file, or another snapshot's.
    """
    pointer(listing, file).unlink(missing_ok=True)
    bytes_of_it = blob(listing, file)
    if not is_right(bytes_of_it, file):
        bytes_of_it.unlink(missing_ok=True)


def download(listing: Listing, file: RemoteFile, advance: Advance) -> None:
    """Bring a file into the cache. Raises DownloadError; what has come is kept for the next time.

    `advance` is called with the number of bytes that have come; below 0 where they must come again.
    """
    final, partial = blob(listing, file), _partial(listing, file)
    if not is_right(final, file):  # what another commit brought is hashed before it serves this one
        partial.parent.mkdir(parents=True, exist_ok=True)
        here = size_of(partial)
        if here is None or here > file.size or partial.is_symlink():  # a link leads elsewhere
            partial.unlink(missing_ok=True)
        _fill(listing, file, partial, advance)
        got = _digest(partial, file)
        if got != file.digest:
            partial.unlink()
            raise DownloadError(
                f"{file.name} of {listing.hub_id} has come changed: its hash begins "
                f"{got[:12]}, the hub says {file.digest[:12]}. It has been deleted; try again, "
                "and if it happens again distrust the network or the mirror"
            )
        partial.replace(final)
    _place(final, pointer(listing, file))


def _fill(listing: Listing, file: RemoteFile, partial: Path, advance: Advance) -> None:
    import httpx2

    partial.touch()
    tries, most = 0, size_of(partial) or 0
    while (have := size_of(partial) or 0) < file.size:
        try:
            _stream(listing, file, partial, have, advance)
        except httpx2.HTTPStatusError as error:
            if error.response.status_code == 416:  # it is not the file we have the start of
                advance(-have)
                partial.unlink()
                partial.touch()
            elif error.response.status_code < 500:
                raise refusal(listing.hub_id, listing.commit, error.response) from None
        except httpx2.HTTPError:
            pass  # the bytes that came are in the file: go on from there
        have = size_of(partial) or 0
        # A trickle is no progress: it would go on for years.
        tries, most = (0, have) if have - most >= LEAST_BYTES else (tries + 1, most)
        if have < file.size:
            if tries == TRIES:
                raise OfflineError(
                    f"the connection broke at {cache.size_text(have)} of "
                    f"{cache.size_text(file.size)} of {file.name}; what has come is kept, and the "
                    "same command goes on from there"
                )
            time.sleep(PAUSE)


def _stream(listing: Listing, file: RemoteFile, partial: Path, have: int, advance: Advance) -> None:
    import httpx2

    with open_file(listing, file.name, have) as response:
        if have and response.status_code != 206:  # a server that knows no ranges sends it all
            advance(-have)
            have = 0
        window_end, window_have = time.monotonic() + LEAST_WINDOW, have
        with partial.open("ab" if have else "wb") as out:
            for block in response.iter_raw():
                have += len(block)
                if have > file.size:
                    raise DownloadError(
                        f"{file.name} of {listing.hub_id} is longer than the {file.size} bytes "
                        "that the hub says it has; try again later"
                    )
                out.write(block)
                advance(len(block))
                if time.monotonic() > window_end:
                    if have - window_have < LEAST_BYTES:
                        raise httpx2.ReadTimeout("as good as nothing comes")
                    window_end, window_have = time.monotonic() + LEAST_WINDOW, have


def _partial(listing: Listing, file: RemoteFile) -> Path:
    return blob(listing, file).with_name(f"{file.digest}.incomplete")


def _digest(path: Path, file: RemoteFile) -> str:
    git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as opened:
        return hashlib.file_digest(
            opened, hashlib.sha256 if len(file.digest) == 64 else lambda: git
        ).hexdigest()


def _place(final: Path, place: Path) -> None:
    """A link from the snapshot to the bytes; the bytes themselves where links are not allowed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    try:
        place.symlink_to(os.path.relpath(final, place.parent))
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            final.replace(place)
