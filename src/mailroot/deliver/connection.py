"""One connection to a next hop: opened, greeted, secured and logged in, then one message after the other.

It speaks and reports what was said; what that means for a recipient is the attempt's business, how many connections
there are is the pool's. Every wait is bounded by the time-outs of the Outbound Connections dialog.
"""

import asyncio
import ssl
from base64 import b64encode
from dataclasses import dataclass
from enum import Enum, auto

from mailroot.deliver.hosts import Host
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.mail.envelope import Envelope
from mailroot.mail.reply import Reply
from mailroot.net.stream import Stream, connect
from mailroot.queue.base import Content
from mailroot.smtp.client import ClientProtocol
from mailroot.smtp.client_events import (
    ClientEvent,
    Closing,
    ContentWanted,
    Finished,
    LoggedIn,
    LoginRefused,
    Ready,
    Refused,
    SecurityOffered,
    SecurityRefused,
)
from mailroot.smtp.offer import Offer
from mailroot.smtp.reply_reader import ReplyError

_FAREWELL = 5.0
"""Seconds we listen for the reply to QUIT."""
_SLICE = 5.0
"""Seconds after which a sender that is stuck looks whether the server has long said why."""


class Fault(Enum):
    """What is wrong where no connection came about."""

    HOST = auto()
    """This host; another one may do."""
    TLS = auto()
    """This host's TLS; where TLS is not required it may do without."""
    LOGIN = auto()
    """The login; every host will say the same, and asking often locks accounts."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """No connection, and why; `reply` is 4yz and of our own making, with what the host said in its text."""

    reply: Reply
    host: str
    fault: Fault = Fault.HOST


@dataclass(frozen=True, slots=True)
class Manner:
    """How a route wants its hosts spoken to. `name` is said in EHLO; `context` None: no TLS; time-outs in
    seconds; `source` is the local address to connect from, "" for any."""

    name: str
    security: OutboundSecurity
    context: ssl.SSLContext | None
    timeout: float
    connect_timeout: float
    source: str = ""
    send_helo: bool = False


class _Stop(Exception):
    """Ends the opening of a connection, carrying the trouble."""

    def __init__(self, reply: Reply, fault: Fault = Fault.HOST) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.fault = fault


class Connection:
    """A connection that is ready for messages. Made by `open_connection`."""

    __slots__ = ("_protocol", "_stream", "_timeout", "host", "label", "messages", "since", "timed_out")

    def __init__(self, host: Host, stream: Stream, protocol: ClientProtocol, timeout: float) -> None:
        self.host = host
        self.label = str(host)
        self.messages = 0
        self.timed_out = False
        self.since = 0.0
        """When it became idle; the pool's note."""
        self._stream = stream
        self._protocol = protocol
        self._timeout = timeout

    @property
    def offer(self) -> Offer:
        return self._protocol.offer

    @property
    def is_usable(self) -> bool:
        """Whether another message may be sent: the server has neither closed nor said anything unasked."""
        return self._stream.is_quiet and self._protocol.is_usable

    async def send(self, envelope: Envelope, size: int, octets: bytes | None, content: Content) -> Finished:
        """One transaction. `octets` is the whole content, or None: then it is read from `content` in pieces.

        Never raises for what the server or the network does; that is in the replies.
        """
        protocol, stream = self._protocol, self._stream
        self.messages += 1
        protocol.begin(envelope, size, octets)
        try:
            while True:
                stream.write(protocol.outgoing())
                while (event := protocol.next_event()) is None:
                    if out := protocol.outgoing():
                        stream.write(out)
                    protocol.receive(await stream.read(self._timeout))
                match event:
                    case Finished():
                        return event
                    case ContentWanted():
                        await self._send_content(content)
                    case _:
                        raise ReplyError(f"{event} in the middle of a message")
        except TimeoutError:
            self.timed_out = True
            why = f"{self.label} did not answer within {self._timeout:.0f} s, waiting for {protocol.waits_for}"
        except ReplyError as error:
            why = f"{self.label}: {error}"
        except ConnectionError as error:
            why = f"{self.label}: the connection was lost ({error})"
        finished = protocol.give_up(Reply(451, "4.4.2", why))
        stream.abort()
        return finished

    async def _send_content(self, content: Content) -> None:
        """Write the pieces as fast as the server takes them; stop when it answers before the end."""
        protocol, stream = self._protocol, self._stream
        async for piece in content.chunks():
            protocol.content(piece)
            stream.write(protocol.outgoing())
            if not stream.is_quiet or not await self._drained():
                return
        protocol.end_content()

    async def _drained(self) -> bool:
        """Wait until the server has taken most of it; False: there is something to read first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while True:
            left = deadline - loop.time()
            try:
                await self._stream.drain(max(0.0, min(left, _SLICE)))
            except TimeoutError:
                if self._stream.unread:
                    return False
                if left <= _SLICE:
                    raise
            except ConnectionError:
                # What it said before it closed is still to be read.
                return False
            else:
                return True

    async def quit(self) -> None:
        """Take leave and close; takes no longer than a few seconds, whatever the server does."""
        stream = self._stream
        try:
            if self.is_usable:
                self._protocol.quit()
                stream.write(self._protocol.outgoing())
                while self._protocol.next_event() is None:
                    self._protocol.receive(await stream.read(_FAREWELL))
        except (ReplyError, TimeoutError, ConnectionError):
            pass
        await stream.close(_FAREWELL)

    def abort(self) -> None:
        """Cut the connection."""
        self._stream.abort()


async def open_connection(host: Host, manner: Manner, *, clear: bool = False) -> Connection | Trouble:
    """Connect, greet, secure and log in. `clear`: without TLS, which was tried and failed (opportunistic only)."""
    stream: Stream | None = None
    connection: Connection | None = None
    try:
        stream = await _connect(host, manner)
        protocol = ClientProtocol(manner.name, send_helo=manner.send_helo)
        await _introduce(host, stream, protocol, manner, clear=clear)
        connection = Connection(host, stream, protocol, manner.timeout)
        return connection
    except _Stop as stop:
        return Trouble(stop.reply, str(host), stop.fault)
    except TimeoutError:
        return Trouble(Reply(451, "4.4.2", f"{host} did not answer within {manner.timeout:.0f} s"), str(host))
    except (ReplyError, ConnectionError) as error:
        return Trouble(Reply(451, "4.4.2", f"{host}: {error}"), str(host))
    finally:
        if connection is None and stream is not None:
            # Whatever went wrong, nobody has use for it; FIN after what was written.
            stream.finish()


async def _connect(host: Host, manner: Manner) -> Stream:
    implicit = manner.security.tls is TlsPolicy.IMPLICIT
    try:
        return await connect(
            host.address,
            host.port,
            manner.connect_timeout,
            source=manner.source or None,
            context=manner.context if implicit else None,
            server_hostname=host.name or host.address,
        )
    except TimeoutError:
        text = f"{host} did not take a connection within {manner.connect_timeout:g} s"
        raise _Stop(Reply(451, "4.4.1", text)) from None
    except ssl.SSLError as error:
        raise _Stop(_tls_reply(host, error), Fault.TLS) from error
    except OSError as error:
        raise _Stop(Reply(451, "4.4.1", f"Connecting to {host} failed: {error.strerror or error}")) from error


async def _introduce(host: Host, stream: Stream, protocol: ClientProtocol, manner: Manner, *, clear: bool) -> None:
    """From greeting to login. Raises _Stop, ReplyError, TimeoutError, ConnectionError."""
    security = manner.security
    await _ready(host, stream, protocol, manner)
    if security.tls in (TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED) and not clear:
        await _secure(host, stream, protocol, manner)
    if security.username:
        await _login(host, stream, protocol, manner)


async def _ready(host: Host, stream: Stream, protocol: ClientProtocol, manner: Manner) -> None:
    match await _event(stream, protocol, manner):
        case Ready():
            return
        case Refused(reply) | Closing(reply):
            raise _Stop(_said(host, reply, "4.3.2"))
        case event:
            raise ReplyError(f"{event} instead of a greeting")


async def _secure(host: Host, stream: Stream, protocol: ClientProtocol, manner: Manner) -> None:
    required = manner.security.tls is TlsPolicy.REQUIRED
    if not protocol.offer.starttls:
        if required:
            raise _Stop(Reply(451, "4.7.10", f"TLS is required, but {host} does not offer STARTTLS"))
        return
    protocol.start_tls()
    match await _event(stream, protocol, manner):
        case SecurityOffered():
            assert manner.context is not None
        case SecurityRefused(reply):
            if reply.code == 421:
                raise _Stop(_said(host, reply, "4.3.2"))
            if required:
                raise _Stop(Reply(451, "4.7.10", f"TLS is required, but {host} refused STARTTLS: {reply}"))
            return
        case event:
            raise ReplyError(f"{event} instead of a reply to STARTTLS")
    try:
        name = host.name or host.address
        timeout = manner.connect_timeout
        await stream.start_tls(manner.context, timeout, server_side=False, server_hostname=name)
    except TimeoutError as error:
        raise _Stop(Reply(451, "4.7.5", f"TLS with {host}: no end to the handshake"), Fault.TLS) from error
    except OSError as error:
        raise _Stop(_tls_reply(host, error), Fault.TLS) from error
    protocol.secured()
    await _ready(host, stream, protocol, manner)


async def _login(host: Host, stream: Stream, protocol: ClientProtocol, manner: Manner) -> None:
    security = manner.security
    if stream.tls is None and not security.login_in_the_clear:
        text = f"{host} offers no TLS, and the password must not be sent in the clear (see login_in_the_clear)"
        raise _Stop(Reply(451, "4.7.11", text), Fault.LOGIN)
    if not protocol.login(security.username, security.password):
        offered = ", ".join(protocol.offer.mechanisms)
        text = f"{host} offers no login by PLAIN or LOGIN" + (f", only by {offered}" if offered else "")
        raise _Stop(Reply(451, "4.7.4", text), Fault.LOGIN)
    try:
        event = await _event(stream, protocol, manner)
    except ReplyError as error:
        raise ReplyError(_without_secrets(str(error), security)) from None
    match event:
        case LoggedIn():
            return
        case LoginRefused(reply):
            text = f"Login as {security.username} was refused by {host}: {_without_secrets(str(reply), security)}"
            raise _Stop(Reply(454, "4.7.8", text), Fault.HOST if reply.code == 421 else Fault.LOGIN)
        case _:
            raise ReplyError(f"{event} instead of a reply to AUTH")


_BLANK = "[password]"


def _without_secrets(text: str, security: OutboundSecurity) -> str:
    """What a host said to a login, for logs and reports: some repeat in it what they were sent."""
    password = security.password
    plain = f"\0{security.username}\0{password}"
    coded = [b64encode(octets.encode()).decode() for octets in (plain, password)]
    for secret in (*coded, *(one.rstrip("=") for one in coded), password):
        # What is shorter is no secret, and found in any text.
        if len(secret) > 3:
            text = text.replace(secret, _BLANK)
    return text


async def _event(stream: Stream, protocol: ClientProtocol, manner: Manner) -> ClientEvent:
    while True:
        event = protocol.next_event()
        if out := protocol.outgoing():
            stream.write(out)
        if event is not None:
            return event
        protocol.receive(await stream.read(manner.timeout))


def _said(host: Host, reply: Reply, status: str) -> Reply:
    """A refusal that is the host's, not the message's: for now, whatever its code says."""
    return Reply(reply.code if reply.is_transient else 451, status, f"{host} said: {reply}")


def _tls_reply(host: Host, error: OSError) -> Reply:
    match error:
        case ssl.SSLCertVerificationError():
            why = f"its certificate is not valid: {error.verify_message}"
        case ssl.SSLError():
            why = f"{error.reason or error}".replace("_", " ").lower()
        case _:
            why = f"{error.strerror or error}"
    return Reply(451, "4.7.5", f"TLS with {host} failed: {why}")
