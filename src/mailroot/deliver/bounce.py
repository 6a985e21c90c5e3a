"""Delivery reports: who is told what when a message failed, is late, or has arrived (RFC 3461 to 3464).

Here is decided who gets a report about what and how much of the message it brings back; `mail.report` writes it.
There is never a report about a report: a message without a sender gets none (RFC 5321 §4.5.5), and where its
recipients failed, Badmail is the end of it.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, assert_never

from mailroot.clock import Clock
from mailroot.deliver.replies.shipped import explain
from mailroot.mail.address import Address, domain_key
from mailroot.mail.envelope import Body, Door, Envelope, Notify, Origin, Recipient, Return
from mailroot.mail.header import scan
from mailroot.mail.mailboxes import mailboxes
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from mailroot.mail.report import DeliveryReport, Kind, Told, compose
from mailroot.queue.base import Content, Message, Record, Report
from mailroot.units import KIB, Doc, Size


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What the Messages tab says about reports and bad mail."""

    copy_to: Annotated[
        str,
        Doc("Send copy of Non-Delivery Report to this address; empty: nobody.", example="postmaster@example.com"),
    ] = ""
    postmaster: Annotated[
        str,
        Doc("From address of reports; empty: postmaster at the default domain.", example="postmaster@example.com"),
    ] = ""
    max_returned_size: Annotated[Size, Doc("A larger message is reported with its header only.")] = 64 * KIB
    badmail: Annotated[
        Path | None,
        Doc("The Badmail directory; not set: Badmail below the mailroot folder.", example="mailroot/Badmail"),
    ] = None


_LONGEST_HEADER = 64 * KIB
"""Octets of a header that a report brings back."""


class Bounce:
    """Writes the reports of one virtual server. `default_domain` completes addresses of the settings."""

    def __init__(self, settings: ReportSettings, clock: Clock, *, fqdn: str, default_domain: str) -> None:
        self._settings = settings
        self._clock = clock
        self._fqdn = domain_key(fqdn)
        self._postmaster = _address(settings.postmaster or "postmaster", default_domain)
        self._copy_to = _address(settings.copy_to, default_domain) if settings.copy_to else None

    async def reports(
        self,
        record: Record,
        content: Content,
        outcomes: Sequence[tuple[int, Outcome]],
        *,
        delayed: Sequence[int] = (),
        due: float,
        expires: float,
    ) -> list[Report]:
        """The reports that these outcomes cause, one per kind; most often none.

        `delayed` names recipients whose sender is to be told now that they are late; `due` is when they are
        tried next, `expires` when no more (seconds since the epoch). Raises what reading `content` raises.
        """
        sender = record.message.envelope.sender
        if sender is None:
            return []
        told = self._told(record, outcomes, delayed)
        return [
            report
            for kind, recipients in told.items()
            for report in await self._write(record, content, sender, kind, tuple(recipients), due, expires)
        ]

    def _told(
        self, record: Record, outcomes: Sequence[tuple[int, Outcome]], delayed: Sequence[int]
    ) -> dict[Kind, list[Told]]:
        recipients = record.message.envelope.recipients
        told: dict[Kind, list[Told]] = {}
        for index, outcome in outcomes:
            kind = _kind(recipients[index], outcome)
            if kind is not None:
                told.setdefault(kind, []).append(_heard(recipients[index], outcome, kind))
        if delayed:
            now = dict(outcomes)
            for index in delayed:
                if recipients[index].wants(Notify.DELAY):
                    last = now.get(index) or record.standings[index].last or self._untried()
                    told.setdefault(Kind.DELAYED, []).append(_heard(recipients[index], last, Kind.DELAYED))
        return told

    def _untried(self) -> Deferred:
        return Deferred(Reply(451, "4.4.7", "Not tried yet"), "", self._clock.now())

    async def _write(
        self,
        record: Record,
        content: Content,
        sender: Address,
        kind: Kind,
        told: tuple[Told, ...],
        due: float,
        expires: float,
    ) -> list[Report]:
        message, now = record.message, self._clock.now()
        # RFC 3461 §4.3: RET is about failures; all other reports bring the header.
        whole = (
            kind is Kind.FAILED
            and message.envelope.ret is not Return.HEADERS
            and content.size <= self._settings.max_returned_size
        )
        report = DeliveryReport(
            kind=kind,
            envelope=message.envelope,
            origin=message.origin,
            message_id=message.message_id,
            subject=message.subject,
            told=told,
            returned=await (_all(content) if whole else _header(content)),
            whole=whole,
            fqdn=self._fqdn,
            postmaster=self._postmaster,
            id=f"<{secrets.token_hex(12)}@{self._fqdn}>",
            token=secrets.token_hex(12),
            now=now,
            due=due,
            expires=expires,
        )
        octets = compose(report)
        recipients = [Recipient(sender)]
        if kind is Kind.FAILED and self._copy_to is not None and self._copy_to != sender:
            recipients.append(Recipient(self._copy_to, notify=Notify.NEVER))  # RFC 3461 §6.1
        body = Body.EIGHT_BIT if report.needs_smtputf8 else Body.SEVEN_BIT
        return [
            Report(
                Message(
                    Envelope(None, (recipient,), body=body, smtputf8=report.needs_smtputf8),
                    Origin(Door.REPORT, now),
                    prefix=b"",
                    message_id=report.id,
                    subject=kind.subject,
                ),
                octets,
            )
            for recipient in recipients
        ]


def _heard(recipient: Recipient, last: Outcome, kind: Kind) -> Told:
    words = explain(last.reply, last.host).words if kind in (Kind.FAILED, Kind.DELAYED) else ""
    return Told(recipient, last.reply, last.host, last.at, words)


def kind_of(report: Report) -> Kind:
    """What a report of `Bounce.reports` is about."""
    return next(kind for kind in Kind if kind.subject == report.message.subject)


def _kind(recipient: Recipient, outcome: Outcome) -> Kind | None:
    """Which report this outcome causes, if any."""
    match outcome:
        case Delivered():
            # RFC 3461 §5.2.1: a next hop that speaks DSN reports for itself.
            if outcome.reports_on or recipient.notify is None or not recipient.wants(Notify.SUCCESS):
                return None
            # §5.2.2 and §5.2.3: if no host was reached, it is where it should be: in the Drop folder.
            return Kind.RELAYED if outcome.host else Kind.DELIVERED
        case Failed():
            return Kind.FAILED if recipient.wants(Notify.FAILURE) else None
        case Deferred():
            return None
        case _:
            assert_never(outcome)


async def _all(content: Content) -> bytes:
    octets = await content.octets()
    return octets if octets is not None else b"".join([chunk async for chunk in content.chunks()])


async def _header(content: Content) -> bytes:
    """The header, or as many whole lines of it as a report brings back."""
    octets = b""
    async for chunk in content.chunks():
        octets += chunk
        if len(octets) >= _LONGEST_HEADER or scan(octets) is not None:
            break
    head = scan(octets, complete=True)
    end = len(octets) if head is None else head.end - 2 * head.separated
    if end > _LONGEST_HEADER:
        end = octets.rfind(b"\r\n", 0, _LONGEST_HEADER) + 2
    return octets[:end]


def _address(text: str, default_domain: str) -> Address:
    """An address of the settings, with or without display name and domain."""
    local, _, domain = next(iter(mailboxes(text.encode())), text).rpartition("@")
    if not local:
        local, domain = domain, default_domain
    return Address(local, domain_key(domain))
