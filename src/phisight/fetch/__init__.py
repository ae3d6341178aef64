"""Opening URLs, the only place that does: a URL goes in, the bytes of its picture come out.

Owns what may be opened and how far redirects are followed; `url` reads URLs, `request` asks,
`connect` decides on addresses. Knows nothing of decoding, models or the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from phisight.errors import UrlError
from phisight.fetch.url import (
    BY_HAND,
    IN_BROWSER,
    data_bytes,
    is_data,
    is_url,
    join,
    parse,
    shorten,
)

__all__ = ["NO_URLS", "PUBLIC_URLS", "UrlPolicy", "fetch", "is_url"]


@dataclass(frozen=True, kw_only=True)
class UrlPolicy:
    """What a caller may open. `seconds` and `max_bytes` are for one picture, all in all."""

    allowed: bool  # http and https; data URLs open no connection and are always read
    private_addresses: bool = False  # also this machine and its own network
    max_bytes: int = 64 * 2**20  # of the body, packed or not; characters of a data URL
    seconds: float = 30.0  # look-up, connecting, TLS, headers, redirects and body
    max_redirects: int = 3


PUBLIC_URLS = UrlPolicy(allowed=True)
NO_URLS = UrlPolicy(allowed=False)


def fetch(url: str, policy: UrlPolicy) -> bytes:
    """The bytes at an http or https URL, or in a data URL; not checked to be a picture's.

    Raises UrlError, in one sentence, for all that goes wrong: a URL or an address that may not be
    opened, a limit passed, a server or network that fails, a web page where a picture should be.
    """
    if is_data(url):
        return data_bytes(url, policy.max_bytes)
    if not policy.allowed:
        raise UrlError(f"{shorten(url)}: URLs are not opened here; {BY_HAND}, or a data URL")
    from phisight.fetch import connect, request  # here, since httpcore2 takes 70 ms to import

    deadline, text = connect.Deadline(policy.seconds), url
    for hop in range(policy.max_redirects + 1):
        try:
            here = parse(text)
            answer = request.get(
                here, deadline, max_bytes=policy.max_bytes, private=policy.private_addresses
            )
            if isinstance(answer, bytes):
                return answer
            text = join(here, answer)
        except UrlError as error:
            if hop == 0:
                raise
            raise UrlError(f"{shorten(url)} redirects to {error}") from None
    raise UrlError(f"{shorten(url)}: more than {policy.max_redirects} redirects; {IN_BROWSER}")
