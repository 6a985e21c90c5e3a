"""One client's visit, from the banner to the last reply: the story of a session, told by one coroutine.

The protocol says what the client did, policy says what may be done, intake takes the message; here they meet. A
250 for a message is given in one place, after its commit. This is one of the two borders where any exception is
caught: the client hears 451, nothing was acknowledged, and an event tells the rest.
"""

import asyncio
import ssl
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import assert_never

from mailroot.clock import Clock
from mailroot.events import (
    Bus,
    CommandRefused,
    HandshakeFailed,
    InternalError,
    SessionClosed,
    SessionOpened,
    SessionRefused,
    SessionSecured,
)
from mailroot.mail.address import Address
from mailroot.mail.date import format_date
from mailroot.mail.envelope import Door, Origin, Recipient
from mailroot.mail.reply import Reply
from mailroot.net.stream import Stream
from mailroot.policy.access import Access
from mailroot.policy.limits import BareLineEnds, MessageSettings
from mailroot.policy.networks import unmapped
from mailroot.policy.visit import Accept, Hangup, Refuse, Visit
from mailroot.receive.intake import Accepted, Intake
from mailroot.receive.trace import received_from, transmission
from mailroot.receive.transaction import Transaction
from mailroot.smtp import answers
from mailroot.smtp.commands import (
    ChunkEnd,
    Content,
    ContentEnd,
    ContentRefused,
    Data,
    Event,
    Hello,
    Help,
    Mail,
    Mistake,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from mailroot.smtp.extensions import ServerOffer
from mailroot.smtp.server import ServerProtocol

SHUTTING_DOWN = Reply(421, "4.3.2", "Service not available, closing transmission channel")
TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "Too many connections, try again later")
_TIMED_OUT = Reply(421, "4.4.2", "Timeout waiting for client input")
_TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing transmission channel")
# RFC 5321 §4.5.3.1.10: 452, so that the client sends the rest in a second transaction. The old service said 552,
# which clients take for the end of the recipient, or of the mail.
_TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
_SESSION_FULL = Reply(421, "4.3.4", "Session size exceeds fixed maximum session size, send the rest in another")
_SESSION_TOO_SMALL = Reply(552, "5.3.4", "Message size exceeds fixed maximum session size")
_INTERNAL_ERROR = Reply(451, "4.3.0", "Requested action aborted: error in processing")

_LOOKUP_TIMEOUT = 5.0
_HANDSHAKE_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 10.0
_TURN = 16
"""Events after which a session that never has to wait lets others have their turn. Few, since hundreds of clients
that flood us without reading may stand between another one and its next reply."""

