"""Opening URLs: every trick that leads somewhere else, never ends, or is no picture at all."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import io
import socket
import ssl
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import trustme
from PIL import Image

import phisight
from phisight.errors import UrlError
from phisight.fetch import NO_URLS, PUBLIC_URLS, UrlPolicy, connect, fetch, is_url

LOCAL = UrlPolicy(allowed=True, private_addresses=True, max_bytes=100_000, seconds=5.0)
BY_HAND = "download the picture and give its path"
IN_BROWSER = "open it in a browser and copy the picture's own address"
SAVE_IT = "download the picture in a browser and give its path"
PRIVATE = f"is at a private or local address, which is not opened; {BY_HAND}"
Reply = Callable[[bytes], Iterable[bytes]]


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((40, 24)).save(buffer, format)
    return buffer.getvalue()


PNG = encoded("PNG")


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole HTTP/1.1 answer; Content-Length unless the headers say how long it is."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(h.startswith(("Content-Length", "Transfer-Encoding")) for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Server:
    """A loopback server that sends what `reply` gives, piece by piece, then hangs up."""

    def __init__(self, reply: Reply, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
        self.requests: list[bytes] = []
        self.connections = 0
        self._reply, self._tls = reply, tls
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.connections < 0:  # told to stop
                connection.close()
                return
            self.connections += 1
            self._threads.append(
                threading.Thread(target=self._serve, args=(connection,), daemon=True)
            )
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(3)
            stream = (
                self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            )
            with stream:
                request = b""
                while not request.endswith(b"\r\n\r\n") and (part := stream.recv(65536)):
                    request += part
                    if not request.startswith(b"GET "):  # a TLS hello
                        break
                self.requests.append(request)
                for piece in self._reply(request):
                    stream.sendall(piece)

    def stop(self) -> int:
        """How many connections there were."""
        connections, self.connections = self.connections, -1
        with contextlib.suppress(OSError), socket.socket() as last:
            last.connect(self._listener.getsockname())  # so that accept() returns
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        self._listener.close()
        return connections


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(reply: Reply | bytes, **options: object) -> Server:
        whole = reply
        server = Server((lambda _: [whole]) if isinstance(whole, bytes) else whole, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.connections >= 0:
            server.stop()


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The only names there are; look-ups are noted under '?'. Numbers go to the real resolver."""
    table: dict[str, list[str]] = {"?": []}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: object, **options: object) -> list[object]:
        if not any(c.isalpha() for c in host) or ":" in host or host.startswith("0x"):
            return real(host, port, *args, **options)  # type: ignore[arg-type, call-overload]
        table["?"].append(host)
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, port, 0, 0))
            if ":" in a
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in table[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


@pytest.fixture
def here_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 passes for public; 127.0.0.2 and all else are judged as always."""
    real = connect.is_public
    monkeypatch.setattr(connect, "is_public", lambda a: a == "127.0.0.1" or real(a))


def refusal(url: str, policy: UrlPolicy = LOCAL) -> str:
    with pytest.raises(UrlError) as caught:
        fetch(url, policy)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# What is a URL, and which may be asked for at all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host/x.png", True),
        ("HTTPS://host", True),
        ("  https://host", True),
        ("http:/host/x.png", True),
        ("data:image/png;base64,AA", True),
        ("file:///etc/passwd", True),
        ("file:x.png", True),
        ("ftp://host/x", True),
        ("s3://bucket/x.png", True),
        ("git+ssh://host", True),
        ("x.png", False),
        ("C:\\x.png", False),
        ("C:/x.png", False),
        ("c://x.png", False),
        ("\\\\server\\share\\x.png", False),
        ("//server/share/x.png", False),
        ("./http://x", False),
        ("a:b.png", False),
        ("scan 10:30.png", False),
        ("", False),
    ],
)
def test_what_is_a_url(text: str, expected: bool) -> None:
    assert is_url(text) is expected


LONG = "http://host/" + "a" * 2000
NOT_A_HOST = "is not a host name"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "file:///etc/passwd",
            "file:///etc/passwd: file URLs are not opened; give the path itself",
        ),
        *(
            (url, f"{url}: only http, https and data URLs are opened; {BY_HAND}")
            for url in ("ftp://host/x.png", "gopher://host/x", "jar:file://x", "s3://b/x")
        ),
        (
            "http://ok\\@evil/",
            "http://...@evil/: a URL holds no backslash; percent-encode it",
        ),
        *(
            (url, f"{shown}: a URL holds no blank or control character; percent-encode it")
            for url, shown in [
                ("http://host/a b", "http://host/a b"),
                (" http://host/", " http://host/"),
                ("http://ho\tst/", "http://ho?st/"),
                ("http://host/\r\nX: y", "http://host/??X: y"),
                ("http://host/\x00", "http://host/?"),
                ("http://host/\u3000", "http://host/?"),
                ("http://host/\udcff", "http://host/?"),
            ]
        ),
        *(
            (url, f"{shown}: a user name in a URL is not sent; {BY_HAND}")
            for url, shown in [
                ("http://user:secret@host/x", "http://...@host/x"),
                ("http://@host/", "http://...@host/"),
                ("https://a@b@host/?t=1", "https://...@host/"),
            ]
        ),
        ("http://", "http://: no host; expected http://host/path"),
        ("http:/host/x", "http:/host/x: no host; expected http://host/path"),
        ("https:host", "https:host: no host; expected https://host/path"),
        ("http:///x", "http:///x: no host; expected http://host/path"),
        *(
            (url, f"{shown}: after the host comes nothing or a port, 1 to 65535")
            for url, shown in [
                ("http://host:99999/", "http://host"),
                ("http://host:0/", "http://host"),
                ("http://host:/", "http://host"),
                ("http://host:8o/", "http://host"),
                ("http://host:+80/", "http://host"),
                ("http://user:pass/word@host/", "http://user"),
                ("http://[::1]:x/", "http://[::1]"),
                ("http://[::1]evil.test/", "http://[::1]"),
                ("http://evil[::1]/", "http://evil[::1]"),
            ]
        ),
        *(
            (f"http://{host}/", f"http://{host}/: {host!r} {NOT_A_HOST}")
            for host in (
                "%31%32%37.0.0.1",
                "a..b",
                "host.",
                "a" * 64,
                "a,b",
                "-a",
                "[::g]",
                "[fe80::1%eth0]",
                "[]",
            )
        ),
        ("http://:80/", "http://:80/: '' is not a host name"),
        *(
            (
                f"http://{host}/",
                f"http://{host}/: {host!r} can be read in two ways; write it as xn--",
            )
            for host in ("\uff11\uff12\uff17.0.0.1", "fa\u00df.de", "a\u3002test", "\u24d4vil.test")
        ),
        (LONG, f"{LONG[:97]}...: 2,012 characters; a URL may have 2,000"),
    ],
)
def test_what_is_refused_before_anything_is_asked(
    url: str, message: str, names: dict[str, list[str]]
) -> None:
    assert refusal(url) == message
    assert len(message) < 250
    assert names["?"] == []


@pytest.mark.parametrize("url", ["http://host/x?token=1", "file:///etc/passwd", "ftp://host"])
def test_where_urls_are_switched_off(url: str, names: dict[str, list[str]]) -> None:
    shown = url.partition("?")[0]
    assert refusal(url, NO_URLS) == (f"{shown}: URLs are not opened here; {BY_HAND}, or a data URL")
    assert names["?"] == []


# data URLs


def test_data_urls() -> None:
    text = base64.b64encode(PNG).decode()
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    for url in (
        f"data:image/png;base64,{text}",
        f"DATA:image/png;charset=x;BASE64,{text}",
        f"data:;base64,{text}",
        f"data:application/octet-stream;base64,{text.rstrip('=')}",
        f"data:image/png;base64,{wrapped}\n",
        f"data:image/png;base64,{text.replace('+', '%2B').replace('=', '%3D')}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    ):
        assert fetch(url, NO_URLS) == PNG  # nothing is asked of a network: always allowed


DAMAGED = "the data URL is damaged after its comma; encode the picture anew"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64", "the data URL has no comma; expected data:image/png;base64,..."),
        ("data:text/html,<p>", "the data URL is of type 'text/html'; expected an image/ type"),
        ("data:image/png;base64,A", DAMAGED),
        ("data:image/png;base64,AA!A", DAMAGED),
        ("data:image/png;base64,AA-_", DAMAGED),
        ("data:image/png;base64,AA==AA==", DAMAGED),
        ("data:image/png;base64,\u00e4AAA", DAMAGED),
        ("data:image/png,\udcff", DAMAGED),
        ("data:,", "the data URL has nothing after its comma; encode the picture anew"),
    ],
)
def test_data_urls_that_are_refused(url: str, message: str) -> None:
    assert refusal(url, PUBLIC_URLS) == message


def test_percent_encoding_has_a_smaller_limit_since_it_takes_more_memory() -> None:
    url = "data:image/png," + "%41" * 400_000
    tracemalloc.start()
    try:
        assert refusal(url, NO_URLS) == (
            "the data URL has 1,200,000 characters; without base64 the limit is 1,048,576. "
            "Give a path, or encode it as base64"
        )
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_huge_data_url_is_refused_before_it_is_decoded() -> None:
    url = "data:image/png;base64,".ljust(22 + 300_000_000, "A")
    tracemalloc.start()
    try:
        assert is_url(url)
        assert refusal(url, PUBLIC_URLS) == (
            "the data URL has 300,000,000 characters; the limit is 67,108,864. Give a path"
        )
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "168.63.129.16",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "4000::1",
        "100::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not connect.is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.215.14",
        "2606:4700:4700::1111",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_addresses_that_are_public(address: str) -> None:
    assert connect.is_public(address)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("169.254.169.254", "169.254.169.254"),
        ("2130706433", "2130706433"),
        ("0x7f.1", "0x7f.1"),
        ("0x7f000001", "0x7f000001"),
        ("0177.0.0.1", "0177.0.0.1"),
        ("127.1", "127.1"),
        ("0", "0"),
        ("0.0.0.0", "0.0.0.0"),
        ("[::ffff:127.0.0.1]", "::ffff:7f00:1"),
        ("[0:0:0:0:0:ffff:7f00:1]", "::ffff:7f00:1"),
        ("intra.test", "intra.test"),
        ("both.test", "both.test"),
        ("INTRA.test", "intra.test"),
    ],
)
def test_private_addresses_are_not_connected_to(
    host: str, named: str, serve: Serve, names: dict[str, list[str]]
) -> None:
    server = serve(answer(PNG))
    names |= {"intra.test": ["127.0.0.1"], "both.test": ["8.8.8.8", "127.0.0.1"]}
    url = f"http://{host}:{server.port}/x.png"
    assert refusal(f"{url}?key=1", PUBLIC_URLS) == f"{url}: {named} {PRIVATE}"
    assert server.stop() == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_private_addresses_when_allowed(host: str, serve: Serve) -> None:
    server = serve(answer(PNG))
    assert fetch(f"http://{host}:{server.port}/x.png", LOCAL) == PNG


@pytest.mark.usefixtures("here_is_public")
def test_the_address_that_was_checked_is_the_one_connected_to(
    serve: Serve, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(answer(PNG))
    look_ups: list[str] = []

    def rebinding(host: str, port: int, *_: object, **__: object) -> list[object]:
        look_ups.append(host)
        address = "127.0.0.1" if len(look_ups) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch(f"http://rebind.test:{server.port}/x.png", replace(PUBLIC_URLS, seconds=5)) == PNG
    assert look_ups == ["rebind.test"]
    assert server.stop() == 1
    look_ups[:] = ["rebind.test"]  # the next look-up says 127.0.0.2
    assert PRIVATE in refusal(f"http://rebind.test:{server.port}/x.png", PUBLIC_URLS)


def test_addresses_are_tried_in_turn(serve: Serve, names: dict[str, list[str]]) -> None:
    server = serve(answer(PNG))
    names["two.test"] = ["::1", "127.0.0.1"]  # nobody listens at the first
    assert fetch(f"http://two.test:{server.port}/x.png", LOCAL) == PNG


def test_a_dead_address_does_not_eat_the_time_of_the_next(
    serve: Serve, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Socket(socket.socket):
        def connect(self, address: tuple[object, ...]) -> None:
            if address[0] == "127.0.0.2":  # as a route that swallows everything
                time.sleep(self.gettimeout() or 0)
                raise TimeoutError
            super().connect(address)

    server = serve(answer(PNG))
    names["dead.test"] = ["127.0.0.2", "127.0.0.1"]
    monkeypatch.setattr(socket, "socket", Socket)
    assert fetch(f"http://dead.test:{server.port}/x.png", replace(LOCAL, seconds=0.8)) == PNG


def test_environment_proxies_are_not_used(
    serve: Serve, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(answer(b"proxied")), serve(answer(PNG))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    names["pictures.test"] = ["127.0.0.1"]
    assert fetch(f"http://pictures.test:{server.port}/x.png", LOCAL) == PNG
    assert proxy.stop() == 0


# Requests and good answers


def test_the_request(serve: Serve, names: dict[str, list[str]]) -> None:
    server = serve(answer(PNG))
    names["xn--bcher-kva.test"] = ["127.0.0.1"]
    fetch(f"HTTP://B\u00fccher.test:{server.port}/\u00e4/a%20b^?q=1&r[]=\u20ac#part", LOCAL)
    assert server.requests[0].decode().split("\r\n") == [
        "GET /%C3%A4/a%20b%5E?q=1&r[]=%E2%82%AC HTTP/1.1",
        f"Host: xn--bcher-kva.test:{server.port}",
        f"User-Agent: phisight/{phisight.__version__}",
        "Accept: image/*",
        "Accept-Encoding: identity",
        "Connection: close",
        "",
        "",
    ]
    fetch(f"http://[::ffff:7f00:1]:{server.port}?q", LOCAL)
    assert server.requests[1].decode().split("\r\n")[:2] == [
        "GET /?q HTTP/1.1",
        f"Host: [::ffff:7f00:1]:{server.port}",
    ]
    assert server.stop() == 2


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_pictures_come_back_as_they_are(format: str, serve: Serve) -> None:
    picture = encoded(format)
    server = serve(answer(picture, "Content-Type: text/html"))  # what headers claim is no guide
    assert fetch(f"http://127.0.0.1:{server.port}/x", LOCAL) == picture


CHUNKED = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (PNG[:10], PNG[10:])) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        answer(CHUNKED, "Transfer-Encoding: chunked"),
        b"HTTP/1.0 200 OK\r\n\r\n" + PNG,
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(PNG),
        answer(gzip.compress(PNG), "Content-Encoding: gzip"),
        answer(gzip.compress(PNG), "content-encoding: X-GZIP"),
        answer(zlib.compress(PNG), "Content-Encoding: deflate"),
        answer(PNG, "Content-Encoding: identity"),
        answer(PNG + b"more than was promised", f"Content-Length: {len(PNG)}"),
    ],
    ids=["chunked", "http-1.0", "100", "gzip", "x-gzip", "deflate", "identity", "length-too-small"],
)
def test_ways_of_sending(reply: bytes, serve: Serve) -> None:
    server = serve(lambda _: [reply[:30], reply[30:]])
    assert fetch(f"http://127.0.0.1:{server.port}/x", LOCAL) == PNG


# Redirects


def steps(count: int, code: int = 302) -> Reply:
    """/0 leads to /1 and so on, in relative URLs, until /count, the picture."""

    def reply(request: bytes) -> list[bytes]:
        step = int(request.split()[1][1:])
        if step == count:
            return [answer(PNG)]
        return [answer(b"", f"Location: {step + 1}", status=f"{code} Moved")]

    return reply


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_three_redirects_are_followed(code: int, serve: Serve) -> None:
    server = serve(steps(3, code))
    assert fetch(f"http://127.0.0.1:{server.port}/0", LOCAL) == PNG
    assert server.stop() == 4


def test_four_redirects_are_not_followed(serve: Serve) -> None:
    server = serve(steps(4))
    url = f"http://127.0.0.1:{server.port}/0"
    assert refusal(url) == f"{url}: more than 3 redirects; {IN_BROWSER}"
    assert server.stop() == 4


OTHER = f"redirects to something that is not http or https; {IN_BROWSER}"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://127.0.0.2/x", f" redirects to http://127.0.0.2/x: 127.0.0.2 {PRIVATE}"),
        ("http://[::1]/x?t=1", f" redirects to http://[::1]/x: ::1 {PRIVATE}"),
        ("//2130706434/", f" redirects to http://2130706434/: 2130706434 {PRIVATE}"),
        ("file:///etc/passwd", f": {OTHER}"),
        ("data:image/png;base64,AAAA", f": {OTHER}"),
        ("FTP://host/", f": {OTHER}"),
        ("http://[", f": {OTHER}"),
        ("/\\evil.test/", f": redirects to a URL with a backslash; {IN_BROWSER}"),
        ("/caf\xe9", f": redirects to a URL with a backslash; {IN_BROWSER}"),
        ("/a b", f": redirects to a URL with a blank or control character; {IN_BROWSER}"),
        ("/a\tb", f": redirects to a URL with a blank or control character; {IN_BROWSER}"),
        (
            "http://user:pw@host/",
            " redirects to http://...@host/: a user name in a URL is not sent; " + BY_HAND,
        ),
        (
            "http://nowhere.test/",
            " redirects to http://nowhere.test/: no address is known for nowhere.test; "
            "check the spelling and your network",
        ),
    ],
)
@pytest.mark.usefixtures("here_is_public")
def test_redirects_are_checked_from_scratch(location: str, message: str, serve: Serve) -> None:
    server = serve(answer(b"", f"Location: {location}", status="302 Found"))
    url = f"http://127.0.0.1:{server.port}/x"
    assert refusal(url, PUBLIC_URLS) == url + message
    assert server.stop() == 1


# Limits of time


def slow_reply(prefix: bytes, piece: bytes) -> Reply:
    """A prefix, then a piece every 50 ms for one second."""

    def reply(_: bytes) -> Iterator[bytes]:
        yield prefix
        for _ in range(20):
            time.sleep(0.05)
            yield piece

    return reply


@pytest.mark.parametrize(
    "reply",
    [
        slow_reply(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        slow_reply(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        slow_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"\x89"),
        slow_reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        slow_reply(b"", b""),
    ],
    ids=["headers", "continues", "body", "chunks", "silence"],
)
def test_a_slow_drip_ends_at_the_deadline(reply: Reply, serve: Serve) -> None:
    server = serve(reply)
    url = f"http://127.0.0.1:{server.port}/x"
    message = refusal(url, replace(LOCAL, seconds=0.3))
    # Not what is said where the server ends first, after a second.
    assert message == f"{url}: no whole answer within 0.3 seconds; try again, or {BY_HAND}"


def test_redirects_share_one_deadline(serve: Serve) -> None:
    def reply(_: bytes) -> Iterator[bytes]:
        time.sleep(1.0)
        yield answer(b"", "Location: /y", status="302 Found")

    url = f"http://127.0.0.1:{serve(reply).port}/x"
    message = refusal(url, replace(LOCAL, seconds=1.8))
    assert message.startswith(f"{url} redirects to {url[:-1]}y: no whole answer within 1.8 seconds")


def test_a_slow_look_up_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> list[object]:
        time.sleep(0.6)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    message = refusal("http://slow.test/", replace(LOCAL, seconds=0.1))
    assert message == (
        f"http://slow.test/: no whole answer within 0.1 seconds; try again, or {BY_HAND}"
    )


def test_a_slow_handshake_ends_at_the_deadline(serve: Serve) -> None:
    server = serve(slow_reply(b"", b""))  # takes the client's hello for a request, and is silent
    message = refusal(f"https://127.0.0.1:{server.port}/", replace(LOCAL, seconds=0.3))
    assert "no whole answer within 0.3 seconds" in message


# Limits of size, and broken answers


def endless(head: bytes, piece: bytes) -> Reply:
    def reply(_: bytes) -> Iterator[bytes]:
        yield head
        while True:
            yield piece

    return reply


EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"  # of deflate: five bytes that unpack to none
GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            answer(b"", "Content-Length: 100001"),
            "100,001 bytes; the limit is 100,000. Scale it down",
        ),
        (
            endless(b"HTTP/1.1 200 OK\r\n\r\n", b"\x89" * 8192),
            "more than the limit of 100,000 bytes. Scale it down",
        ),
        (
            endless(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1000\r\n" + b"\x89" * 4096 + b"\r\n",
            ),
            "more than the limit of 100,000 bytes. Scale it down",
        ),
        (
            answer(gzip.compress(bytes(20_000_000)), "Content-Encoding: gzip"),
            "more than the limit of 100,000 bytes. Scale it down",
        ),
        (
            endless(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + GZIP_HEAD, EMPTY_BLOCK * 999
            ),
            "more than the limit of 100,000 bytes. Scale it down",
        ),
        (
            endless(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(PNG),
                b"\x89" * 8192,
            ),
            f"damaged on its way; try again, or {BY_HAND}",
        ),
        (
            answer(PNG, "Content-Encoding: br"),
            f"127.0.0.1 packed it as 'br', which is not read; {BY_HAND}",
        ),
        (
            answer(PNG, "Content-Encoding: gzip", "Content-Encoding: gzip"),
            f"127.0.0.1 packed it as 'gzip, gzip', which is not read; {BY_HAND}",
        ),
        *(
            (answer(body, "Content-Encoding: gzip"), f"damaged on its way; try again, or {BY_HAND}")
            for body in (
                PNG,
                gzip.compress(PNG)[:-9],
                gzip.compress(PNG) * 2,
                b"",
            )
        ),
        (
            answer(PNG, "Content-Length: 5000"),
            f"cut short before its 5,000 bytes had come; try again, or {BY_HAND}",
        ),
        (
            answer(CHUNKED[:-5], "Transfer-Encoding: chunked"),
            f"cut short before its end; try again, or {BY_HAND}",
        ),
        (answer(b""), f"127.0.0.1 answered with nothing; {IN_BROWSER}"),
        *(
            (reply, f"127.0.0.1 did not answer as a web server does; {IN_BROWSER}")
            for reply in (
                b"",
                b"SSH-2.0-OpenSSH_9.6\r\n",
                b"\x00" * 5000,
                answer(PNG, "Content-Length: -1"),
                answer(PNG, "Content-Length: 5", "Content-Length: 6"),
                b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 300_000,
            )
        ),
    ],
)
def test_answers_that_are_refused(reply: Reply | bytes, message: str, serve: Serve) -> None:
    url = f"http://127.0.0.1:{serve(reply).port}/x.png"
    assert refusal(f"{url}?token=1", LOCAL) == f"{url}: {message}"


def test_a_picture_of_just_the_limit(serve: Serve) -> None:
    plain = serve(answer(PNG))
    packed = serve(answer(gzip.compress(PNG), "Content-Encoding: gzip"))
    for server in (plain, packed):
        url = f"http://127.0.0.1:{server.port}/x.png"
        policy = replace(LOCAL, max_bytes=max(len(PNG), len(gzip.compress(PNG))))
        assert fetch(url, policy) == PNG
        assert "limit" in refusal(url, replace(LOCAL, max_bytes=len(PNG) - 1))


def test_a_bomb_is_not_unpacked(serve: Serve) -> None:
    server = serve(answer(gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"))
    tracemalloc.start()
    try:
        refusal(f"http://127.0.0.1:{server.port}/x.png")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html>",
        b"\xef\xbb\xbf \r\n<html>\x00",
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        b'{"error": "not found"}',
        b"[1]",
        b"Not found\n",
        "Nicht gefunden: \u00e4".encode() * 40,
        "\u00e4".encode() * 300 + b"x",
    ],
)
def test_what_is_no_picture(body: bytes, serve: Serve) -> None:
    server = serve(answer(body, "Content-Type: image/png"))
    url = f"http://127.0.0.1:{server.port}/x.png"
    assert refusal(url) == (
        f"{url}: 127.0.0.1 answered with a web page (or text), not a picture; {IN_BROWSER}"
    )


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 429, 500, 503])
def test_statuses(status: int, serve: Serve) -> None:
    body = b"" if status in (204, 304) else b"<html>no</html>"
    url = f"http://127.0.0.1:{serve(answer(body, status=f'{status} Whatever')).port}/x.png"
    assert refusal(url) == f"{url}: 127.0.0.1 answered with status {status}; {SAVE_IT}"


def test_a_redirect_to_nowhere_is_a_status(serve: Serve) -> None:
    url = f"http://127.0.0.1:{serve(answer(b'', status='302 Found')).port}/x.png"
    assert refusal(url) == f"{url}: 127.0.0.1 answered with status 302; {SAVE_IT}"


def test_failures_of_the_network(names: dict[str, list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/x.png"
    assert refusal(url) == f"{url}: 127.0.0.1 refuses connections at port {port}; check the address"
    assert refusal("http://nowhere.test/x") == (
        "http://nowhere.test/x: no address is known for nowhere.test; "
        "check the spelling and your network"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> None:
            connection, _ = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        thread = threading.Thread(target=reset, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        assert refusal(url) == f"{url}: 127.0.0.1 broke the connection off; try again, or {BY_HAND}"
        thread.join()
    names["far.test"] = ["224.0.0.1"]  # TCP cannot connect to a multicast address
    assert refusal("http://far.test/x") == (
        "http://far.test/x: far.test cannot be reached; check the address and your network"
    )


def test_messages_hold_no_secrets_and_stay_short(serve: Serve) -> None:
    server = serve(answer(b"", status="403 Forbidden"))
    start = f"http://127.0.0.1:{server.port}/"
    message = refusal(start + "a" * 500 + "?token=secret#secret")
    assert message == (
        f"{start}{'a' * (97 - len(start))}...: 127.0.0.1 answered with status 403; {SAVE_IT}"
    )


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' authority is one this machine trusts."""

    def context() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    monkeypatch.setattr(connect, "tls_context", context)


def tls(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_the_host_is_accepted(
    authority: trustme.CA, serve: Serve, names: dict[str, list[str]]
) -> None:
    names["pictures.test"] = ["127.0.0.1"]
    server = serve(answer(PNG), tls=tls(authority.issue_cert("pictures.test")))
    assert fetch(f"https://pictures.test:{server.port}/x.png", LOCAL) == PNG
    assert f"Host: pictures.test:{server.port}\r\n".encode() in server.requests[0]
    # Neither the address nor another name will do.
    for host in ("127.0.0.1", "other.test"):
        names["other.test"] = ["127.0.0.1"]
        url = f"https://{host}:{server.port}/x.png"
        assert refusal(url) == f"{url}: the certificate of {host} is for another host; {BY_HAND}"
    numbered = serve(answer(PNG), tls=tls(authority.issue_cert("127.0.0.1")))
    assert fetch(f"https://127.0.0.1:{numbered.port}/x.png", LOCAL) == PNG
    url = f"https://pictures.test:{numbered.port}/x.png"
    assert refusal(url) == f"{url}: the certificate of pictures.test is for another host; {BY_HAND}"


def test_a_certificate_of_nobody_is_refused(authority: trustme.CA, serve: Serve) -> None:
    server = serve(answer(PNG), tls=tls(authority.issue_cert("127.0.0.1")))
    url = f"https://127.0.0.1:{server.port}/x.png"
    assert refusal(url) == (
        f"{url}: the certificate of 127.0.0.1 is not signed by an authority this machine trusts; "
        f"{BY_HAND}"
    )
    assert server.requests == []


@pytest.mark.usefixtures("trusted")
def test_an_expired_certificate_is_refused(authority: trustme.CA, serve: Serve) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    leaf = authority.issue_cert("127.0.0.1", not_before=past, not_after=past.replace(year=2021))
    url = f"https://127.0.0.1:{serve(answer(PNG), tls=tls(leaf)).port}/x.png"
    assert refusal(url) == f"{url}: the certificate of 127.0.0.1 has expired; {BY_HAND}"


def test_a_server_without_tls(serve: Serve) -> None:
    url = f"https://127.0.0.1:{serve(answer(PNG)).port}/x.png"
    assert refusal(url) == f"{url}: no secure connection to 127.0.0.1 could be made; {BY_HAND}"


@pytest.mark.usefixtures("trusted")
def test_a_redirect_from_https_to_http_is_not_followed(authority: trustme.CA, serve: Serve) -> None:
    plain = serve(answer(PNG))
    reply = answer(b"", f"Location: http://127.0.0.1:{plain.port}/", status="302 Found")
    secure = serve(reply, tls=tls(authority.issue_cert("127.0.0.1")))
    url = f"https://127.0.0.1:{secure.port}/x.png"
    assert refusal(url) == f"{url}: redirects from https to http; {IN_BROWSER}"
    assert plain.stop() == 0
