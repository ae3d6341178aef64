"""Connections that go only where they may, and end when they must.

Owns the look-up, the public-address rule, sockets and TLS; knows nothing of URLs or of HTTP.
Environment proxies are not used: httpcore2 reads none (httpx2, above it, would), and addresses
behind a proxy cannot be checked.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpcore2

Found = list[tuple[int, tuple[Any, ...]]]  # address families and socket addresses

# Global by this Python's ipaddress, but no place for pictures: 192.0.0.0/24 holds Oracle's metadata
# address, 192.88.99.0/24 old relays, 168.63.129.16 is Azure's, 3fff::/20 is for documentation.
_NOT_PUBLIC = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20"))
)
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")  # all that is given out; ipaddress calls far more global


class PrivateAddressError(Exception):
    """A host has an address outside the public internet."""


class Deadline:
    """One moment by which everything must be done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, above 0. Raises TimeoutError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def is_public(text: str) -> bool:
    """Whether an IP address is of the public internet; one wrapped in IPv6 counts as itself."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if wrapped is None and address in _NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if address not in _UNICAST or address.teredo:
            return False
    special = address.is_multicast or address.is_reserved
    return address.is_global and not special and not any(address in net for net in _NOT_PUBLIC)


def tls_context() -> ssl.SSLContext:
    """The machine's own authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    return httpcore2.default_ssl_context()


class CheckedBackend(httpcore2.NetworkBackend):
    """Looks a host up once, checks every address, and connects to the very ones checked.

    Raises PrivateAddressError, or OSError of any kind, TimeoutError at the deadline.
    """

    def __init__(self, deadline: Deadline, *, private: bool) -> None:
        self._deadline, self._private = deadline, private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        found = _look_up(host, port, self._deadline)
        # All of them: a name with a public and a private address is somebody's trick.
        if not self._private and not all(is_public(address[0]) for _, address in found):
            raise PrivateAddressError
        failure: OSError = socket.gaierror()
        for tried, (family, address) in enumerate(found):
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                # An equal share of what is left: a dead IPv6 route must not eat it all.
                connection.settimeout(self._deadline.left() / (len(found) - tried))
                connection.connect(address)
                return _TimedStream(connection, self._deadline)
            except OSError as error:
                connection.close()
                failure = error
        raise failure


class _TimedStream(httpcore2.NetworkStream):
    """A socket whose every operation gets what is left of the deadline; `timeout` has no say."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._socket, self._deadline = connection, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(self._deadline.left())
        return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._socket.settimeout(self._deadline.left())
        self._socket.sendall(buffer)  # its timeout is for the whole, not for each packet

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            self._socket.settimeout(self._deadline.left())  # for the handshake as a whole
            secure = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except BaseException:
            self.close()
            raise
        return _TimedStream(secure, self._deadline)


def _look_up(host: str, port: int, deadline: Deadline) -> Found:
    """The addresses of a host, each once, in the resolver's order."""
    found: Found = []
    failures: list[OSError] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys((family, address) for family, *_, address in answers))
        except OSError as error:
            failures.append(error)

    # getaddrinfo takes no timeout; a thread that outlives the deadline ends with the resolver's.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(deadline.left())
    if failures:
        raise failures[0]
    if not found:
        raise TimeoutError
    return found
