"""What the hub is asked, through huggingface_hub's session, token and addresses.

Turns every way a hub can fail into one DownloadError. Writes nothing to disk. Every wait is
bounded: 10 s for a connection and for each piece of an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phisight.errors import DownloadError, OfflineError
from phisight.jsonfile import brief

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 10.0  # seconds
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_CONFIG = 2**20  # bytes of config.json; Phi-3-V's has 4,000
_COPY = "or copy the model's folder from another machine and give its path"


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
    from huggingface_hub import HfApi

    with _in_our_words(hub_id, revision):
        api = HfApi(library_name="phisight")
        info = api.model_info(hub_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
        # Folders of a repository hold other formats; a name is also what keeps us in our folder.
        siblings = [s for s in info.siblings or [] if not re.search(r"[/\\]|^\.", s.rfilename)]
        files = tuple(
            RemoteFile(
                sibling.rfilename,
                (sibling.lfs or sibling).size or 0,
                (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or "",
            )
            for sibling in siblings
        )
        if not re.fullmatch("[0-9a-f]{40}", info.sha or ""):
            raise ValueError("no commit")
        if not all(_DIGEST.fullmatch(file.digest) for file in files):
            raise ValueError("no digests")
        return Listing(hub_id, str(info.sha), files)


def read_config(listing: Listing) -> dict[str, Any]:
    """config.json, from the hub to memory."""
    with _in_our_words(listing.hub_id, listing.commit):
        with open_file(listing, "config.json", 0) as response:
            text = b""
            for block in response.iter_raw():
                text += block
                if len(text) > _MOST_CONFIG:
                    raise ValueError("too long")
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("no object")
        return data


@contextmanager
def open_file(listing: Listing, name: str, offset: int) -> Iterator[httpx2.Response]:
    """The answer that streams a file from an offset on, uncompressed.

    hf_hub_download is not used: as of 2.4 it deletes what has come when it is stopped.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its __all__ is computed
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    url = hf_hub_url(listing.hub_id, name, revision=listing.commit, endpoint=_endpoint())
    headers = build_hf_headers(library_name="phisight") | {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        hf_raise_for_status(response)
        yield response


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


@contextmanager
def _in_our_words(hub_id: str, revision: str) -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise OfflineError(
            f"{hub_id} is not fetched, for HF_HUB_OFFLINE is set: unset it, {_COPY}"
        ) from None
    except HfHubHTTPError as error:
        raise refusal(hub_id, revision, error.response) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
        raise OfflineError(
            f"{_endpoint()} cannot be reached: check the connection, any proxy and HF_ENDPOINT, "
            f"{_COPY}"
        ) from None
    except HFValidationError:
        raise DownloadError(f"{brief(hub_id)} is no id that a hub can have") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # The page of a hotel's network, a proxy's notice, a mirror that leaves half out.
        raise DownloadError(
            f"what {_endpoint()} says of {hub_id} is not a hub's answer: check HF_ENDPOINT and "
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
