"""Reading URLs: each is parsed here, once, and every later step uses that one result.

Owns what a URL may look like and how an error shows it; knows nothing of sockets. A text that two
parsers could read differently (a backslash, a user name, a bracket) is refused, never repaired.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, unquote_to_bytes, urljoin

from phisight.errors import UrlError

BY_HAND = "download the picture and give its path"
IN_BROWSER = "open it in a browser and copy the picture's own address"
MAX_URL = 2_000  # characters, data: URLs aside; what browsers and servers agree on
_MAX_SHOWN = 100
_MOST_PERCENT = 2**20  # characters of percent-encoded data: undoing it takes 80 times the memory
_BASE64_ESCAPES = ((b"%2B", b"+"), (b"%2b", b"+"), (b"%2F", b"/"), (b"%2f", b"/"), (b"%3D", b"="))
_MAX_DATA_HEAD = 200  # characters up to the comma of a data: URL

# A scheme has two letters or more, since C:/x is a path. The known ones need no //, so that a
# mistyped http:/x is told from a path too.
_URL = re.compile(r"\s*(?:(?:https?|ftp|file|data):|[a-z][a-z0-9+.-]+://)", re.I)
_HTTP = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.I)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.I)
_IN_TARGET = "!$%&'()*+,;=:@/?[]~"  # sent as they stand; all else is percent-encoded


@dataclass(frozen=True)
class Url:
    """An http or https URL: `host` is lower-case ASCII (IPv6 without brackets), `target` ASCII."""

    scheme: str
    host: str
    port: int
    target: str
    shown: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


def is_url(text: str) -> bool:
    """Whether a string is to be treated as a URL, of any scheme, rather than as a path."""
    return _URL.match(text) is not None


def is_data(text: str) -> bool:
    return text[:5].lower() == "data:"


def parse(text: str) -> Url:
    """The parts of an http or https URL. Raises UrlError for everything else."""
    shown = shorten(text)
    if len(text) > MAX_URL:
        raise UrlError(f"{shown}: {len(text):,} characters; a URL may have {MAX_URL:,}")
    if fault := _fault(text):
        raise UrlError(f"{shown}: a URL holds no {fault}; percent-encode it")
    scheme = text.partition(":")[0].lower()
    if scheme == "file":
        raise UrlError(f"{shown}: file URLs are not opened; give the path itself")
    if scheme not in ("http", "https"):
        raise UrlError(f"{shown}: only http, https and data URLs are opened; {BY_HAND}")
    parts = _HTTP.fullmatch(text)
    if not parts or not parts[2]:
        raise UrlError(f"{shown}: no host; expected {scheme}://host/path")
    if "@" in parts[2]:
        raise UrlError(f"{shown}: a user name in a URL is not sent; {BY_HAND}")
    authority = _AUTHORITY.fullmatch(parts[2])
    port = int((authority and authority[2]) or _default_port(scheme))
    if not authority or not 1 <= port <= 65535:
        # Only the host is shown: what stands for a port may be half of a password.
        host = re.split(r"(?<=\])|:(?![^\[]*\])", parts[2], maxsplit=1)[0]
        raise UrlError(
            f"{shorten(f'{scheme}://{host}')}: after the host comes nothing or a port, 1 to 65535"
        )
    target = quote((parts[3] or "/") + (parts[4] or ""), safe=_IN_TARGET)
    return Url(scheme, _ascii_host(authority[1], shown), port, target, shown)


def join(base: Url, location: str) -> str:
    """The URL a redirect leads to, still to be parsed and checked. Raises UrlError."""
    if fault := _fault(location):  # before urljoin, which drops tabs and line ends
        raise UrlError(f"{base.shown}: redirects to a URL with a {fault}; {IN_BROWSER}")
    try:
        text = urljoin(f"{base.scheme}://{base.authority}{base.target}", location)
    except ValueError:
        text = ""
    scheme = text.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise UrlError(
            f"{base.shown}: redirects to something that is not http or https; {IN_BROWSER}"
        )
    if (base.scheme, scheme) == ("https", "http"):
        raise UrlError(f"{base.shown}: redirects from https to http; {IN_BROWSER}")
    return text


def shorten(text: str) -> str:
    """A URL for an error message: no query (it may hold a token), no user name, 100 characters."""
    if is_data(text):
        return "the data URL"
    text = re.split(r"[?#]", text[: MAX_URL + 1], maxsplit=1)[0]
    text = re.sub(r"^([^/:]*:/*)[^/]*@", r"\1...@", text)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def data_bytes(text: str, limit: int) -> bytes:
    """What a data: URL holds; its text may have `limit` characters. Raises UrlError."""
    comma = text.find(",", 0, _MAX_DATA_HEAD)
    if comma < 0:
        raise UrlError("the data URL has no comma; expected data:image/png;base64,...")
    length = len(text) - comma - 1
    if length > limit:  # before anything is copied: 300 MB of base64 costs nothing
        raise UrlError(
            f"the data URL has {length:,} characters; the limit is {limit:,}. Give a path"
        )
    mime, *options = text[5:comma].lower().split(";")
    if "base64" not in options and length > _MOST_PERCENT:
        raise UrlError(
            f"the data URL has {length:,} characters; without base64 the limit is "
            f"{_MOST_PERCENT:,}. Give a path, or encode it as base64"
        )
    if mime and not mime.startswith("image/") and mime != "application/octet-stream":
        raise UrlError(f"the data URL is of type {shorten(mime)!r}; expected an image/ type")
    try:
        raw = text[comma + 1 :].encode("ascii")
        if "base64" in options:
            for escape, sign in _BASE64_ESCAPES:
                raw = raw.replace(escape, sign)
            raw = raw.translate(None, b" \t\r\n\f")  # wrapped lines, as `base64` writes them
            raw = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
        else:
            raw = unquote_to_bytes(raw)
    except (binascii.Error, UnicodeEncodeError):
        raise UrlError("the data URL is damaged after its comma; encode the picture anew") from None
    if not raw:
        raise UrlError("the data URL has nothing after its comma; encode the picture anew")
    return raw


def _fault(text: str) -> str | None:
    if "\\" in text:
        return "backslash"
    # Not printable: control and format characters, blanks of all kinds, halves of surrogate pairs.
    return "blank or control character" if " " in text or not text.isprintable() else None


def _ascii_host(host: str, shown: str) -> str:
    error = UrlError(f"{shown}: {shorten(host)!r} is not a host name")
    if host.startswith("["):
        try:
            address = IPv6Address(host[1:-1])
        except AddressValueError:
            raise error from None
        if address.scope_id is not None:
            raise error
        return str(address)
    if not host.isascii():
        # IDNA of 2003, all the standard library has. Where it changes a name on the way (ß to ss,
        # full-width digits to digits) browsers may see another host: only a round trip is taken.
        try:
            encoded = host.encode("idna").decode("ascii")
            same = encoded.encode("ascii").decode("idna") == host.lower()
        except UnicodeError:
            raise error from None
        if not same:
            raise UrlError(f"{shown}: {shorten(host)!r} can be read in two ways; write it as xn--")
        host = encoded
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise error
    return host.lower()


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
