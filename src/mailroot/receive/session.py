"""One client's visit, from the banner to the last reply: the story of a session, told by one coroutine.

The protocol says what the client did, policy says what may be done, intake takes the message; here they meet. A
250 for a message is given in one place, after its commit. This is one of the two borders where any exception is
caught: the client hears 451, nothing was acknowledged, and an event tells the rest.
"""

import asyncio
import traceback
from dataclasses import dataclass
from typing import assert_never

from mailroot.events import (
    CommandRefused,
    HandshakeFailed,
    InternalError,
    LimitReached,
    SessionClosed,
    SessionOpened,
    SessionRefused,
)
from mailroot.mail.address import Address
from mailroot.mail.date import format_date
from mailroot.mail.envelope import Door, Origin, Recipient
from mailroot.mail.reply import Reply
from mailroot.net.proxy import Introduced
from mailroot.net.stream import Stream
from mailroot.policy.auth.base import Challenge, Granted
from mailroot.policy.auth.logins import Logins
from mailroot.policy.listeners import ListenerRules, TlsMode
from mailroot.policy.visit import Accept, Hangup, Refuse
from mailroot.receive.client import Client
from mailroot.receive.intake import Accepted
from mailroot.receive.login import Login
from mailroot.receive.pace import Pace
from mailroot.receive.terms import Terms
from mailroot.receive.transaction import Transaction
from mailroot.smtp import answers, shown
from mailroot.smtp.commands import (
    Auth,
    AuthCancelled,
    AuthResponse,
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
    Xclient,
)
from mailroot.smtp.server import ServerProtocol

SHUTTING_DOWN = Reply(421, "4.3.2", "Service not available, closing transmission channel")
TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "Too many connections, try again later")
_TIMED_OUT = Reply(421, "4.4.2", "Timeout waiting for client input")
_LIMIT_REACHED = Reply(421, "4.7.0", "Too much without a message, closing transmission channel")
_TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing transmission channel")
# RFC 5321 §4.5.3.1.10: 452, so that the client sends the rest in a second transaction. The old service said 552,
# which clients take for the end of the recipient, or of the mail.
_TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
_SESSION_FULL = Reply(421, "4.3.4", "Session size exceeds fixed maximum session size, send the rest in another")
_SESSION_TOO_SMALL = Reply(552, "5.3.4", "Message size exceeds fixed maximum session size")
_INTERNAL_ERROR = Reply(451, "4.3.0", "Requested action aborted: error in processing")

_CLOSE_TIMEOUT = 10.0
_TURN = 16
"""Events after which a session that never has to wait lets others have their turn. Few, since hundreds of clients
that flood us without reading may stand between another one and its next reply."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as operators see it. `client` is its IP address, `since` seconds since the epoch; `messages` how
    many it has handed in; `state` what it is doing, in words. `listener` is the "address:port" it came to, `proxy`
    the IP address of who speaks for it, "" if nobody does."""

    id: str
    client: str
    helo: str
    user: str
    tls: bool
    since: float
    messages: int
    state: str
    listener: str
    proxy: str


