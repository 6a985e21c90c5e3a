"""Listening sockets: addresses as they are written ("127.0.0.1:25", "[::1]:25", "*:25"), bound and served.

Knows streams, not what is spoken over them.
"""

import asyncio
import errno
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from mailroot.net.stream import Stream

_BACKLOG = 1024

_ADVICE = {
    errno.EACCES: "permission denied; ports below 1024 want an administrator (or CAP_NET_BIND_SERVICE)",
    errno.EADDRINUSE: "another program listens there already",
    errno.EADDRNOTAVAIL: "this computer has no such address",
    errno.EAFNOSUPPORT: "this computer has no IPv6",
}


class CannotListen(OSError):
    """An address could not be bound; the text names it and says why. `errno` is that of the cause."""

    def __init__(self, address: str, cause: OSError) -> None:
        code = cause.errno or 0
        # Windows has its own numbers: WSAEACCES, WSAEADDRINUSE, WSAEADDRNOTAVAIL.
        code = {10013: errno.EACCES, 10048: errno.EADDRINUSE, 10049: errno.EADDRNOTAVAIL}.get(code, code)
        reason = _ADVICE.get(code, cause.strerror or str(cause))
        super().__init__(code, f"cannot listen on {address}: {reason}")
        self.address = address

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a port; `optional`: it may be missing where the computer has no IPv6."""

    address: str
    port: int
    optional: bool = False

    def __str__(self) -> str:
        return format_endpoint(self.address, self.port)


def format_endpoint(address: str, port: int) -> str:
    """ "127.0.0.1:25", "[::1]:25"."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def parse_listen(text: str) -> tuple[Endpoint, ...]:
    """An entry of `listen`: one address and port, or with `*` every address, IPv4 and IPv6.

    Raises ValueError with what would be right.
    """
    host, colon, port_text = text.strip().rpartition(":")
    if not colon or not (port_text.isascii() and port_text.isdecimal()) or int(port_text) > 65535:
        raise ValueError(
            f"{text!r} is not an address and port; right would be '127.0.0.1:25', '[::1]:25' or '*:25'"
        )
    port = int(port_text)
    if host == "*":
        return Endpoint("0.0.0.0", port), Endpoint("::", port, optional=True)
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(
            f"{text!r}: {host!r} is not an IP address; right would be '127.0.0.1:25', '[::1]:25' or '*:25'"
        ) from None
    if bracketed is not isinstance(address, IPv6Address):
        right = Endpoint(str(address), port)
        raise ValueError(f"{text!r}: only IPv6 addresses stand in brackets; right would be '{right}'")
    return (Endpoint(str(address), port, optional=address.is_loopback and not isinstance(address, IPv4Address)),)


def bind(endpoint: Endpoint) -> socket.socket | None:
    """A socket that listens; None where the endpoint is optional and the computer has no IPv6.

    Raises CannotListen.
    """
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    listening: socket.socket | None = None
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform == "win32":
            # On Windows SO_REUSEADDR would let another program take the port over.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((endpoint.address, endpoint.port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        if listening is not None:
            listening.close()
        refusal = CannotListen(str(endpoint), error)
        if endpoint.optional and refusal.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return None
        raise refusal from None
    return listening


class Server(Protocol):
    """Accepts connections. The listening socket is its own."""

    def close(self) -> None:
        """Accept no more; connections that stand go on."""
        ...

    async def wait_closed(self) -> None:
        """After `close`: return when nothing is left of it."""
        ...


async def serve(listening: socket.socket, new_stream: Callable[[], Stream]) -> Server:
    """Accept connections on a bound socket; each gets a new stream."""
    return await asyncio.get_running_loop().create_server(new_stream, sock=listening, backlog=_BACKLOG)


def second_socket(listening: socket.socket) -> socket.socket | None:
    """The same listening socket once more: it listens on when the first one is closed. None: not on this system,
    where a socket belongs to what served it first (Windows, with its completion ports)."""
    return None if sys.platform == "win32" else listening.dup()
