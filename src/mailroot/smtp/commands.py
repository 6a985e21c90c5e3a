"""What a client did, as typed values: the events of ServerProtocol. Reads a command line's arguments.

Each event but Content wants exactly one answer.
"""

import re
from binascii import a2b_base64
from dataclasses import dataclass, field

from mailroot.mail.address import Address
from mailroot.mail.envelope import Recipient
from mailroot.mail.reply import Reply
from mailroot.smtp import answers, grammar, shown, xclient
from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.extensions import (
    MailParameters,
    RecipientParameters,
    ServerOffer,
    read_mail_parameters,
    read_recipient_parameters,
)

_MAX_NAME = 255
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_MECHANISM = re.compile(r"[A-Za-z0-9_-]{1,20}")  # RFC 4422 §3.1


@dataclass(frozen=True, slots=True)
class Hello:
    """HELO or, `extended`, EHLO. `name` is what the client calls itself: any printable text, "" for nothing.
    Whatever transaction there was is over."""

    name: str
    extended: bool


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL. `sender` None is the null reverse-path."""

    sender: Address | None
    parameters: MailParameters


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT."""

    recipient: Recipient


@dataclass(frozen=True, slots=True)
class Data:
    """DATA: a 354 lets the content come."""


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the message's content, from DATA or BDAT, as it is to be stored. Wants no answer."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class ChunkEnd:
    """A BDAT chunk of `size` octets is complete, and more chunks will follow. A refusal ends the transaction."""

    size: int


@dataclass(frozen=True, slots=True)
class ContentEnd:
    """The message is complete, `size` octets. The transaction is over, whatever the answer."""

    size: int


@dataclass(frozen=True, slots=True)
class ContentRefused:
    """The content was read to its end and cannot be taken; forget it. `reply` says why and is the answer to give.
    `command` is what carried it, DATA or BDAT. The transaction is over."""

    command: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Rset:
    """RSET: whatever transaction there was is over."""


@dataclass(frozen=True, slots=True)
class Noop:
    """NOOP."""


@dataclass(frozen=True, slots=True)
class Help:
    """HELP, with or without a topic."""


@dataclass(frozen=True, slots=True)
class Vrfy:
    """VRFY."""

    address: Address


@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS. After a 220 comes the handshake, then `ServerProtocol.secured`."""


@dataclass(frozen=True, slots=True)
class Auth:
    """AUTH. `mechanism` is in capitals, and any word: it may be a password that somebody put in the wrong place.
    `initial` is the decoded initial response, b"" for an empty one, None for none.

    To be answered by `ServerProtocol.challenge`, by a success, which is the end of it, or by a refusal."""

    mechanism: str
    initial: bytes | None = field(repr=False)

    @property
    def command(self) -> str:
        """The command as it may stand in a log."""
        return shown.login(self.mechanism)


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """The answer to a challenge, decoded. To be answered as Auth.

    When what came in its place cannot be decoded or is too long there is a Mistake instead, and the login is over.
    """

    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthCancelled:
    """The client broke its login off. Wants AUTH_CANCELLED (RFC 4954 §4)."""


@dataclass(frozen=True, slots=True)
class Xclient:
    """XCLIENT. `attributes` as `xclient.read_attributes` gives them. After `ServerProtocol.introduced` it wants a
    banner, as if the client had just come."""

    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A command that cannot be taken. `reply` says why and is the answer to give; `line` shows the command, cut,
    without controls and without a secret."""

    line: str
    reply: Reply


Event = (
    Content
    | Rcpt
    | Mail
    | Data
    | ContentEnd
    | Hello
    | Quit
    | Rset
    | Noop
    | ChunkEnd
    | ContentRefused
    | StartTls
    | Auth
    | AuthResponse
    | AuthCancelled
    | Xclient
    | Help
    | Vrfy
    | Mistake
)


def read_hello(argument: str, *, extended: bool, strict: bool = False) -> Hello:
    """The name is taken as it is, or none at all: .NET sends a bare computer name, printers anything. `strict`: it
    must be a domain or an address literal (RFC 5321 §4.1.1.1)."""
    if len(argument.encode()) > _MAX_NAME or (strict and not grammar.is_host(argument)):
        raise ProtocolError(answers.INVALID_NAME)
    return Hello(argument, extended)


