"""Accepting connections without reading any of them: for those that begin with TLS, or with a PROXY header.

The loops' own servers read as soon as they have accepted. Here a PROXY header is taken from the socket, and not an
octet more; only then is there a stream. What follows may be the client's first word, or TLS, in the same packet.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from mailroot.net.proxy import Introduced, More, ProxyError, read_header
from mailroot.net.stream import Stream

_HEADER_SECONDS = 5.0
_MOST_BEGINNING = 256
"""Connections that have not got a stream yet; no more are accepted then."""
_AT_ONCE = 64
"""Connections accepted before others have their turn."""
_PAUSE = 1.0
"""Seconds until we accept again after there were no more files or memory for it."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How connections begin: with a PROXY header, with TLS, with both, or with neither."""

    proxied: bool = False
    tls: bool = False


class Acceptor:
    """Serves a listening socket, which is its own from now on (see `listener.Server`)."""

    def __init__(
        self,
        listening: socket.socket,
        on_connect: Callable[[Stream, Introduced | None], None],
        manner: Callable[[], Manner],
        *,
        trusts: Callable[[str], bool],
        on_refusal: Callable[[str, str], None],
    ) -> None:
        """`on_connect` is called with each connection, and whom a proxy introduced; None: nobody. `manner` is asked
        for each. `trusts` says whether the proxy at an IP address is believed; `on_refusal` hears of connections
        that were closed without a word: from which IP address, and why, "" for one that `trusts` does not know."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._on_connect = on_connect
        self._manner = manner
        self._trusts = trusts
        self._on_refusal = on_refusal
        self._room = asyncio.Semaphore(_MOST_BEGINNING)
        self._beginning: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept no more. Connections that are beginning go on."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """After `close`: return when nothing is beginning any more; that is cut short."""
        for task in self._beginning:
            task.cancel()
        await asyncio.wait((self._accepting, *self._beginning))

    async def _accept(self) -> None:
        try:
            while True:
                try:
                    await self._take(*await self._loop.sock_accept(self._listening))
                    for _ in range(_AT_ONCE):
                        await self._take(*self._listening.accept())
                    await asyncio.sleep(0)
                except (BlockingIOError, ConnectionError):
                    continue
                except OSError:
                    await asyncio.sleep(_PAUSE)
        finally:
            self._listening.close()

    async def _take(self, connection: socket.socket, address: tuple[str, int] | None) -> None:
        manner = self._manner()
        # Some systems know no address of a peer that is gone already.
        peer = address[0] if address else ""
        if not peer or (manner.proxied and not self._trusts(peer)):
            connection.close()
            if peer:
                self._on_refusal(peer, "")
            return
        connection.setblocking(False)
        try:
            await self._room.acquire()
        except BaseException:
            connection.close()
            raise
        task = self._loop.create_task(self._begin(connection, peer, manner))
        self._beginning.add(task)
        task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        self._room.release()

    async def _begin(self, connection: socket.socket, peer: str, manner: Manner) -> None:
        introduced = None
        try:
            if manner.proxied:
                async with asyncio.timeout(_HEADER_SECONDS):
                    introduced = await self._read_header(connection, peer)
            if manner.tls:
                self._on_connect(Stream(connection=connection), introduced)
            else:
                await self._loop.connect_accepted_socket(
                    lambda: Stream(lambda stream: self._on_connect(stream, introduced)), connection
                )
        except _GoneError:
            connection.close()
        except (ProxyError, TimeoutError, OSError) as error:
            connection.close()
            self._on_refusal(peer, str(error) or "no PROXY header came in time")
        except BaseException:
            connection.close()
            raise

    async def _read_header(self, connection: socket.socket, proxy: str) -> Introduced | None:
        octets = b""
        while isinstance(header := read_header(octets), More):
            try:
                # Most often all of it is there.
                came = connection.recv(header.octets)
            except BlockingIOError:
                came = await self._loop.sock_recv(connection, header.octets)
            if not came and not octets:
                raise _GoneError
            if not came:
                raise ProxyError("the connection ended within its PROXY header")
            octets += came
        return Introduced(header.client, header.port, proxy) if header.client is not None else None


class _GoneError(Exception):
    """Somebody only looked whether the port is open, as load balancers do all day: nothing has happened."""
