"""What a file in the Pickup folder says: its envelope, and the message in it.

    x-sender: relay@example.com            envelope lines: names in any case, display names allowed,
    x-receiver: "Ops" <ops@example.net>    x-sender may be <>
    From: "SQL Alerts" <relay@example.com>
    Subject: job failed

    Step 3 returned 1.

Without x-sender the envelope sender is the (first) address of Sender, or else of From; without x-receiver the
recipients are the addresses of To, Cc and Bcc, each once. Resent fields are no envelope: what was once resent to
somebody is not sent there again. x-sender, x-receiver and Bcc (Resent-Bcc too) are taken out wherever in the
header they stand; everything else of the header stays as it is. An address without a domain gets the default one.

Line ends may be CRLF, LF or CR, and leave as CRLF; a file that does not end with a line end gets one, a header that
is not followed by an empty line gets one. A UTF-8 byte order mark in front is taken off. .NET and CDO double the
dot at the start of a line, as SMTP does (RFC 5321 §4.5.2): a doubled dot becomes one, a single one stays, as no
program that doubles dots can have written it. So a lone dot is a line like any other. The envelope line
`x-dot-stuffed: no` (or `yes`) says it for its own file; Badmail files carry it. Nothing else is changed.

Pure: no I/O here.
"""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass

from mailroot.mail.address import Address
from mailroot.mail.header import fields, printable
from mailroot.mail.mailboxes import mailboxes
from mailroot.smtp.grammar import parse_mailbox
from mailroot.smtp.stuffing import paired

_TAKEN_OUT = re.compile(
    rb"^(?:x-sender|x-receiver|x-dot-stuffed|bcc|resent-bcc)[ \t]*+:[^\n]*+\n(?:[ \t][^\n]*+\n)*+",
    re.IGNORECASE | re.MULTILINE,
)


class BadFile(Exception):
    """The file is no message that could be sent; the text says why, in sentences for people."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The header of a Pickup file, read: envelope sender and recipients, the fields that stay (each with its
    CRLF, without the empty line), and what the file itself says about doubled dots, if it does."""

    sender: Address | None
    recipients: tuple[Address, ...]
    header: bytes
    dot_stuffed: bool | None


def read_header(header: bytes, default_domain: str, max_recipients: int) -> Opening:
    """Read the fields of a file's header; its lines end with CRLF. Raises BadFile."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields(header):
        found.setdefault(name.lower(), []).append(value)
    sender = _sender(found, default_domain)
    recipients = _recipients(found, default_domain)
    if len(recipients) > max_recipients:
        raise BadFile(f"It has {len(recipients)} recipients; the limit is {max_recipients}.")
    dot_stuffed = found.get(b"x-dot-stuffed")
    return Opening(
        sender,
        recipients,
        _TAKEN_OUT.sub(b"", header),
        dot_stuffed[0].lower() == b"yes" if dot_stuffed else None,
    )


def _sender(found: dict[bytes, list[bytes]], default_domain: str) -> Address | None:
    for name in (b"x-sender", b"sender", b"from"):
        if name not in found:
            continue
        given = mailboxes(found[name][0])
        if name == b"x-sender":
            if given == ["<>"]:
                return None
            if len(given) != 1:
                raise BadFile("x-sender must hold one address, or <> for a message that wants no reports.")
        if given:
            return _address(name, given[0], default_domain)
    raise BadFile("It names no sender: neither x-sender nor Sender nor From holds an address.")


def _recipients(found: dict[bytes, list[bytes]], default_domain: str) -> tuple[Address, ...]:
    names = (b"x-receiver",) if b"x-receiver" in found else (b"to", b"cc", b"bcc")
    recipients: dict[tuple[str, str], Address] = {}
    for name in names:
        for value in found.get(name, ()):
            for given in mailboxes(value):
                address = _address(name, given, default_domain)
                recipients.setdefault((address.local, address.domain_key), address)
    if not recipients:
        raise BadFile("It names no recipient: neither x-receiver nor To, Cc or Bcc holds an address.")
    return tuple(recipients.values())


def _address(field: bytes, text: str, default_domain: str) -> Address:
    try:
        if "\ufffd" in text:
            raise ValueError(f"{text!r} is not an e-mail address: it is neither ASCII nor UTF-8")
        return parse_mailbox(text, default_domain)
    except ValueError as error:
        raise BadFile(f"{field.decode().capitalize()}: {printable(str(error))[:400]}.") from None


class LineEnds:
    """Makes every line end CRLF, in pieces of any size, and takes a byte order mark off."""

    __slots__ = ("_held", "_started")

    def __init__(self) -> None:
        self._held = b""
        self._started = False

    def add(self, octets: bytes) -> bytes:
        """The octets that stand for these. Raises BadFile for UTF-16."""
        octets = self._held + octets
        self._held = b""
        if not self._started:
            if len(octets) < len(BOM_UTF8):
                self._held = octets
                return b""
            self._started = True
            if octets.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                raise BadFile("It is written in UTF-16; a message has to be saved as UTF-8 (or ASCII).")
            octets = octets.removeprefix(BOM_UTF8)
        if octets.endswith(b"\r"):
            # Whether a LF follows is seen in the next piece.
            self._held = b"\r"
            octets = octets[:-1]
        return paired(octets)

    def end(self) -> bytes:
        """What is left when there is no more."""
        return paired(self._held)


class Unstuffing:
    """Halves doubled dots at line starts, in pieces of any size that hold CR and LF as pairs only."""

    __slots__ = ("_at_line_start", "_held")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = False

    def add(self, octets: bytes) -> bytes:
        """The octets that stand for these."""
        if not octets:
            return b""
        if self._held:
            octets = b"." + octets
            self._held = False
        if octets.endswith(b"\r\n.") or (self._at_line_start and octets == b"."):
            # Whether it is doubled is seen in the next piece.
            self._held = True
            octets = octets[:-1]
            if not octets:
                return b""
        if self._at_line_start and octets.startswith(b".."):
            octets = octets[1:]
        self._at_line_start = octets.endswith(b"\n")
        return octets.replace(b"\r\n..", b"\r\n.")

    def end(self) -> bytes:
        """What is left when there is no more."""
        return b"." if self._held else b""
