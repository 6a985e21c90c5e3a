"""What a server's replies mean to an SMTP client, as values; `client` gives them out."""

from dataclasses import dataclass

from mailroot.mail.reply import Reply


@dataclass(frozen=True, slots=True)
class Ready:
    """EHLO or HELO was accepted; `protocol.offer` says what the server can."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The greeting, or EHLO and HELO, said no; there is nothing to be had here now."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class SecurityOffered:
    """STARTTLS was accepted: do the handshake now, then call `secured`."""


@dataclass(frozen=True, slots=True)
class SecurityRefused:
    """STARTTLS was refused; the connection stays in the clear."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """AUTH was accepted."""


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """AUTH was refused."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class ContentWanted:
    """Send the content now: `content` for each piece, then `end_content`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The transaction is over; `replies` has what decides each recipient's fate, in the envelope's order.

    `refused` are the indices whose RCPT was refused while the transaction went on. `answered`: the server said
    anything at all to it. `doubtful`: the content went out completely, but no reply came.
    """

    replies: tuple[Reply, ...]
    refused: tuple[int, ...] = ()
    answered: bool = True
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Closing:
    """The server says 421 without being asked; it closes."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT was answered; close."""


ClientEvent = (
    Ready | Refused | SecurityOffered | SecurityRefused | LoggedIn | LoginRefused | ContentWanted | Finished
    | Closing | Quit
)  # fmt: skip
