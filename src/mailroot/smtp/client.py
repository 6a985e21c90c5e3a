"""The client's side of SMTP, sans-IO (RFC 5321): octets in, events out, orders in, octets out.

    protocol = ClientProtocol("relay.example.com")
    protocol.receive(octets)          what came from the server; b"" when it has closed
    protocol.next_event()             what it means: Ready, SecurityOffered, Finished, …; None: read more
    protocol.begin(envelope, size)    and other orders: what to say next
    protocol.outgoing()               octets to send

It sends in as few pieces as the server allows: the whole envelope in one where PIPELINING is offered (RFC 2920),
with the content by BDAT where CHUNKING is offered too and the message is small (RFC 3030). It knows no sockets,
clocks or retries. What a server may do wrong raises ReplyError, here and nowhere else; the connection is then of
no further use. Secrets are in `outgoing` only, never in a repr, an event or an error.
"""

from base64 import b64decode, b64encode
from collections import deque
from enum import Enum, auto

from mailroot.mail.envelope import Body, Envelope
from mailroot.mail.reply import Reply
from mailroot.smtp.client_events import (
    ClientEvent,
    Closing,
    ContentWanted,
    Finished,
    LoggedIn,
    LoginRefused,
    Quit,
    Ready,
    Refused,
    SecurityOffered,
    SecurityRefused,
)
from mailroot.smtp.offer import Offer, mail_command, recipient_command
from mailroot.smtp.reply_reader import ReplyError, ReplyReader
from mailroot.smtp.sasl.base import Mechanism
from mailroot.smtp.sasl.login import Login
from mailroot.smtp.sasl.plain import Plain
from mailroot.smtp.stuffing import Stuffing, paired


class _To(Enum):
    """What the next reply will be a reply to."""

    CONNECTION = auto()
    EHLO = auto()
    HELO = auto()
    STARTTLS = auto()
    AUTH = auto()
    RSET = auto()
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    CONTENT = auto()
    NOBODY = auto()
    """The lone dot that ends an empty transaction."""
    QUIT = auto()


_NAMES = {
    _To.CONNECTION: "the connection",
    _To.EHLO: "EHLO",
    _To.HELO: "HELO",
    _To.STARTTLS: "STARTTLS",
    _To.AUTH: "AUTH",
    _To.RSET: "RSET",
    _To.MAIL: "MAIL",
    _To.RCPT: "RCPT",
    _To.DATA: "DATA",
    _To.CONTENT: "the message's content",
    _To.NOBODY: "a lone dot",
    _To.QUIT: "QUIT",
}

_MAX_CHALLENGES = 8


def _no(to: _To, reply: Reply) -> Reply:
    """The reply, if it is a refusal; a success that makes no sense here is an error."""
    if reply.code < 400:
        raise ReplyError(f"not a reply to {_NAMES[to]}: {reply}")
    return reply


class _Transaction:
    """One message on its way."""

    __slots__ = (
        "answered", "by_chunk", "envelope", "mail", "next_recipient", "octets", "replies", "sent", "size",
        "stuffing",
    )  # fmt: skip

    def __init__(self, envelope: Envelope, size: int, octets: bytes | None, by_chunk: bool) -> None:
        self.envelope = envelope
        self.size = size
        self.octets = octets
        self.by_chunk = by_chunk
        self.mail: Reply | None = None
        self.replies: list[Reply] = []
        self.next_recipient = 0
        self.answered = False
        self.sent = False
        self.stuffing = Stuffing()

    @property
    def has_recipient(self) -> bool:
        return any(reply.code < 300 for reply in self.replies)