Lookup = Callable[[str], Awaitable[str | None]]
"""The name of an IP address: its reverse DNS name if that leads back to the address, else None."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all sessions of a virtual server go by. `server` is its name, `idle_timeout` in seconds.

    `tls`: the context for STARTTLS, None: not offered. `lookup` is asked where `access.needs_name`. `reverse_dns`:
    a client whose name does not fit its HELO is marked in Received.
    """

    server: str
    fqdn: str
    default_domain: str
    idle_timeout: float
    messages: MessageSettings
    access: Access
    intake: Intake
    bus: Bus
    clock: Clock
    tls: ssl.SSLContext | None = None
    lookup: Lookup | None = None
    reverse_dns: bool = False

    @property
    def offer(self) -> ServerOffer:
        """What a client is offered."""
        return ServerOffer(
            self.default_domain,
            self.messages.max_message_size,
            self.tls is not None,
            self.messages.bare_line_ends is BareLineEnds.REPAIR,
        )


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as operators see it. `client` is its IP address, `since` seconds since the epoch; `messages` how
    many it has handed in; `state` what it is doing, in words."""

    id: str
    client: str
    helo: str
    user: str
    tls: bool
    since: float
    messages: int
    state: str


class Session:
    """One connection of a client."""

    __slots__ = (
        "_client",
        "_ending",
        "_errors",
        "_extended",
        "_messages",
        "_octets",
        "_offer",
        "_patient",
        "_protocol",
        "_read",
        "_since",
        "_stream",
        "_terms",
        "_trace",
        "_transaction",
        "_visit",
        "_why",
        "id",
    )

    def __init__(self, id: str, stream: Stream, terms: Terms, listener: str) -> None:
        """`listener` is the "address:port" the client came to."""
        self.id = id
        self._stream = stream
        self._terms = terms
        self._offer = terms.offer
        self._protocol = ServerProtocol(self._offer)
        # A zone such as in fe80::1%eth0 says something about our interfaces, not about the client.
        self._visit = Visit(unmapped(ip_address(stream.peer[0].partition("%")[0])), listener)
        self._client = str(self._visit.client)
        self._since = terms.clock.now()
        self._extended = False
        self._trace = ""
        self._transaction = Transaction(terms.intake)
        # The session's counts: refusals, accepted messages, octets of all messages, octets read from the network
        self._errors = 0
        self._messages = 0
        self._octets = 0
        self._read = 0
        # Why it ended, and whether somebody wants it to (`_patient`: after the message that is coming in)
        self._why = ""
        self._ending = ""
        self._patient = False

    @property
    def info(self) -> SessionInfo:
        """How the session stands."""
        visit = self._visit
        return SessionInfo(
            self.id,
            self._client,
            visit.helo,
            visit.user,
            visit.tls,
            self._since,
            self._messages,
            self._protocol.state.value,
        )

    def end(self, why: str, *, finish_message: bool = False) -> None:
        """Send a 421 and close, at once, or with `finish_message` after the message that is coming in. What is
        being stored at this moment is acknowledged first in any case."""
        self._ending = why
        self._patient = finish_message
        self._stream.interrupt()

    def cut(self) -> None:
        """Close without a word."""
        self._ending = self._ending or "cut off"
        self._stream.abort()

    async def run(self) -> None:
        """The whole visit. Raises nothing but CancelledError."""
        terms = self._terms
        why = "cut off"
        try:
            why = await self._converse()
        except asyncio.CancelledError:
            why = self._ending or why
            raise
        except (ConnectionError, TimeoutError):
            # Gone, or too slow to take what we answer: there is nobody to say good-bye to.
            why = self._why or self._ending or "client left"
            self._stream.abort()
        except Exception as error:  # noqa: BLE001 - the border: see the module's docstring
            why = "internal error"
            terms.bus.publish(InternalError(terms.server, "session", repr(error), traceback.format_exc()))
            self._protocol.dismiss(_INTERNAL_ERROR)
            self._stream.write(self._protocol.outgoing())
        finally:
            await self._transaction.abandon()
            seconds = terms.clock.now() - self._since
            terms.bus.publish(SessionClosed(terms.server, self.id, self._client, why, self._messages, seconds))
            await self._stream.close(_CLOSE_TIMEOUT)

    async def _converse(self) -> str:
        """Returns why it is over."""
        protocol, stream = self._protocol, self._stream
        timeout = self._terms.idle_timeout
        most = self._terms.messages.max_session_size
        most = 2 * most + (1 << 20) if most else 0
        await self._open()
        turn = _TURN
        while True:
            event = protocol.next_event()
            if event is not None:
                await self._handle(event)
                turn -= 1
                if turn:
                    continue
            if octets := protocol.outgoing():
                stream.write(octets)
                await stream.drain(timeout)
            if not turn:
                turn = _TURN
                await asyncio.sleep(0)
                continue
            if protocol.is_closed:
                return self._why or "closed after a mistake"
            if self._ending and not (self._patient and protocol.in_content):
                self._leave(SHUTTING_DOWN, self._ending)
                continue
            try:
                octets = await stream.read(timeout)
            except TimeoutError:
                self._leave(_TIMED_OUT, "time-out")
                continue
            if octets:
                protocol.receive(octets)
                self._read += len(octets)
                if most and self._read > most:
                    # Far past the session's limit and still in the middle of something: no use to read on.
                    self._leave(_SESSION_FULL, "session size")
            elif stream.at_end:
                return self._why or self._ending or "client left"

    def _leave(self, reply: Reply, why: str) -> None:
        self._why = why
        self._protocol.dismiss(reply)

    async def _open(self) -> None:
        """Connection control and the banner."""
        terms, visit = self._terms, self._visit
        if terms.access.needs_name and terms.lookup is not None:
            try:
                async with asyncio.timeout(_LOOKUP_TIMEOUT):
                    name = await terms.lookup(self._client)
            except TimeoutError:
                name = None
            visit = self._visit = replace(visit, name=name)
        match terms.access.may_connect(visit):
            case Accept():
                terms.bus.publish(SessionOpened(terms.server, self.id, self._client, visit.listener))
                self._protocol.answer(answers.banner(terms.fqdn, format_date(terms.clock.now())))
            case Refuse(rule, reply) | Hangup(rule, reply):
                terms.bus.publish(SessionRefused(terms.server, self._client, visit.listener, rule, str(reply)))
                self._why = "refused"
                self._protocol.answer(reply, hang_up=True)

    async def _handle(self, event: Event) -> None:
        """Do what the client wants, or refuse it. Each event but Content is answered exactly once."""
        protocol = self._protocol
        match event:
            case Content(octets):
                await self._transaction.take(octets)
            case Rcpt(recipient):
                self._add(recipient)
            case Mail():
                self._begin(event)
            case Data():
                protocol.answer(answers.START_INPUT)
            case ContentEnd(size):
                await self._accept(size)
            case Hello(name, extended):
                await self._greet(name, extended=extended)
            case Quit():
                self._why = "quit"
                protocol.answer(answers.goodbye(self._terms.fqdn))
            case Rset():
                await self._transaction.abandon()
                protocol.answer(answers.RESETTING)
            case Noop():
                protocol.answer(answers.OK)
            case ChunkEnd(size):
                trouble = self._transaction.trouble
                if trouble is None:
                    protocol.answer(answers.chunk_ok(size))
                else:
                    await self._transaction.abandon()
                    self._refuse("BDAT", trouble)
            case ContentRefused(command, reply):
                await self._transaction.abandon()
                # What follows a message that mixes its line ends may be the rest of it, smuggled past a server that
                # saw another end: it must not be read as commands (CVE-2023-51764), come it now or in a moment.
                mixed = command == "DATA" and reply == answers.BARE_LINE_END
                if mixed:
                    self._why = "bare line ends"
                self._refuse(command, reply, hang_up=mixed)
            case StartTls():
                await self._secure()
            case Help():
                protocol.answer(answers.HELP)
            case Vrfy(address):
                self._verify(address)
            case Mistake(line, reply):
                self._refuse(line, reply)
            case _:
                assert_never(event)

    def _refuse(self, command: str, reply: Reply, rule: str = "", *, hang_up: bool = False) -> None:
        """Answer with a refusal. A client that earned too many of them is sent away; what is our trouble (4yz) it
        did not earn."""
        terms = self._terms
        terms.bus.publish(CommandRefused(terms.server, self.id, self._client, command, str(reply), rule))
        if reply.is_permanent:
            self._errors += 1
            if self._errors >= terms.messages.max_errors:
                self._leave(_TOO_MANY_ERRORS, "too many errors")
                return
        self._protocol.answer(reply, hang_up=hang_up)

    async def _greet(self, name: str, *, extended: bool) -> None:
        await self._transaction.abandon()
        terms = self._terms
        self._extended = extended
        self._visit = replace(self._visit, helo=name)
        self._trace = ""
        lines = self._offer.lines(secured=self._visit.tls) if extended else ()
        self._protocol.answer(answers.hello(terms.fqdn, self._client, lines))

    def _begin(self, mail: Mail) -> None:
        most = self._terms.messages.max_session_size
        if most and self._octets + (mail.parameters.size or 0) > most:
            self._outgrow(f"MAIL FROM:<{mail.sender or ''}>", mail.parameters.size or 0)
            return
        self._transaction.begin(mail)
        self._protocol.answer(answers.sender_ok(mail.sender))

    def _outgrow(self, command: str, size: int) -> None:
        """The session's limit is reached: close. A message that would fit into a session of its own is worth
        another connection; one that never will is refused for good."""
        self._why = "session size"
        reply = _SESSION_TOO_SMALL if size > self._terms.messages.max_session_size else _SESSION_FULL
        self._refuse(command, reply, "max_session_size", hang_up=True)

    def _add(self, recipient: Recipient) -> None:
        recipients = self._transaction.recipients
        address = recipient.address
        most = self._terms.messages.max_recipients
        if len(recipients) >= most:
            # Said once for each refused recipient to the client, but not to the log.
            self._protocol.answer(_TOO_MANY_RECIPIENTS)
            return
        decision = self._terms.access.may_relay(self._visit, address)
        match decision:
            case Accept():
                recipients.append(recipient)
                self._protocol.answer(answers.recipient_ok(address))
            case Refuse(rule, reply):
                self._refuse(f"RCPT TO:<{address}>", reply, rule)
            case Hangup(rule, reply):
                self._why = "refused"
                self._refuse(f"RCPT TO:<{address}>", reply, rule, hang_up=True)
            case _:
                assert_never(decision)

    def _verify(self, address: Address) -> None:
        """VRFY tells nothing about who exists, but never promises what RCPT would refuse (RFC 5321 §3.5.3)."""
        match self._terms.access.may_relay(self._visit, address):
            case Refuse(rule, reply) | Hangup(rule, reply):
                self._refuse(f"VRFY {address}", reply, rule)
            case _:
                self._protocol.answer(answers.cannot_verify(address))

    async def _accept(self, size: int) -> None:
        """The content is complete: make it durable, and only then say so."""
        terms, protocol, transaction = self._terms, self._protocol, self._transaction
        self._octets += size
        most = terms.messages.max_session_size
        if most and self._octets > most:
            await transaction.abandon()
            self._outgrow("end of data", size)
            return
        if protocol.has_outgoing:
            # What was accepted before must not wait for this commit (BDAT may be pipelined).
            self._stream.write(protocol.outgoing())
        visit = self._visit
        origin = Origin(Door.SMTP, terms.clock.now(), self._client, visit.helo, visit.user)
        result = await transaction.commit(origin, self._received(transaction.smtputf8), self.id)
        match result:
            case Accepted():
                self._messages += 1
                protocol.answer(answers.queued(result.message_id, supplied=result.supplied))
            case Refuse(rule, reply):
                self._refuse("end of data", reply, rule)
            case _:
                assert_never(result)

    def _received(self, smtputf8: bool) -> str:
        """The Received field up to the id (RFC 5321 §4.4)."""
        if not self._trace:
            self._trace = received_from(self._visit, mark=self._terms.reverse_dns, fqdn=self._terms.fqdn)
        keyword = transmission(extended=self._extended, tls=self._visit.tls, smtputf8=smtputf8)
        return f"{self._trace} with {keyword}"

    async def _secure(self) -> None:
        """STARTTLS (RFC 3207). Whatever came in the clear behind it is an attack, and nobody's command."""
        terms, protocol, stream = self._terms, self._protocol, self._stream
        assert terms.tls is not None
        if protocol.unread or stream.unread:
            self._why = "commands before TLS"
            terms.bus.publish(HandshakeFailed(terms.server, self.id, self._client, self._why))
            self._refuse("STARTTLS", answers.EARLY_DATA, hang_up=True)
            return
        protocol.answer(answers.READY_FOR_TLS)
        stream.write(protocol.outgoing())
        try:
            await stream.start_tls(terms.tls, _HANDSHAKE_TIMEOUT, server_side=True)
        except (ssl.SSLError, TimeoutError, ConnectionError) as error:
            self._why = "TLS handshake failed"
            reason = (isinstance(error, ssl.SSLError) and error.reason) or str(error) or "time-out"
            terms.bus.publish(HandshakeFailed(terms.server, self.id, self._client, reason))
            stream.abort()
            return
        protocol.secured()
        await self._transaction.abandon()
        self._extended = False
        self._trace = ""
        self._visit = replace(self._visit, helo="", tls=True)
        tls = stream.tls
        cipher = tls.cipher() if tls is not None else None
        version = (tls.version() if tls is not None else None) or ""
        terms.bus.publish(
            SessionSecured(terms.server, self.id, self._client, version, cipher[0] if cipher is not None else "")
        )
