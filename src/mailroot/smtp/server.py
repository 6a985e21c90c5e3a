"""The server's side of SMTP, sans-IO (RFC 5321): octets in, events out, answers in, octets out.

    protocol = ServerProtocol(offer)
    protocol.answer(banner)           the connection itself is the first thing to be answered
    protocol.receive(octets)          what came from the client
    protocol.next_event()             what it means; None: send what is outgoing, then read more
    protocol.answer(reply)            one event, one answer; no further event before it
    protocol.outgoing()               octets to send: the answers to pipelined commands together (RFC 2920)

A login (RFC 4954) is an Auth, answered by `challenge` or by its end, and an AuthResponse for each challenge,
answered likewise. While it goes on no command is read.

It knows no sockets, clocks, policy or queue. The only place that changes the state; states.py has the rules.
"""

import re
from binascii import b2a_base64
from collections.abc import Callable

from mailroot.mail.envelope import Body
from mailroot.mail.reply import Reply
from mailroot.smtp import answers, shown
from mailroot.smtp.answers import encode
from mailroot.smtp.commands import (
    AuthResponse,
    ChunkEnd,
    Content,
    ContentEnd,
    ContentRefused,
    Data,
    Event,
    Help,
    Mistake,
    Noop,
    Quit,
    Rset,
    StartTls,
    read_auth,
    read_auth_response,
    read_bdat,
    read_hello,
    read_mail,
    read_rcpt,
    read_vrfy,
    read_xclient,
)
from mailroot.smtp.content import ChunkReader, DotReader, Framing, Message
from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.extensions import MailParameters, ServerOffer
from mailroot.smtp.lines import LineReader
from mailroot.smtp.states import AFTER_REFUSAL, TABLE, State, Verb

_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
_VERBS = {verb.value: verb for verb in Verb}
_NOT_IMPLEMENTED = "EXPN"
_HTTP = re.compile(r".* HTTP/\d(?:\.\d)?")


