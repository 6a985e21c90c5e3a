"""What a client did, as typed values: the events of ServerProtocol. Reads a command line's arguments.

Each event but Content wants exactly one answer.
"""

from dataclasses import dataclass

from mailroot.mail.address import Address
from mailroot.mail.envelope import Recipient
from mailroot.mail.reply import Reply
from mailroot.smtp import answers, grammar
from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.extensions import (
    MailParameters,
    RecipientParameters,
    ServerOffer,
    read_mail_parameters,
    read_recipient_parameters,
)

_MAX_NAME = 255


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
    | Help
    | Vrfy
    | Mistake
)


def read_hello(argument: str, *, extended: bool) -> Hello:
    """The name is taken as it is, or none at all: .NET sends a bare computer name, printers anything."""
    if len(argument.encode()) > _MAX_NAME:
        raise ProtocolError(answers.INVALID_NAME)
    return Hello(argument, extended)


def read_mail(argument: str, offer: ServerOffer) -> Mail:
    path, parameters_text = _read_path(_after(argument, "FROM"), offer)
    parameters = read_mail_parameters(parameters_text)
    if parameters.size is not None and offer.max_size and parameters.size > offer.max_size:
        raise ProtocolError(answers.TOO_LARGE)
    if path is not None and not parameters.smtputf8 and not path.is_ascii:
        raise ProtocolError(answers.UTF8_ADDRESS)
    return Mail(path, parameters)


def read_rcpt(argument: str, offer: ServerOffer, *, smtputf8: bool) -> Rcpt:
    path, text = _read_path(_after(argument, "TO"), offer)
    if path is None:
        raise ProtocolError(answers.INVALID_ADDRESS)
    if not smtputf8 and not path.is_ascii:
        raise ProtocolError(answers.UTF8_ADDRESS)
    parameters: RecipientParameters = read_recipient_parameters(text, smtputf8=smtputf8)
    return Rcpt(Recipient(path, parameters.notify, parameters.original))


def read_vrfy(argument: str, offer: ServerOffer) -> Vrfy:
    """A mailbox or user name, and perhaps SMTPUTF8: then the answer may name it also where it is not ASCII
    (RFC 6531 §3.7.4.2). A person's name in several words is nobody we could mean."""
    path, rest = _read_path(argument, offer)
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


def _after(argument: str, keyword: str) -> str:
    """What follows `FROM:` or `TO:`; white space around the colon is let pass."""
    word, colon, path = argument.partition(":")
    if not colon or word.strip(" ").upper() != keyword:
        raise ProtocolError(answers.SYNTAX)
    return path.lstrip(" ")


def _read_path(text: str, offer: ServerOffer) -> tuple[Address | None, str]:
    try:
        return grammar.read_path(text, offer.default_domain)
    except ValueError:
        raise ProtocolError(answers.INVALID_ADDRESS) from None
