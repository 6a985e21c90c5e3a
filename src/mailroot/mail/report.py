"""Delivery status notifications: composing one, from values alone (RFC 3461 §6, RFC 3464, RFC 6522, RFC 6533).

A report has the shape the old SMTP service gave it, which bounce parsers know: a text for people, a part for
programs, and the message (or its header) it is about. It is always 7-bit data, so that every host can take it, with
one exception: to a sender whose address is not ASCII it needs SMTPUTF8, as the message did.

Who gets a report, and whether, is decided elsewhere (deliver.bounce). Whatever strangers wrote (addresses, replies,
subjects) is made one printable line before it stands in a field.
"""

import re
import textwrap
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from mailroot.mail import status
from mailroot.mail.address import Address
from mailroot.mail.convert import base64_lines, needs_conversion, quoted_printable, to_seven_bit
from mailroot.mail.date import format_date
from mailroot.mail.envelope import Envelope, Origin, Recipient
from mailroot.mail.header import printable, split
from mailroot.mail.reply import Reply


class Kind(StrEnum):
    """What a report is about; the value is the Action field of its recipients (RFC 3464 §2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"

    @property
    def subject(self) -> str:
        """The subject of the report."""
        return f"Delivery Status Notification ({_WORDS[self]})"


_WORDS = {Kind.FAILED: "Failure", Kind.DELAYED: "Delay", Kind.DELIVERED: "Success", Kind.RELAYED: "Relay"}


@dataclass(frozen=True, slots=True)
class Told:
    """A recipient and the last thing that was heard about it: as in `mail.outcome`. `words` say what that means and
    what can be done, "" where nothing has to be."""

    recipient: Recipient
    reply: Reply
    host: str
    at: float
    words: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """All that goes into a report.

    `envelope`, `origin`, `message_id` and `subject` are those of the message it is about; `returned` is that
    message if `whole`, or else its header. `id` is the report's own Message-ID, with brackets; `token` makes its
    boundary one that stands nowhere in the message. `due` and `expires` are for a delay: when it is tried next, and
    when no more. Times are seconds since the epoch.
    """

    kind: Kind
    envelope: Envelope
    origin: Origin
    message_id: str
    subject: str
    told: tuple[Told, ...]
    returned: bytes
    whole: bool
    fqdn: str
    postmaster: Address
    id: str
    token: str
    now: float
    due: float = 0.0
    expires: float = 0.0

    @property
    def needs_smtputf8(self) -> bool:
        """Whether the report has an address that is not ASCII in its header, and so needs SMTPUTF8."""
        sender = self.envelope.sender
        return not self.postmaster.is_ascii or (sender is not None and not sender.is_ascii)


def compose(report: DeliveryReport, offset: int | None = None) -> bytes:
    """The report as a message, complete with its header. `offset` is the zone of its dates as in `format_date`."""
    delimiter = f"\r\n--DSN=_{report.token}".encode()
    parts = (_text_part(report, offset), _status_part(report, offset), _returned_part(report))
    return b"".join(
        (
            _header(report, offset).encode(),
            b"This is a MIME message: a text for people, the same for programs, and what it is about.\r\n",
            *(octets for part in parts for octets in (delimiter, b"\r\n", part)),
            delimiter,
            b"--\r\n",
        )
    )


def _header(report: DeliveryReport, offset: int | None) -> str:
    fields = [
        ("From", f"Mail Delivery System <{_address(report.postmaster)}>"),
        ("To", f"<{_address(report.envelope.sender)}>"),
        ("Subject", report.kind.subject),
        ("Date", format_date(report.now, offset)),
        ("Message-ID", report.id),
    ]
    if _MESSAGE_ID.fullmatch(report.message_id):
        fields += [("In-Reply-To", report.message_id), ("References", report.message_id)]
    fields += [
        ("Auto-Submitted", "auto-replied"),  # RFC 3834 §5
        ("MIME-Version", "1.0"),
        (
            "Content-Type",
            f'multipart/report; report-type={_report_type(report)};\r\n\tboundary="DSN=_{report.token}"',
        ),
    ]
    if report.needs_smtputf8:
        fields.append(("Content-Transfer-Encoding", "8bit"))
    return "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"


_MESSAGE_ID = re.compile(r"<[!-~]+>")


def _report_type(report: DeliveryReport) -> str:
    return "global-delivery-status" if report.needs_smtputf8 else "delivery-status"


# The text for people

_INDENT = " " * 7


def _text_part(report: DeliveryReport, offset: int | None) -> bytes:
    lines = ["This is an automatically generated Delivery Status Notification.", "", *_reason(report), ""]
    lines += [_INDENT + _address(told.recipient.address) for told in report.told]
    lines += [""]
    for told in report.told:
        lines += ["", f"{_address(told.recipient.address)}:", *_what_happened(report, told, offset)]
    lines += ["", "", "The message:", ""]
    lines += [f"{_INDENT}Subject: {printable(report.subject)}"] if report.subject else []
    lines += [f"{_INDENT}From: {_address(report.envelope.sender)}"]
    lines += [f"{_INDENT}Received: {format_date(report.origin.arrived, offset)}{_from_client(report.origin)}"]
    lines += [f"{_INDENT}Message-ID: {printable(report.message_id)}"] if report.message_id else []
    lines += ["", f"This report was written by {report.fqdn}.", ""]
    octets = "\r\n".join(lines).encode()
    encoding = "7bit"
    if needs_conversion(octets):
        octets, encoding = quoted_printable(octets), "quoted-printable"
    return _part("text/plain; charset=utf-8", encoding, octets)


def _reason(report: DeliveryReport) -> list[str]:
    """The sentence of the old service for this case; parsers of its reports look for some of them."""
    match report.kind:
        case Kind.FAILED:
            if all(status.is_loop(_status(report, told)) for told in report.told):
                return [
                    "Unable to deliver message to the following recipients, because the message was forwarded more",
                    "than the maximum allowed times. This could indicate a mail loop.",
                ]
            if all(status.is_unreachable(told.reply) for told in report.told):
                return [
                    "Unable to deliver message to the following recipients, due to being unable to connect",
                    "successfully to the destination mail server.",
                ]
            return ["Delivery to the following recipients failed."]
        case Kind.DELAYED:
            return [
                "THIS IS A WARNING MESSAGE ONLY.",
                "",
                "YOU DO NOT NEED TO RESEND YOUR MESSAGE.",
                "",
                "Delivery to the following recipients has been delayed.",
            ]
        case Kind.DELIVERED:
            return ["Your message was successfully delivered to the following recipients."]
        case Kind.RELAYED:
            return [
                "Your message has been successfully relayed to the following recipients, but the requested",
                "delivery status notifications may not be generated by the destination.",
            ]
        case _:
            assert_never(report.kind)


def _what_happened(report: DeliveryReport, told: Told, offset: int | None) -> list[str]:
    when = format_date(told.at, offset)
    code = _status(report, told)
    last = "Last tried: " if report.kind is Kind.DELAYED or code == status.EXPIRED else ""
    # The reply may be our own, about a host that said nothing; so this does not claim that the host said it.
    lines = [f"{last}{printable(told.host) or 'This server'}, on {when}:"]
    lines += [f"    {line}" for line in _reply_lines(told.reply)]
    if report.kind is Kind.FAILED:
        if code == status.EXPIRED:
            lines += ["The message has waited as long as it may, and is not tried again."]
        lines += [told.words]
    elif report.kind is Kind.DELAYED:
        again, end = format_date(report.due, offset), format_date(report.expires, offset)
        lines += [f"It is tried again, next on {again}, and given up on {end}."]
        lines += [told.words]
    return [piece for line in lines for piece in ([line] if line.startswith("    ") else _wrapped(line, 76))]


def _reply_lines(reply: Reply) -> list[str]:
    """The reply as it came, in printable lines that are not too long and not too many."""
    code = f"{reply.code} {reply.status}".rstrip()
    lines = f"{code} {reply.text}".split("\n")[:_MOST_LINES]
    return [printable(line).strip()[:_LONGEST] for line in lines]


def _from_client(origin: Origin) -> str:
    return f" from {printable(origin.helo or origin.client)} [{origin.client}]" if origin.client else ""


# The part for programs

_LONGEST = 500
"""Characters of a line that a remote host said; RFC 5321 §4.5.3.1.5 gives it 512 octets."""

_MOST_LINES = 20


def _status_part(report: DeliveryReport, offset: int | None) -> bytes:
    """RFC 3464 §2: fields about the message, then for each recipient an empty line and fields."""
    fields = []
    if report.envelope.envid is not None:
        fields.append(("Original-Envelope-Id", printable(report.envelope.envid)))
    fields.append(("Reporting-MTA", f"dns;{report.fqdn}"))
    if report.origin.helo:
        fields.append(("Received-From-MTA", f"dns;{printable(report.origin.helo)}"))
    fields.append(("Arrival-Date", format_date(report.origin.arrived, offset)))
    blocks = [fields, *(_recipient_fields(report, told, offset) for told in report.told)]
    text = "\r\n".join("".join(_field(name, value) for name, value in block) for block in blocks)
    if report.needs_smtputf8:
        return _part("message/global-delivery-status", "8bit", text.encode())
    return _part("message/delivery-status", "7bit", text.encode("ascii", "replace"))


def _recipient_fields(report: DeliveryReport, told: Told, offset: int | None) -> list[tuple[str, str]]:
    recipient = told.recipient
    fields = []
    if recipient.original is not None and ";" in recipient.original:
        kind, _, address = printable(recipient.original).partition(";")
        fields.append(("Original-Recipient", _typed(kind, address, report.needs_smtputf8)))
    fields += [
        ("Final-Recipient", _typed("rfc822", _address(recipient.address), report.needs_smtputf8)),
        ("Action", report.kind.value),
        ("Status", _status(report, told)),
    ]
    if host := _host_name(told.host):
        fields.append(("Remote-MTA", f"dns;{host}"))
    if report.kind in {Kind.FAILED, Kind.DELAYED} or told.host:
        # RFC 3464 §2.3.6: the type smtp is for what a remote host said.
        said = " ".join(_reply_lines(told.reply))
        fields.append(("Diagnostic-Code", f"{'smtp' if told.host else 'x-mailroot'};{said}"))
    fields.append(("Last-Attempt-Date", format_date(told.at, offset)))
    if report.kind is Kind.DELAYED:
        fields.append(("Will-Retry-Until", format_date(report.expires, offset)))
    return fields


def _status(report: DeliveryReport, told: Told) -> str:
    match report.kind:
        case Kind.FAILED:
            return status.failed(told.reply)
        case Kind.DELAYED:
            return status.delayed(told.reply)
        case Kind.DELIVERED | Kind.RELAYED:
            return status.succeeded(told.reply)
        case _:
            assert_never(report.kind)


def _typed(kind: str, address: str, as_utf8: bool) -> str:
    """An address with its type (RFC 3464 §2.3.1); one that is not ASCII has the type utf-8 and, where octets above
    127 may not stand, the form of RFC 6533 §3 for it."""
    if address.isascii():
        return f"{kind};{address}"
    return f"utf-8;{address if as_utf8 else _utf8_xtext(address)}"


def _utf8_xtext(address: str) -> str:
    """utf-8-addr-xtext: whatever is no QCHAR as its code point, `\\x{E9}`."""
    return "".join(
        character if "!" <= character <= "~" and character not in "+=\\" else f"\\x{{{ord(character):X}}}"
        for character in address
    )


def _host_name(host: str) -> str:
    """The name in "name [address]:port", or the address in brackets where there is no name."""
    found = _HOST.match(host)
    return found[1] if found else ""


_HOST = re.compile(r"([!-~]+)")


def _field(name: str, value: str) -> str:
    """A field, folded at white space; no line is longer than about 78 unless a word is."""
    return "\r\n ".join(_wrapped(f"{name}: {value}", 76)) + "\r\n"


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)


# What the report is about


def _returned_part(report: DeliveryReport) -> bytes:
    """The message, or its header, in a form that any host takes."""
    octets = report.returned
    if report.whole:
        if (seven_bit := to_seven_bit(octets)) is not None:
            return _part("message/rfc822", "7bit", seven_bit)
        header, _, _ = split(octets)
        if _is_utf8(header):
            # RFC 6532 §3.7: unlike message/rfc822, this type may be encoded.
            return _part("message/global", "base64", base64_lines(octets))
        octets = header  # with eight bits and no known character set it could only be damaged: RFC 6522 §4
    if needs_conversion(octets):
        return _part("text/rfc822-headers; charset=utf-8", "quoted-printable", quoted_printable(octets))
    return _part("text/rfc822-headers", "7bit", octets)


def _part(kind: str, encoding: str, octets: bytes) -> bytes:
    return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + octets


def _address(address: Address | None) -> str:
    return printable(str(address)) if address else ""


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True