def read_mail(argument: str, offer: ServerOffer) -> Mail:
    path, parameters_text = _read_path(_after(argument, "FROM", offer), offer)
    parameters = read_mail_parameters(parameters_text)
    if parameters.size is not None and offer.max_size and parameters.size > offer.max_size:
        raise ProtocolError(answers.TOO_LARGE)
    if path is not None and not parameters.smtputf8 and not path.is_ascii:
        raise ProtocolError(answers.UTF8_ADDRESS)
    return Mail(path, parameters)


def read_rcpt(argument: str, offer: ServerOffer, *, smtputf8: bool) -> Rcpt:
    path, text = _read_path(_after(argument, "TO", offer), offer)
    if path is None:
        raise ProtocolError(answers.INVALID_ADDRESS)
    if not smtputf8 and not path.is_ascii:
        raise ProtocolError(answers.UTF8_ADDRESS)
    parameters: RecipientParameters = read_recipient_parameters(text, smtputf8=smtputf8)
    return Rcpt(Recipient(path, parameters.notify, parameters.original))


def read_vrfy(argument: str, offer: ServerOffer) -> Vrfy:
    """A mailbox or user name, and perhaps SMTPUTF8: then the answer may name it also where it is not ASCII
    (RFC 6531 §3.7.4.2). A person's name in several words is nobody we could mean."""
    # A user name stands without brackets; RFC 5321 §4.1.1.6 leaves its form to us.
    try:
        path, rest = grammar.read_path(argument, offer.default_domain)
    except ValueError:
        raise ProtocolError(answers.INVALID_ADDRESS) from None
    smtputf8 = rest.upper() == "SMTPUTF8"
    if path is None or (rest and not smtputf8):
        raise ProtocolError(answers.INVALID_ADDRESS)
    if not smtputf8 and not path.is_ascii:
        raise ProtocolError(answers.UTF8_ADDRESS)
    return Vrfy(path)


def read_bdat(argument: str) -> tuple[int, bool]:
    """RFC 3030 §2: the size of the chunk, and whether it is the last.

    A size that cannot be read is fatal: nobody knows how many octets follow, and they are no commands.
    """
    size, *last = argument.upper().split() or [""]
    if last not in ([], ["LAST"]) or len(size) > 20 or not (size.isascii() and size.isdecimal()):
        raise ProtocolError(answers.BDAT_SYNTAX, fatal=True)
    return int(size), bool(last)


def read_auth(argument: str, *, strict: bool) -> Auth:
    """RFC 4954 §4: the mechanism, and perhaps an initial response. `strict`: one space stands between them."""
    mechanism, _, text = argument.partition(" ")
    if _MECHANISM.fullmatch(mechanism) is None:
        raise ProtocolError(answers.SYNTAX)
    if not strict:
        text = text.lstrip(" ")
    initial: bytes | None = None
    if text:
        # "=" is how an empty response is written where nothing would mean none.
        initial = b"" if text == "=" else _decode_base64(text.encode())
    return Auth(mechanism.upper(), initial)


def read_auth_response(line: bytes, *, strict: bool) -> AuthResponse | AuthCancelled:
    """A line that answers a challenge (RFC 4954 §4). White space after it is let pass, unless `strict`."""
    if not strict:
        line = line.rstrip(b" \t")
    return AuthCancelled() if line == b"*" else AuthResponse(_decode_base64(line))


def _decode_base64(octets: bytes) -> bytes:
    """Base64 whole, without line breaks and anything foreign (RFC 4648 §4)."""
    if _BASE64.fullmatch(octets) is None:
        raise ProtocolError(answers.AUTH_SYNTAX)
    return a2b_base64(octets)


def read_xclient(argument: str) -> Xclient:
    return Xclient(xclient.read_attributes(argument))


def _after(argument: str, keyword: str, offer: ServerOffer) -> str:
    """What follows `FROM:` or `TO:`; white space around the colon is let pass, unless the server is strict."""
    word, colon, path = argument.partition(":")
    if not colon or (word if offer.strict else word.strip(" ")).upper() != keyword:
        raise ProtocolError(answers.SYNTAX)
    return path if offer.strict else path.lstrip(" ")


def _read_path(text: str, offer: ServerOffer) -> tuple[Address | None, str]:
    try:
        if offer.strict:
            return grammar.read_strict_path(text, offer.default_domain)
        return grammar.read_path(text, offer.default_domain)
    except ValueError:
        raise ProtocolError(answers.INVALID_ADDRESS) from None
