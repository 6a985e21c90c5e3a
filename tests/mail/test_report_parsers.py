"""Reports as the bounce parsers of mailing lists read them."""

from dataclasses import replace
from email import message_from_bytes

import pytest
from flufl.bounce import all_failures, scan_message

from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.reply import Reply
from mailroot.mail.report import DeliveryReport, Kind, Told, compose

NOW = 1_800_000_000.0


def report(kind: Kind, *addresses: str) -> DeliveryReport:
    recipients = tuple(Recipient(Address(*address.split("@"))) for address in addresses)
    reply = Reply(550, "5.1.1", "User unknown") if kind is Kind.FAILED else Reply(451, "4.3.0", "Not now")
    return DeliveryReport(
        kind=kind,
        envelope=Envelope(Address("list-bounces", "example.com"), recipients),
        origin=Origin(Door.SMTP, NOW),
        message_id="<one@example.com>",
        subject="Größe",
        told=tuple(Told(recipient, reply, "mx.example.net [192.0.2.1]:25", NOW) for recipient in recipients),
        returned=b"To: other@example.org\r\nSubject: x\r\n\r\nText\r\n",
        whole=True,
        fqdn="relay.example.com",
        postmaster=Address("postmaster", "example.com"),
        id="<report@relay.example.com>",
        token="0123456789abcdef",
        now=NOW,
    )


def failures(octets: bytes) -> tuple[set[bytes], set[bytes]]:
    temporary, permanent = all_failures(message_from_bytes(octets))
    return set(temporary), set(permanent)


def test_failed_recipients_are_found() -> None:
    octets = compose(report(Kind.FAILED, "a@example.net", "b@example.org"))
    assert failures(octets) == (set(), {b"a@example.net", b"b@example.org"})
    assert set(scan_message(message_from_bytes(octets))) == {b"a@example.net", b"b@example.org"}


def test_the_original_recipient_is_the_one_that_counts() -> None:
    about = report(Kind.FAILED, "a@example.net")
    recipient = replace(about.told[0].recipient, original="rfc822;subscribed@example.org")
    octets = compose(replace(about, told=(replace(about.told[0], recipient=recipient),)))
    assert failures(octets) == (set(), {b"subscribed@example.org"})


def test_a_delay_is_no_failure() -> None:
    octets = compose(replace(report(Kind.DELAYED, "a@example.net"), whole=False, returned=b"Subject: x\r\n"))
    assert failures(octets) == ({b"a@example.net"}, set())


@pytest.mark.parametrize("kind", [Kind.DELIVERED, Kind.RELAYED])
def test_a_success_is_no_bounce(kind: Kind) -> None:
    about = report(kind, "a@example.net")
    told = (replace(about.told[0], reply=Reply(250, "2.0.0", "Taken")),)
    octets = compose(replace(about, told=told, whole=False, returned=b"Subject: x\r\n"))
    assert failures(octets) == (set(), set())
