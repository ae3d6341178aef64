"""One request and its answer: status, headers, size, compression, and failures in our own words.

Knows HTTP. Where a connection may go is for `connect` to say, where a redirect may lead for `url`.
"""

from __future__ import annotations

import codecs
import socket
import ssl
import zlib
from collections.abc import Iterable, Iterator

import httpcore2

from phisight import __version__
from phisight.errors import UrlError
from phisight.fetch import connect
from phisight.fetch.url import BY_HAND, IN_BROWSER, Url, shorten

_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": f"phisight/{__version__}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
_PLAIN = ("", "identity")
_PACKED = ("gzip", "x-gzip", "deflate")  # some servers pack whatever they are asked
_DISTRUST = {  # by OpenSSL's X509_V_ERR numbers, 0 for all others
    0: "is not signed by an authority this machine trusts",
    10: "has expired",
    62: "is for another host",
    64: "is for another host",
}


def get(url: Url, deadline: connect.Deadline, *, max_bytes: int, private: bool) -> bytes | str:
    """The body of a 200 answer or, as str, the Location of a redirect. Raises UrlError."""
    # From parts: given a string, httpcore2 would parse it again, by other rules.
    target = httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
    try:
        with (
            httpcore2.ConnectionPool(  # by default no retries, no HTTP/2, no proxy
                connect.tls_context() if url.scheme == "https" else None,
                max_connections=1,
                max_keepalive_connections=0,
                network_backend=connect.CheckedBackend(deadline, private=private),
            ) as pool,
            pool.stream("GET", target, headers={"Host": url.authority, **_HEADERS}) as response,
        ):
            fields = _fields(response)
            if response.status in _REDIRECTS and "location" in fields:
                return fields["location"]
            if response.status != 200:
                raise UrlError(
                    f"{url.shown}: {url.host} answered with status {response.status}; "
                    "download the picture in a browser and give its path"
                )
            body = _body(response, fields, url, max_bytes)
    except (OSError, connect.PrivateAddressError, httpcore2.ProtocolError) as error:
        raise UrlError(f"{url.shown}: {_reason(error, url, deadline)}") from None
    _refuse_text(body, url)
    return body


def _fields(response: httpcore2.Response) -> dict[str, str]:
    """Headers by lower-case name; repeated ones are joined by commas."""
    fields: dict[str, str] = {}
    for name, value in response.headers:
        # What is not UTF-8 becomes backslashes, which no URL may hold.
        key, text = name.decode("ascii").lower(), value.decode("utf-8", "backslashreplace")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields


def _body(response: httpcore2.Response, fields: dict[str, str], url: Url, max_bytes: int) -> bytes:
    """The whole body; neither what comes nor what it unpacks to may pass the cap."""
    length = int(fields.get("content-length", "0"))  # digits only, or it would not come this far
    if length > max_bytes:
        raise UrlError(f"{url.shown}: {length:,} bytes; the limit is {max_bytes:,}. Scale it down")
    encoding = fields.get("content-encoding", "").lower()
    if encoding not in _PLAIN + _PACKED:
        raise UrlError(
            f"{url.shown}: {url.host} packed it as {shorten(encoding)!r}, which is not read; "
            f"{BY_HAND}"
        )
    chunks = _capped(response.iter_stream(), url, max_bytes)
    if encoding in _PACKED:
        chunks = _capped(_unpacked(chunks, max_bytes), url, max_bytes)
    try:
        return b"".join(chunks)
    except TimeoutError:
        raise
    except zlib.error:
        raise UrlError(f"{url.shown}: damaged on its way; try again, or {BY_HAND}") from None
    except (OSError, httpcore2.ProtocolError):
        when = f"before its {length:,} bytes had come" if length else "before its end"
        raise UrlError(f"{url.shown}: cut short {when}; try again, or {BY_HAND}") from None


def _capped(chunks: Iterable[bytes], url: Url, max_bytes: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise UrlError(
                f"{url.shown}: more than the limit of {max_bytes:,} bytes. Scale it down"
            )
        yield chunk


def _unpacked(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """gzip or zlib data, unpacked. A bomb gives a piece of max_bytes + 1, for `_capped` to see."""
    unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)
    for chunk in chunks:
        if unpacker.eof:
            raise zlib.error("more data after the end")
        yield unpacker.decompress(chunk, max_bytes + 1)
    if not unpacker.eof or unpacker.unused_data:
        raise zlib.error("no end, or more data after it")


def _refuse_text(body: bytes, url: Url) -> None:
    """Web pages, SVG, JSON and plain text, by their first bytes; what headers claim is no guide."""
    if not body:
        raise UrlError(f"{url.shown}: {url.host} answered with nothing; {IN_BROWSER}")
    head = body[:512].removeprefix(codecs.BOM_UTF8)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last letter may be cut
    except UnicodeDecodeError:
        text = "\0"
    if head.lstrip().startswith((b"<", b"{", b"[")) or all(
        c.isprintable() or c in "\t\n\r\f" for c in text
    ):
        raise UrlError(
            f"{url.shown}: {url.host} answered with a web page (or text), not a picture; "
            f"{IN_BROWSER}"
        )


def _reason(error: Exception, url: Url, deadline: connect.Deadline) -> str:
    """Our own words for what went wrong: a library's may hold addresses, and change."""
    host = url.host
    distrust = _DISTRUST.get(getattr(error, "verify_code", 0), _DISTRUST[0])
    reasons: tuple[tuple[type[Exception], str], ...] = (  # the first that fits: kinds before kin
        # Without the address: it would tell a server's caller what a name means inside.
        (
            connect.PrivateAddressError,
            f"{host} is at a private or local address, which is not opened; {BY_HAND}",
        ),
        (
            TimeoutError,
            f"no whole answer within {deadline.seconds:g} seconds; try again, or {BY_HAND}",
        ),
        (
            socket.gaierror,
            f"no address is known for {host}; check the spelling and your network",
        ),
        (
            ssl.SSLCertVerificationError,
            f"the certificate of {host} {distrust}; {BY_HAND}",
        ),
        (ssl.SSLError, f"no secure connection to {host} could be made; {BY_HAND}"),
        (
            ConnectionRefusedError,
            f"{host} refuses connections at port {url.port}; check the address",
        ),
        (ConnectionError, f"{host} broke the connection off; try again, or {BY_HAND}"),
        (OSError, f"{host} cannot be reached; check the address and your network"),
    )
    garbled = f"{host} did not answer as a web server does; {IN_BROWSER}"
    return next((text for kind, text in reasons if isinstance(error, kind)), garbled)