class ClientProtocol:
    """One connection's conversation. `name` is what EHLO says; `send_helo`: HELO, and no extensions."""

    __slots__ = (
        "_awaited", "_challenges", "_ended", "_mechanism", "_name", "_out", "_reader", "_send_helo", "_transaction",
        "_untidy", "offer",
    )  # fmt: skip

    def __init__(self, name: str, *, send_helo: bool = False) -> None:
        self._name = name
        self._send_helo = send_helo
        self._reader = ReplyReader()
        self._out: list[bytes] = []
        self._awaited: deque[_To] = deque((_To.CONNECTION,))
        self._transaction: _Transaction | None = None
        self._mechanism: Mechanism | None = None
        self._challenges = 0
        self._untidy = False
        self._ended = False
        self.offer = Offer()

    # Octets

    def receive(self, data: bytes) -> None:
        """Take what the server sent; b"" says that it has closed. Raises ReplyError."""
        if data:
            self._reader.receive(data)
        else:
            self._ended = True

    def outgoing(self) -> bytes:
        """What is to be sent now; b"" for nothing."""
        if not self._out:
            return b""
        octets = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return octets

    @property
    def waits_for(self) -> str:
        """What the server has yet to answer, in words for people; "" for nothing."""
        return _NAMES[self._awaited[0]] if self._awaited else ""

    @property
    def is_usable(self) -> bool:
        """Whether a transaction may begin: nothing is under way and no stray reply waits."""
        return not (self._awaited or self._ended or self._reader.unread or self._transaction)

    def next_event(self) -> ClientEvent | None:
        """What has happened; None when more octets are needed. Raises ReplyError."""
        while True:
            to = self._awaited[0] if self._awaited else None
            reply = self._reader.next(has_status=to not in (_To.CONNECTION, _To.EHLO, _To.HELO))
            if reply is None:
                if self._ended:
                    raise ReplyError(
                        f"the connection was closed while we waited for the reply to {self.waits_for}"
                        if to
                        else "the connection was closed"
                    )
                return None
            if to is None:
                # RFC 5321 §3.8: a server may say 421 at any time; nothing else comes unasked.
                if reply.code == 421:
                    self._ended = True
                    return Closing(reply)
                raise ReplyError(f"a reply to nothing: {reply}")
            event = self._on_reply(self._awaited.popleft(), reply)
            if event is not None:
                return event

    # Orders before a message

    def start_tls(self) -> None:
        """Say STARTTLS (RFC 3207)."""
        self._say(_To.STARTTLS, b"STARTTLS\r\n")

    def secured(self) -> None:
        """The TLS handshake is done: forget what was said in the clear and say EHLO again (RFC 3207 §4.2)."""
        self._greet()

    def login(self, username: str, password: str) -> bool:
        """Say AUTH, PLAIN before LOGIN (RFC 4954); False, and nothing said, where neither is offered."""
        if "PLAIN" in self.offer.mechanisms:
            self._mechanism = Plain(username, password)
        elif "LOGIN" in self.offer.mechanisms:
            self._mechanism = Login(username, password)
        else:
            return False
        command = b"AUTH " + self._mechanism.name.encode()
        initial = self._mechanism.initial()
        if initial is not None:
            encoded = b64encode(initial) or b"="
            # RFC 4954 §4: a line that grew too long for a command waits for the challenge.
            if len(command) + len(encoded) < 510:
                command += b" " + encoded
        self._say(_To.AUTH, command + b"\r\n")
        return True

    def quit(self) -> None:
        """Say QUIT."""
        self._say(_To.QUIT, b"QUIT\r\n")

    # A message

    def begin(self, envelope: Envelope, size: int, octets: bytes | None = None) -> None:
        """Start a transaction. `size` is the content's, in octets; `octets` is all of it where it is small,
        otherwise ContentWanted asks for it. Only what the server offers is used of the envelope's wishes.

        Body.BINARY may be asked only of a server that offers CHUNKING and BINARYMIME. Raises ValueError for an
        address that would break out of its line.
        """
        assert self.is_usable, "one message after the other"
        offer = self.offer
        binary = envelope.body is Body.BINARY
        by_chunk = binary or (octets is not None and offer.chunking and offer.pipelining)
        if octets is not None and by_chunk and not binary:
            octets = paired(octets)
            size = len(octets)
        transaction = self._transaction = _Transaction(envelope, size, octets, by_chunk)
        commands = []
        if self._untidy:
            # RFC 5321 §4.1.1.5; needed only where the last transaction was left in the middle.
            self._untidy = False
            commands.append("RSET\r\n")
            self._awaited.append(_To.RSET)
        commands.append(mail_command(envelope, size, offer))
        self._awaited.append(_To.MAIL)
        if offer.pipelining:
            recipients = envelope.recipients
            commands += [recipient_command(recipient, envelope, offer) for recipient in recipients]
            self._awaited += [_To.RCPT] * len(recipients)
            transaction.next_recipient = len(recipients)
            if not by_chunk:
                commands.append("DATA\r\n")
                self._awaited.append(_To.DATA)
        text = "".join(commands)
        if text.count("\n") != len(commands) or text.count("\r") != len(commands):
            self._transaction = None
            raise ValueError("an address with a line end in it")
        self._out.append(text.encode())
        if by_chunk and offer.pipelining and octets is not None:
            self._send_chunk(transaction, octets)

    def content(self, octets: bytes) -> None:
        """A piece of the content, after ContentWanted."""
        transaction = self._transaction
        assert transaction is not None
        if transaction.by_chunk:
            transaction.size -= len(octets)
            self._out.append(octets)
        else:
            self._out.append(transaction.stuffing.add(octets))

    def end_content(self) -> None:
        """The content is complete. Raises ValueError if a chunk was not as long as announced."""
        transaction = self._transaction
        assert transaction is not None
        if transaction.by_chunk:
            if transaction.size:
                raise ValueError(f"the content's size was wrong by {-transaction.size} octets")
        else:
            self._out.append(transaction.stuffing.end())
        transaction.sent = True

    def give_up(self, why: Reply) -> Finished:
        """End the transaction from our side (connection lost, time-out): who was not decided gets `why`."""
        transaction = self._transaction
        assert transaction is not None
        self._ended = True
        return self._finish(transaction, why, doubtful=transaction.sent)

    # Replies

    def _on_reply(self, to: _To, reply: Reply) -> ClientEvent | None:
        if reply.code == 421:
            self._ended = True
        match to:
            case _To.CONNECTION:
                if reply.code != 220:
                    return Refused(_no(to, reply))
                self._greet()
                return None
            case _To.EHLO | _To.HELO:
                return self._on_greeted(to, reply)
            case _To.STARTTLS:
                if reply.code != 220:
                    return SecurityRefused(_no(to, reply))
                if self._reader.unread:
                    # RFC 3207 §4.2, CVE-2021-38371: sent in the clear, it must not be taken for encrypted.
                    raise ReplyError("data in the clear behind the reply to STARTTLS")
                return SecurityOffered()
            case _To.AUTH:
                return self._on_auth(reply)
            case _To.RSET:
                if reply.code != 250:
                    raise ReplyError(f"RSET was refused: {reply}")
                return None
            case _To.QUIT:
                self._ended = True
                return Quit()
            case _To.NOBODY:
                transaction = self._transaction
                assert transaction is not None
                return self._finish(transaction, reply)
            case _:
                return self._on_transaction(to, reply)

    def _greet(self) -> None:
        self.offer = Offer()
        if self._send_helo:
            self._say(_To.HELO, f"HELO {self._name}\r\n".encode())
        else:
            self._say(_To.EHLO, f"EHLO {self._name}\r\n".encode())

    def _on_greeted(self, to: _To, reply: Reply) -> ClientEvent | None:
        if reply.code == 250:
            if to is _To.EHLO:
                self.offer = Offer.read(reply.text)
            return Ready()
        if to is _To.EHLO and reply.is_permanent:
            # RFC 5321 §3.2, §4.1.4: a server that does not know EHLO may know HELO.
            self._say(_To.HELO, f"HELO {self._name}\r\n".encode())
            return None
        return Refused(_no(to, reply))

    def _on_auth(self, reply: Reply) -> ClientEvent | None:
        assert self._mechanism is not None
        if reply.code == 235:
            self._mechanism = None
            return LoggedIn()
        if reply.code == 334:
            self._challenges += 1
            if self._challenges > _MAX_CHALLENGES:
                raise ReplyError("AUTH does not come to an end")
            try:
                challenge = b64decode(reply.text, validate=False)
            except ValueError:
                challenge = b""
            self._say(_To.AUTH, b64encode(self._mechanism.respond(challenge)) + b"\r\n")
            return None
        self._mechanism = None
        return LoginRefused(_no(_To.AUTH, reply))

    def _on_transaction(self, to: _To, reply: Reply) -> ClientEvent | None:
        transaction = self._transaction
        assert transaction is not None
        transaction.answered = True
        if reply.code == 421:
            # It closes: this is the last word on whoever is not decided yet.
            return self._finish(transaction, reply)
        if to is _To.CONTENT:
            return self._on_content(transaction, reply)
        expected = 354 if to is _To.DATA else 250
        if reply.code < 400 and reply.code // 100 != expected // 100:
            raise ReplyError(f"not a reply to {_NAMES[to]}: {reply}")
        match to:
            case _To.MAIL:
                transaction.mail = reply
            case _To.RCPT:
                transaction.replies.append(reply)
            case _:
                return self._on_data(transaction, reply)
        if self._awaited:
            return None
        return self._go_on(transaction)

    def _go_on(self, transaction: _Transaction) -> ClientEvent | None:
        """Everything said so far is answered: say the next thing."""
        assert transaction.mail is not None
        recipients = transaction.envelope.recipients
        if transaction.mail.code >= 300:
            return self._finish(transaction, transaction.mail)
        if transaction.next_recipient < len(recipients):
            recipient = recipients[transaction.next_recipient]
            transaction.next_recipient += 1
            line = recipient_command(recipient, transaction.envelope, self.offer)
            if line.count("\n") != 1 or line.count("\r") != 1:
                raise ValueError("an address with a line end in it")
            self._say(_To.RCPT, line.encode())
            return None
        if not transaction.has_recipient:
            self._untidy = True
            return self._finish(transaction, transaction.mail)
        if not transaction.by_chunk:
            self._say(_To.DATA, b"DATA\r\n")
            return None
        if transaction.octets is not None:
            self._send_chunk(transaction, transaction.octets)
            return None
        self._say(_To.CONTENT, b"BDAT %d LAST\r\n" % transaction.size)
        return ContentWanted()

    def _on_data(self, transaction: _Transaction, reply: Reply) -> ClientEvent | None:
        assert transaction.mail is not None
        if reply.code != 354:
            if reply.code < 400:
                raise ReplyError(f"not a reply to DATA: {reply}")
            refused = transaction.mail.code >= 300
            self._untidy = not refused
            return self._finish(transaction, transaction.mail if refused else reply)
        if transaction.mail.code >= 300 or not transaction.has_recipient:
            # RFC 2920 §3.1: DATA was accepted although nobody is left to get the message: end it at once.
            self._say(_To.NOBODY, b".\r\n")
            return None
        self._awaited.append(_To.CONTENT)
        if transaction.octets is None:
            return ContentWanted()
        self._out.append(transaction.stuffing.add(transaction.octets))
        self.end_content()
        return None

    def _on_content(self, transaction: _Transaction, reply: Reply) -> ClientEvent | None:
        if not transaction.sent:
            # Its verdict came while we were still sending; there is no way back to commands from here.
            self._ended = True
            if reply.code < 400:
                raise ReplyError(f"a reply before the content was complete: {reply}")
        elif not 200 <= reply.code < 300 and reply.code < 400:
            raise ReplyError(f"not a reply to the content: {reply}")
        # RFC 3030 §2: after a failed BDAT the transaction hangs in the air.
        self._untidy = transaction.by_chunk and reply.code >= 300
        assert transaction.mail is not None
        return self._finish(transaction, transaction.mail if transaction.mail.code >= 300 else reply)

    def _send_chunk(self, transaction: _Transaction, octets: bytes) -> None:
        self._awaited.append(_To.CONTENT)
        self._out.append(b"BDAT %d LAST\r\n" % len(octets))
        self._out.append(octets)
        transaction.sent = True

    def _finish(self, transaction: _Transaction, reply: Reply, *, doubtful: bool = False) -> Finished:
        """Every recipient whose RCPT was not refused shares `reply`."""
        self._transaction = None
        self._awaited.clear()
        replies = transaction.replies
        count = len(transaction.envelope.recipients)
        if transaction.mail is not None and transaction.mail.code >= 300:
            # What RCPT answers then (503) says nothing about the recipient.
            return Finished((transaction.mail,) * count)
        if count == 1 and replies and replies[0].code < 300:
            return Finished((reply,), (), transaction.answered, doubtful)
        refused = tuple(n for n, r in enumerate(replies) if r.code >= 300)
        final = [reply] * count
        for n in refused:
            final[n] = replies[n]
        doubtful = doubtful and len(refused) < count
        return Finished(tuple(final), refused, transaction.answered, doubtful)

    def _say(self, to: _To, octets: bytes) -> None:
        self._out.append(octets)
        self._awaited.append(to)
