"""A connection that owns its bytes: read what has come, write, switch to TLS, each wait with a deadline.

Unlike asyncio's StreamReader it keeps nothing back: `read` hands over all that has arrived, so at the moment of
STARTTLS we know whether a byte came too early. Such a byte was sent in the clear and must not be taken for
encrypted (RFC 3207 §4.2, CVE-2021-38371); `start_tls` refuses then.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

_HIGH_WATER = 256 * 1024


class StreamClosed(ConnectionError):
    """The peer is gone, or we closed."""


class EarlyData(ConnectionError):
    """Bytes arrived in the clear after STARTTLS; the connection cannot be trusted and is aborted."""


class Stream(asyncio.Protocol):
    """One connection. Read and write from one coroutine; `abort` may be called from anywhere."""

    __slots__ = (
        "_closed",
        "_connection",
        "_deadline",
        "_drained",
        "_error",
        "_limit",
        "_loop",
        "_lost",
        "_on_connect",
        "_pending",
        "_reading",
        "_securing",
        "_timer",
        "_transport",
        "_waiter",
        "peer",
    )

    def __init__(
        self,
        on_connect: Callable[["Stream"], None] | None = None,
        *,
        limit: int = _HIGH_WATER,
        connection: socket.socket | None = None,
    ) -> None:
        """`on_connect` is called once, when the connection stands (a listener starts its session there).
        `limit`: octets we hold unread before we stop reading from the socket. `connection`: an accepted connection
        that begins with TLS: nothing of it is read or written before `start_tls`."""
        self._on_connect = on_connect
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._securing: asyncio.Timeout | None = None
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self._limit = limit
        self._reading = True
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._closed = False
        self._error: Exception | None = None
        self.peer: tuple[str, int] = ("", 0)
        if connection is not None:
            with suppress(OSError):
                self.peer = connection.getpeername()[:2]

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = (name[0], name[1])
        on_connect, self._on_connect = self._on_connect, None
        if on_connect is not None:
            on_connect(self)

    def data_received(self, data: bytes) -> None:
        self._pending.append(data)
        if self._waiter is not None:
            self._wake()
        elif self._reading and sum(map(len, self._pending)) > self._limit:
            assert self._transport is not None
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._closed = True
        self._wake()
        # Stay open for writing: a peer that half-closes after QUIT still wants its 221. TLS has no half-open.
        return self._transport is not None and self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._error = exc
        self._transport = None
        self._wake()
        for waiter in (self._drained, self._lost):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # What sessions call

    @property
    def is_open(self) -> bool:
        """Whether octets can still be written, if need be after `start_tls`."""
        if self._connection is not None:
            return True
        return self._transport is not None and not self._transport.is_closing()

    @property
    def local(self) -> tuple[str, int]:
        """Our end of the connection: address and port."""
        if self._connection is not None:
            name = self._connection.getsockname()
        else:
            name = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return (name[0], name[1]) if isinstance(name, tuple) else ("", 0)

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, None in the clear."""
        if self._transport is None:
            return None
        found = self._transport.get_extra_info("ssl_object")
        return found if isinstance(found, ssl.SSLObject) else None

    @property
    def unread(self) -> bool:
        """Whether octets have arrived that `read` has not handed over."""
        return bool(self._pending)

    @property
    def is_quiet(self) -> bool:
        """Whether the connection stands and the other side has neither sent anything unread nor closed."""
        return not (self._closed or self._pending) and self.is_open

    @property
    def at_end(self) -> bool:
        """Whether the peer has closed its side, or the connection is gone: nothing more will come."""
        return self._closed

    async def read(self, timeout: float) -> bytes:
        """All that has arrived, at least one octet; b"" when the peer has closed its side.

        Raises TimeoutError when nothing came within `timeout` seconds.
        """
        if not self._pending:
            if self._closed:
                return b""
            await self._wait(timeout)
            if not self._pending:
                return b""
        pending = self._pending
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Send, or keep until it can be sent; a stream that is closed swallows it (`read` will tell)."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self, timeout: float) -> None:
        """Wait until the peer has taken most of what was written. Raises TimeoutError, StreamClosed."""
        if self._drained is not None:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._drained)
        if not self.is_open:
            raise StreamClosed("connection closed by the other side") from self._error

    async def start_tls(
        self,
        context: ssl.SSLContext,
        timeout: float,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        """Switch to TLS (RFC 3207), or begin with it. Raises EarlyData, TimeoutError, ssl.SSLError,
        ConnectionError."""
        if self._connection is not None:
            assert server_side
            await self._begin_with_tls(context, timeout)
            return
        transport = self._transport
        if transport is None:
            raise StreamClosed("connection closed by the other side") from self._error
        transport.pause_reading()
        if self._pending:
            self.abort()
            raise EarlyData("the other side sent data in the clear after STARTTLS")
        # loop.start_tls may never return on a connection that is lost already, hence our own time-out as well.
        try:
            async with asyncio.timeout(timeout):
                secured = await self._loop.start_tls(
                    transport,
                    self,
                    context,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=timeout,
                )
            # A connection that was lost meanwhile is no error to the loops, and uvloop's even returns a transport.
            if secured is None or transport.is_closing():
                raise StreamClosed("connection closed during the TLS handshake")
        except BaseException:
            # The loop tells a stream of the end of its connection only once the handshake was done.
            transport.abort()
            self._transport = None
            self._closed = True
            raise
        self._transport = secured
        self._reading = True

    async def _begin_with_tls(self, context: ssl.SSLContext, timeout: float) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        try:
            async with asyncio.timeout(timeout) as self._securing:
                # From here on the connection is the loop's, which closes it when the handshake fails.
                await self._loop.connect_accepted_socket(
                    lambda: self, connection, ssl=context, ssl_handshake_timeout=timeout
                )
        except TimeoutError:
            if self._closed:
                raise StreamClosed("connection closed during the TLS handshake") from None
            raise
        finally:
            self._securing = None

    async def close(self, timeout: float) -> None:
        """Send what is left and close; cut the connection if that takes longer than `timeout` seconds."""
        if self._transport is None:
            self.abort()
            return
        self._lost = self._loop.create_future()
        self._transport.close()
        try:
            async with asyncio.timeout(timeout):
                await self._lost
        except TimeoutError:
            self.abort()

    def finish(self) -> None:
        """Close once all is sent, without waiting for it; the peer's silence cannot hold us (see `close`)."""
        if self._transport is not None:
            self._transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the connection now; who waits in `read` gets b""."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()
        elif self._securing is not None:
            if not self._securing.expired():
                self._securing.reschedule(self._loop.time())
        elif self._connection is not None:
            self._connection.close()
            self._connection = None
        self._wake()

    def interrupt(self) -> None:
        """Who waits in `read` gets b"" now, although the connection stands, and who waits in `drain` waits no
        longer. May be called from anywhere."""
        self._wake()
        self.resume_writing()

    # Waiting. A timer per wait costs more than the wait; one timer per stream, moved lazily, does not.

    async def _wait(self, timeout: float) -> None:
        self._deadline = self._loop.time() + timeout
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if (left := self._deadline - self._loop.time()) > 0.001:
            self._timer = self._loop.call_later(left, self._on_timer)
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def connect(
    address: str,
    port: int,
    timeout: float,
    *,
    source: str | None = None,
    context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> Stream:
    """Open a connection to an IP address; with `context`, in TLS from the start (implicit TLS).

    Raises TimeoutError, OSError (ConnectionRefusedError and the like), ssl.SSLError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        _, stream = await loop.create_connection(
            Stream,
            address,
            port,
            local_addr=(source, 0) if source else None,
            ssl=context,
            server_hostname=server_hostname if context else None,
        )
    return stream
