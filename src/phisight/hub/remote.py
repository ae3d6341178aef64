"""What the hub is asked, through huggingface_hub's session, token and addresses.

Turns every way a hub can fail into one DownloadError. Writes nothing to disk. Every wait is
bounded: 10 s for a connection and for each piece of an answer, 60 s for all of a small one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from phisight.errors import DownloadError, OfflineError
from phisight.jsonfile import brief

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 10.0  # seconds
DEADLINE = 60.0  # seconds for a listing or a config.json: 70 kB/s for the longest listing
_MOST_LISTING = 4 * 2**20  # bytes; 15,000 files. That of Phi-3-V has 30 kB
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_CONFIG = 2**20  # bytes of config.json; Phi-3-V's has 4,000
_MOST_FILE = 2**50  # bytes
_LONGEST_NAME = 255  # bytes, as file systems have it
_COPY = "or copy the model's folder from another machine and name it: --model PATH"


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub describes it: `digest` is the sha256 of a large file, git's sha1 of a
    small one, and the name under which the cache keeps it."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """A model at one commit: the files at the top of its repository."""

    hub_id: str
    commit: str
    files: tuple[RemoteFile, ...]


def list_files(hub_id: str, revision: str) -> Listing:
    """What the hub has. Raises DownloadError, OfflineError."""
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with _in_our_words(hub_id, revision):
        validate_repo_id(hub_id)
        # Not HfApi.model_info, which reads and unpacks whatever is sent.
        path = f"/api/models/{hub_id}/revision/{quote(revision, safe='')}?blobs=true"
        info = _read_json(_endpoint() + path, _MOST_LISTING)
        commit = info["sha"]
        if not re.fullmatch("[0-9a-f]{40}", commit):
            raise ValueError("no commit")
        siblings = [sibling for sibling in info["siblings"] if _is_ours(sibling["rfilename"])]
        listing = Listing(hub_id, commit, tuple(_described(sibling) for sibling in siblings))
    if re.fullmatch("[0-9a-fA-F]{40}", revision) and revision.lower() != commit:
        raise DownloadError(
            f"{hub_id}: commit {revision[:12]} was asked for, but {_address()} answers with "
            f"{commit[:12]}: check HF_ENDPOINT, and distrust this hub"
        )
    return listing


def read_config(listing: Listing) -> dict[str, Any]:
    """config.json, from the hub to memory. Raises as `list_files`."""
    with _in_our_words(listing.hub_id, listing.commit):
        return _read_json(_file_url(listing, "config.json"), _MOST_CONFIG)


def open_file(listing: Listing, name: str, offset: int) -> AbstractContextManager[httpx2.Response]:
    """The answer that streams a file from an offset on, uncompressed.

    Raises httpx2.HTTPStatusError for a refusal. hf_hub_download is not used: as of 2.4 it deletes
    what has come when it is stopped.
    """
    return _open(_file_url(listing, name), {"Range": f"bytes={offset}-"} if offset else {})


def _is_ours(name: str) -> bool:
    """Whether a name may be that of a file that phisight takes.

    Folders of a repository hold other formats; a name is also what keeps us in our folder. A
    picture's name with a zero-width character must not spoil the model beside it: it is left out.
    """
    odd = re.search(r"[/\\]|^\.", name)  # TypeError for what is no text
    return not odd and name.isprintable() and 0 < len(name.encode()) <= _LONGEST_NAME


def _described(sibling: dict[str, Any]) -> RemoteFile:
    large = sibling.get("lfs")
    size = (large or sibling)["size"]
    digest = large["sha256"] if large else sibling["blobId"]
    if type(size) is not int or not 0 <= size < _MOST_FILE or not _DIGEST.fullmatch(digest):
        raise ValueError("no size or no digest")
    return RemoteFile(sibling["rfilename"], size, digest)


def _read_json(url: str, most: int) -> dict[str, Any]:
    """A JSON object of at most so many bytes. Its text must come by one deadline."""
    import httpx2

    text, end = bytearray(), time.monotonic() + DEADLINE
    with _open(url, {}) as response:
        for block in response.iter_raw():
            text += block
            if len(text) > most:
                raise ValueError("too long")
            if time.monotonic() > end:
                raise httpx2.ReadTimeout("too slow")
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("no object")
    return data


@contextmanager
def _open(url: str, more_headers: dict[str, str]) -> Iterator[httpx2.Response]:
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its __all__ is computed
        build_hf_headers,
        get_session,
    )

    headers = build_hf_headers(library_name="phisight") | {"Accept-Encoding": "identity"}
    headers |= more_headers
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        response.raise_for_status()  # hf_raise_for_status would read the page that tells why
        yield response


def _file_url(listing: Listing, name: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(listing.hub_id, name, revision=listing.commit, endpoint=_endpoint())


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _address() -> str:
    """The hub's address without what may be a secret: a name and a password, a query."""
    address = re.split("[?#]", _endpoint())[0]
    scheme, mark, rest = address.rpartition("://")
    return scheme + mark + rest.rpartition("@")[2]


@contextmanager
def _in_our_words(hub_id: str, revision: str) -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise OfflineError(
            f"{hub_id} is not fetched, for HF_HUB_OFFLINE is set: unset it, {_COPY}"
        ) from None
    except httpx2.HTTPStatusError as error:
        raise refusal(hub_id, revision, error.response) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
        raise OfflineError(
            f"{_address()} cannot be reached: check the connection, any proxy and HF_ENDPOINT, "
            f"{_COPY}"
        ) from None
    except HFValidationError:
        raise DownloadError(f"{brief(hub_id)} is no id that a hub can have") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # The page of a hotel's network, a proxy's notice, a mirror that leaves half out.
        raise DownloadError(
            f"what {_address()} says of {hub_id} is not a hub's answer: check HF_ENDPOINT and "
            "whether this network wants a sign-in"
        ) from None


def refusal(hub_id: str, revision: str, response: httpx2.Response) -> DownloadError:
    """What a status means, and what to do about it."""
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if status == 403 or code == "GatedRepo":
        return DownloadError(
            f"{hub_id}: the hub does not let you have it ({status}): accept the model's terms on "
            "its page, then: hf auth login"
        )
    if code == "RevisionNotFound":
        return DownloadError(f"{hub_id} has no revision {brief(revision)}")
    if status == 401:
        return DownloadError(
            f"{hub_id}: the hub wants a login (401), or there is no such model: check the id, "
            "then: hf auth login"
        )
    if status == 404:
        return DownloadError(f"{hub_id}: the hub has no such model (404): check the id")
    return DownloadError(f"{hub_id}: the hub answers {status}: try again later")