class ServerProtocol:
    """One client's conversation."""

    __slots__ = (
        "_chunk",
        "_complete",
        "_extended",
        "_framing",
        "_last",
        "_lines",
        "_login_near",
        "_mechanisms",
        "_message",
        "_next",
        "_offer",
        "_otherwise",
        "_out",
        "_owed",
        "_parameters",
        "_refused",
        "_skip_empty",
        "authenticated",
        "secure",
        "state",
        "xclient",
    )

    def __init__(self, offer: ServerOffer) -> None:
        self._offer = offer
        self._lines = LineReader(strict=offer.strict)
        self._out: list[bytes] = []
        self.state = State.CONNECTED
        self.secure = False
        # Whether there was a login; `xclient`, whether this client may say XCLIENT.
        self.authenticated = False
        self.xclient = False
        self._mechanisms: tuple[str, ...] = ()
        # Whether the last hello was an EHLO; and whether AUTH was the last command, so that a line which is none
        # may hold a secret.
        self._extended = False
        self._login_near = False
        self._skip_empty = False
        # The state after the event that is out, by the answer's kind; `_owed`: it has not been answered.
        self._owed = True
        self._next = self._beginning
        self._otherwise = State.CLOSED
        # The transaction: what MAIL said, and the content while it comes. `_framing` is set while octets are
        # content, `_complete` once all are there; `_message` collects them over all chunks, the `_last` of which
        # ends it; `_refused` answers a chunk that is only swallowed.
        self._parameters: MailParameters = MailParameters()
        self._framing: Framing | None = None
        self._message: Message | None = None
        self._refused: Reply | None = None
        self._chunk = 0
        self._complete = False
        self._last = False

    # Octets

    def receive(self, octets: bytes) -> None:
        """What the client sent."""
        self._lines.receive(octets)

    def outgoing(self) -> bytes:
        """What is to be sent now; b"" for nothing."""
        if not self._out:
            return b""
        octets = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return octets

    @property
    def has_outgoing(self) -> bool:
        """Whether answers wait to be sent."""
        return bool(self._out)

    @property
    def unread(self) -> int:
        """Octets received and not used yet. At STARTTLS there must be none (RFC 3207 §4.2)."""
        return self._lines.unread

    @property
    def in_content(self) -> bool:
        """Whether the octets that come next are content, or the message goes on in further chunks."""
        return self._framing is not None or self.state is State.CHUNKS

    @property
    def owes_answer(self) -> bool:
        """Whether an event is out that has not been answered."""
        return self._owed

    @property
    def is_closed(self) -> bool:
        """Whether the conversation is over: send what is outgoing, then close."""
        return self.state is State.CLOSED

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms of AUTH that this client is offered; lines of a login may be long where there are any."""
        return self._mechanisms

    @mechanisms.setter
    def mechanisms(self, mechanisms: tuple[str, ...]) -> None:
        self._mechanisms = mechanisms
        self._lines.long_logins = bool(mechanisms)

    @property
    def _beginning(self) -> State:
        """Where a conversation stands after its banner."""
        return State.GREETED if self._offer.strict else State.READY

    # Answers

    def answer(self, reply: Reply, *, hang_up: bool = False) -> None:
        """Answer the last event; with `hang_up`, or by a 221 or 421, end the conversation too."""
        if not self._owed:
            raise RuntimeError("there is no event to be answered")
        self._owed = False
        self._out.append(encode(reply))
        if hang_up or reply.code in (221, 421):
            self.state = State.CLOSED
        elif reply.code < 400:
            self.state = self._next
            if self.state is State.DATA:
                self._framing = DotReader()
                self._message = self._new_message()
                self._refused = None
                self._last = True
            elif self.state is State.AUTHENTICATING:
                if reply.code >= 300:
                    raise RuntimeError("a challenge is given by challenge()")
                self.authenticated = True
                self.state = State.READY
        else:
            self.state = self._otherwise
        if self.state is State.READY:
            self._message = None

    def challenge(self, octets: bytes, *, skip_empty: bool = False) -> None:
        """Answer an Auth or AuthResponse with a 334: the login goes on. `skip_empty`: a client's line that is empty
        is passed over once, and the next is its response."""
        if not self._owed or self._next is not State.AUTHENTICATING:
            raise RuntimeError("there is no login that could go on")
        self._owed = False
        # The space stands also before nothing (RFC 4954 §4).
        self._out.append(b"334 " + b2a_base64(octets, newline=False) + b"\r\n")
        self._skip_empty = skip_empty
        self.state = State.AUTHENTICATING

    def dismiss(self, reply: Reply) -> None:
        """End the conversation without being asked: time-out, shutdown, an operator. Answers the event that
        is out, if there is one."""
        self._owed = True
        self.answer(reply, hang_up=True)

    def secured(self) -> None:
        """The TLS handshake is done: forget everything the client said before, a login too (RFC 3207 §4.2)."""
        self._lines = LineReader(strict=self._offer.strict)
        self._forget()
        self.authenticated = False
        self.secure = True
        self.state = State.SECURED

    def introduced(self, *, authenticated: bool = False) -> None:
        """An Xclient was taken: the conversation begins anew, and its answer is a banner. `authenticated`: whoever
        introduced the client has seen its login."""
        if not self._owed:
            raise RuntimeError("there is no XCLIENT to be answered")
        self._forget()
        self.authenticated = authenticated
        self._next = self._beginning

    def _forget(self) -> None:
        self._parameters = MailParameters()
        self.mechanisms = ()
        self._extended = False

    # Events

    def next_event(self) -> Event | None:
        """What the client did next, or None: that is not known before more octets come."""
        if self._owed:
            raise RuntimeError("the last event has not been answered")
        state = self.state
        if state is State.CLOSED or state is State.SECURING:
            return None
        if state is State.AUTHENTICATING:
            return self._next_response()
        if self._framing is None:
            event = self._next_command()
            if event is not None or self._framing is None:
                return event
        return self._next_content()

    def _next_command(self) -> Event | None:
        line = b""
        try:
            found = self._lines.line()
            if found is None:
                return None
            line = found
            event = self._read_command(line)
        except ProtocolError as error:
            state = State.CLOSED if error.fatal else self.state
            event = self._emit(Mistake(self._show(line), error.reply), state, state)
        return event

    def _next_response(self) -> Event | None:
        try:
            line = self._lines.line(login=True)
            if line == b"" and self._skip_empty:
                self._skip_empty = False
                line = self._lines.line(login=True)
            if line is None:
                return None
            event = read_auth_response(line, strict=self._offer.strict)
        except ProtocolError as error:
            return self._emit(Mistake("AUTH", error.reply), State.READY, State.READY)
        then = State.AUTHENTICATING if isinstance(event, AuthResponse) else State.READY
        return self._emit(event, then, State.READY)

    def _read_command(self, line: bytes) -> Event | None:
        # RFC 5321 §4.1.1: white space before the line's end is let pass, a tab too.
        whole, line = line, line.rstrip(b" \t")
        if _CONTROLS.search(line) is not None:
            raise ProtocolError(answers.BAD_CHARACTERS)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise ProtocolError(answers.NOT_UTF8) from None
        if not text.isprintable():
            raise ProtocolError(answers.BAD_CHARACTERS)
        word, _, argument = text.partition(" ")
        word = word.upper()
        verb = _VERBS.get(word)
        if verb is None:
            if _HTTP.fullmatch(text) is not None:
                # A browser: what follows is a page's, and it may have written our commands into it.
                raise ProtocolError(answers.HTTP_UNEXPECTED, fatal=True)
            raise ProtocolError(answers.NOT_IMPLEMENTED if word == _NOT_IMPLEMENTED else answers.UNRECOGNIZED)
        if self._login_near:
            self._login_near = False
        target, otherwise, read = _STEPS[self.state, verb]
        if read is None:
            return self._read_bdat(argument, target)
        if isinstance(target, Reply):
            raise ProtocolError(target)
        if self._offer.strict and (argument.startswith(" ") or (verb is Verb.AUTH and len(whole) != len(line))):
            raise ProtocolError(answers.SYNTAX)
        return self._emit(read(self, argument.lstrip(" ")), target, otherwise)

    def _emit(self, event: Event, then: State, otherwise: State) -> Event:
        self._owed = True
        self._next = then
        self._otherwise = otherwise
        return event

    def _show(self, line: bytes) -> str:
        """A refused line for people."""
        word = line.partition(b" ")[0].rstrip(b"\t").upper().decode("latin-1")
        if shown.is_login(line):
            self._login_near = True
        elif word not in _VERBS and word != _NOT_IMPLEMENTED:
            return shown.HIDDEN if self._login_near else shown.first_word(line)
        return shown.command(line)

    def _hello(self, argument: str, *, extended: bool) -> Event:
        event = read_hello(argument, extended=extended, strict=self._offer.strict)
        self._extended = extended
        return event

    def _mail(self, argument: str) -> Event:
        mail = read_mail(argument, self._offer)
        self._parameters = mail.parameters
        return mail

    def _rcpt(self, argument: str) -> Event:
        return read_rcpt(argument, self._offer, smtputf8=self._parameters.smtputf8)

    def _data(self, argument: str) -> Event:
        event = _alone(argument, Data())
        if self._parameters.body is Body.BINARY:
            raise ProtocolError(answers.BINARY_NEEDS_BDAT)
        if self._lines.ends_with_lf:
            raise ProtocolError(answers.LF_SESSION)
        return event

    def _vrfy(self, argument: str) -> Event:
        return read_vrfy(argument, self._offer)

    def _starttls(self, argument: str) -> Event:
        event = _alone(argument, StartTls())
        if self.secure:
            raise ProtocolError(answers.ALREADY_TLS)
        if not self._offer.starttls:
            raise ProtocolError(answers.NO_TLS)
        return event

    def _auth(self, argument: str) -> Event:
        self._login_near = True
        if self._offer.strict and not self._extended:
            raise ProtocolError(answers.NEED_EHLO)
        if self.authenticated:
            raise ProtocolError(answers.AUTH_AGAIN)
        return read_auth(argument, strict=self._offer.strict)

    def _xclient(self, argument: str) -> Event:
        if not self.xclient:
            raise ProtocolError(answers.NO_XCLIENT)
        return read_xclient(argument)

    # Content

    def _new_message(self) -> Message:
        return Message(
            limit=self._offer.max_size,
            repair=self._offer.repair,
            binary=self._parameters.body is Body.BINARY,
        )

    def _read_bdat(self, argument: str, target: State | Reply) -> Event | None:
        """Begin a chunk. Also the octets of one that is refused must be read (RFC 3030 §2)."""
        size, last = read_bdat(argument)
        self._framing = ChunkReader(size)
        self._chunk = size
        self._last = last
        self._refused = None
        if isinstance(target, Reply):
            self._refused = target
        else:
            if self._message is None:
                self._message = self._new_message()
            self._message.announce(size)
        return None

    def _next_content(self) -> Event | None:
        framing = self._framing
        assert framing is not None
        if self._complete:
            return self._content_end()
        if framing.needs_octets and not self._lines.unread:
            return None
        octets, rest = framing.read(self._lines.take())
        if rest is not None:
            self._lines.put_back(rest)
            self._complete = True
        message = self._message
        if self._refused is None and message is not None:
            octets = message.take(octets)
            if self._complete and self._last:
                octets += message.finish()
            if octets and message.fault is None:
                return Content(octets)
        return self._content_end() if self._complete else None

    def _content_end(self) -> Event:
        self._framing = None
        self._complete = False
        state = self.state
        if self._refused is not None:
            return self._emit(Mistake(f"BDAT {self._chunk}", self._refused), state, state)
        message = self._message
        assert message is not None
        if message.fault is not None:
            command = "DATA" if state is State.DATA else "BDAT"
            return self._emit(ContentRefused(command, message.fault), State.READY, State.READY)
        if self._last:
            return self._emit(ContentEnd(message.size), State.READY, State.READY)
        return self._emit(ChunkEnd(self._chunk), State.CHUNKS, State.READY)


_READERS: dict[Verb, Callable[[ServerProtocol, str], Event]] = {
    Verb.HELO: lambda protocol, argument: protocol._hello(argument, extended=False),
    Verb.EHLO: lambda protocol, argument: protocol._hello(argument, extended=True),
    Verb.MAIL: ServerProtocol._mail,
    Verb.RCPT: ServerProtocol._rcpt,
    Verb.DATA: ServerProtocol._data,
    Verb.STARTTLS: ServerProtocol._starttls,
    Verb.AUTH: ServerProtocol._auth,
    Verb.XCLIENT: ServerProtocol._xclient,
    Verb.VRFY: ServerProtocol._vrfy,
    Verb.RSET: lambda _, argument: _alone(argument, Rset()),
    Verb.NOOP: lambda _, __: Noop(),
    Verb.HELP: lambda _, __: Help(),
    Verb.QUIT: lambda _, argument: _alone(argument, Quit()),
}

# All about a command in one look: where it leads, where its refusal leads, and what reads it. BDAT, which is read
# with the octets behind it, has no reader here.
_STEPS = {
    (state, verb): (target, AFTER_REFUSAL.get((state, verb), state), _READERS.get(verb))
    for (state, verb), target in TABLE.items()
}


def _alone(argument: str, event: Event) -> Event:
    """The event of a command that takes no argument (RFC 5321 §4.1.1)."""
    if argument:
        raise ProtocolError(answers.SYNTAX)
    return event