class Session:
    """One connection of a client."""

    __slots__ = (
        "_client",
        "_encrypting",
        "_ending",
        "_errors",
        "_login",
        "_messages",
        "_octets",
        "_offer",
        "_pace",
        "_patient",
        "_protocol",
        "_read",
        "_rules",
        "_since",
        "_stream",
        "_terms",
        "_transaction",
        "_why",
        "id",
    )

    def __init__(
        self,
        id: str,
        stream: Stream,
        terms: Terms,
        listener: str,
        rules: ListenerRules,
        introduced: Introduced | None = None,
    ) -> None:
        """`listener` is the "address:port" the client came to, `rules` what holds there. `introduced` is who a
        proxy speaks for."""
        self.id = id
        self._stream = stream
        self._terms = terms
        self._rules = rules
        self._offer = terms.offer(rules)
        self._protocol = ServerProtocol(self._offer)
        self._client = Client(terms, rules, id, stream.peer[0], listener, introduced)
        self._since = terms.clock.now()
        self._transaction = Transaction(terms.intake)
        self._login = Login(terms, id)
        self._pace = Pace(terms.limits, terms.idle_timeout)
        # The session's counts: refusals, accepted messages, octets of all messages, octets read from the network
        self._errors = 0
        self._messages = 0
        self._octets = 0
        self._read = 0
        # Why it ended, and whether somebody wants it to (`_patient`: after the message that is coming in)
        self._why = ""
        self._ending = ""
        self._patient = False
        # Whether a TLS handshake is under way
        self._encrypting = False

    @property
    def info(self) -> SessionInfo:
        """How the session stands."""
        client, visit = self._client, self._client.visit
        return SessionInfo(
            self.id,
            client.address,
            visit.helo,
            visit.user,
            visit.tls,
            self._since,
            self._messages,
            self._protocol.state.value,
            visit.listener,
            visit.proxy,
        )

    @property
    def logins(self) -> Logins:
        """What it goes by when its client logs in."""
        return self._terms.logins

    def end(self, why: str, *, finish_message: bool = False) -> None:
        """Send a 421 and close, at once, or with `finish_message` after the message that is coming in. What is
        being stored at this moment is acknowledged first in any case. A TLS handshake is cut: there are no words to
        be said in it, and who began it may never end it."""
        self._ending = why
        self._patient = finish_message
        if self._encrypting:
            self._stream.abort()
        else:
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
            self._client.depart()
            seconds = terms.clock.now() - self._since
            terms.bus.publish(
                SessionClosed(terms.server, self.id, self._client.address, why, self._messages, seconds)
            )
            await self._stream.close(_CLOSE_TIMEOUT)

    async def _converse(self) -> str:
        """Returns why it is over."""
        protocol, stream, pace = self._protocol, self._stream, self._pace
        now = asyncio.get_running_loop().time
        timeout = self._terms.idle_timeout
        most = self._terms.messages.max_session_size
        most = 2 * most + (1 << 20) if most else 0
        if not await self._open():
            stream.abort()
            return self._why
        turn = _TURN
        while True:
            event = protocol.next_event()
            if event is not None:
                await self._handle(event)
                if (limit := pace.exceeded()) is not None and not protocol.is_closed:
                    self._stop(*limit)
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
            patience = pace.patience(in_message=protocol.in_content, in_command=protocol.unread > 0)
            began = now()
            try:
                octets = await stream.read(patience)
            except TimeoutError:
                self._tell_limit(*pace.overdue())
                self._leave(_TIMED_OUT, "time-out")
                continue
            pace.waited(now() - began, len(octets))
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

    def _stop(self, limit: str, value: str) -> None:
        """A limit is passed: say so, and close."""
        self._tell_limit(limit, value)
        self._leave(_LIMIT_REACHED, limit)

    def _tell_limit(self, limit: str, value: str) -> None:
        terms, client = self._terms, self._client
        user = client.visit.user
        terms.bus.publish(LimitReached(terms.server, self.id, client.address, user, limit, value))

    # Who is there

    async def _open(self) -> bool:
        """Connection control, TLS where it comes first, and the banner. False: there is nobody to talk to."""
        terms, client, protocol = self._terms, self._client, self._protocol
        visit = client.visit
        if visit.proxy:
            client.tell_introduction("PROXY")
        decision = await client.admit()
        implicit = self._rules.tls is TlsMode.IMPLICIT
        if not isinstance(decision, Accept):
            rule, reply = decision.rule, decision.reply
            terms.bus.publish(SessionRefused(terms.server, client.address, visit.listener, rule, str(reply)))
            self._why = "refused"
            if implicit:
                # Words would have to be encrypted first: too much for whom we do not want.
                return False
            protocol.answer(reply, hang_up=True)
            return True
        terms.bus.publish(SessionOpened(terms.server, self.id, client.address, visit.listener))
        if implicit:
            if not await self._encrypt():
                return False
            protocol.secure = True
        protocol.xclient = client.may_introduce
        protocol.answer(self._banner())
        return True

    def _banner(self) -> Reply:
        return answers.banner(self._terms.fqdn, format_date(self._terms.clock.now()))

    async def _introduce(self, attributes: dict[str, str]) -> None:
        """XCLIENT: from here on somebody else is there, and everything begins anew."""
        client, protocol = self._client, self._protocol
        await self._transaction.abandon()
        try:
            client.introduce(attributes)
        except ValueError:
            self._refuse("XCLIENT", answers.SYNTAX)
            return
        decision = await client.admit()
        if isinstance(decision, Accept):
            protocol.introduced(authenticated=bool(client.visit.user))
            protocol.answer(self._banner())
        else:
            self._why = "refused"
            self._refuse("XCLIENT", decision.reply, decision.rule, hang_up=True)

    async def _secure(self) -> None:
        """STARTTLS (RFC 3207). Whatever came in the clear behind it is an attack, and nobody's command."""
        terms, protocol, stream = self._terms, self._protocol, self._stream
        if protocol.unread or stream.unread:
            self._why = "commands before TLS"
            terms.bus.publish(HandshakeFailed(terms.server, self.id, self._client.address, self._why))
            self._refuse("STARTTLS", answers.EARLY_DATA, hang_up=True)
            return
        protocol.answer(answers.READY_FOR_TLS)
        stream.write(protocol.outgoing())
        if await self._encrypt():
            protocol.secured()
            await self._transaction.abandon()

    async def _encrypt(self) -> bool:
        self._login.cancel()
        self._encrypting = True
        secured = await self._client.encrypt(self._stream)
        self._encrypting = False
        if not secured:
            self._why = self._ending or "TLS handshake failed"
            return False
        if self._client.visit.user:
            self._pace.proven()
        return True

    async def _authenticate(self, event: Auth | AuthResponse) -> None:
        """A step of a login. A refused one does not close the session: .NET goes on with the next mechanism, or
        without."""
        login, protocol = self._login, self._protocol
        if isinstance(event, AuthResponse):
            result = await login.respond(event.octets, self._client.channel)
        else:
            result = await login.begin(event.mechanism, event.initial, self._client.channel, self._rules)
        match result:
            case Challenge(octets, skip_empty=skip_empty):
                protocol.challenge(octets, skip_empty=skip_empty)
            case Granted(user):
                self._client.log_in(user, login.mechanism)
                self._pace.proven()
                protocol.answer(answers.AUTH_OK)
            case Reply():
                # Where the mechanism should stand there may be a password.
                self._refuse(shown.login(login.mechanism), result)
            case _:
                assert_never(result)

    # What it wants

    async def _handle(self, event: Event) -> None:
        """Do what the client wants, or refuse it. Each event but Content is answered exactly once."""
        protocol, pace = self._protocol, self._pace
        if not isinstance(event, Content | ChunkEnd):
            pace.command()
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
                pace.chunk(size)
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
            case Auth() | AuthResponse():
                await self._authenticate(event)
            case AuthCancelled():
                self._login.cancel()
                self._refuse("AUTH", answers.AUTH_CANCELLED)
            case Xclient(attributes):
                await self._introduce(attributes)
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
        terms.bus.publish(CommandRefused(terms.server, self.id, self._client.address, command, str(reply), rule))
        if reply.is_permanent:
            self._errors += 1
            if self._errors >= terms.messages.max_errors:
                self._leave(_TOO_MANY_ERRORS, "too many errors")
                return
        self._protocol.answer(reply, hang_up=hang_up)

    async def _greet(self, name: str, *, extended: bool) -> None:
        await self._transaction.abandon()
        client, protocol = self._client, self._protocol
        client.greet(name, extended=extended)
        lines: tuple[str, ...] = ()
        if extended:
            protocol.mechanisms = self._terms.logins.offered(client.channel, self._rules)
            lines = self._offer.lines(
                secured=client.visit.tls, mechanisms=protocol.mechanisms, xclient=protocol.xclient
            )
        protocol.answer(answers.hello(self._terms.fqdn, client.address, lines))

    def _begin(self, mail: Mail) -> None:
        command = f"MAIL FROM:<{mail.sender or ''}>"
        size = mail.parameters.size or 0
        most = self._terms.messages.max_session_size
        if most and self._octets + size > most:
            self._outgrow(command, size)
            return
        refused = self._client.may_send(mail)
        if refused is not None:
            self._refuse(command, refused.reply, refused.rule)
            return
        self._transaction.begin(mail, self._client.grant.senders)
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
        decision = self._client.may_send_to(address)
        match decision:
            case Accept():
                recipients.append(recipient)
                self._pace.recipient_accepted()
                self._protocol.answer(answers.recipient_ok(address))
            case Refuse(rule, reply) | Hangup(rule, reply):
                if reply.is_permanent:
                    # What is to come again later is no sign of a client that tries its luck.
                    self._pace.recipient_refused()
                hang_up = isinstance(decision, Hangup)
                if hang_up:
                    self._why = "refused"
                self._refuse(f"RCPT TO:<{address}>", reply, rule, hang_up=hang_up)
            case _:
                assert_never(decision)

    def _verify(self, address: Address) -> None:
        """VRFY tells nothing about who exists, but never promises what RCPT would refuse (RFC 5321 §3.5.3)."""
        match self._terms.access.may_relay(self._client.visit, address):
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
        client, visit = self._client, self._client.visit
        origin = Origin(Door.SMTP, terms.clock.now(), client.address, visit.helo, visit.user)
        result = await transaction.commit(origin, client.received(smtputf8=transaction.smtputf8), self.id)
        match result:
            case Accepted():
                self._messages += 1
                self._pace.message_accepted()
                if terms.disk is not None:
                    terms.disk.take(result.size)
                protocol.answer(answers.queued(result.message_id, supplied=result.supplied))
            case Refuse(rule, reply):
                self._refuse("end of data", reply, rule)
            case _:
                assert_never(result)
