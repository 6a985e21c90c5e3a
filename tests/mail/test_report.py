"""Reports as programs and people read them."""

import base64
from collections.abc import Callable
from dataclasses import replace
from email import message_from_bytes
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.address import Address
from mailroot.mail.convert import needs_conversion
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.reply import Reply
from mailroot.mail.report import DeliveryReport, Kind, Told, compose

pytestmark = pytest.mark.quick

NOW = 1_800_000_000.0
ORIGINAL = b"From: sql@example.com\r\nTo: ops@example.net\r\nSubject: job failed\r\n\r\nStep 3 returned 1.\r\n"
OPS = Recipient(Address("ops", "example.net"))
UNKNOWN = Told(
    OPS,
    Reply(550, "5.1.1", "User unknown\nSee https://example.net/"),
    "mx.example.net [192.0.2.1]:25",
    NOW,
    "The address does not exist there. Check its spelling.",
)

REPORT = DeliveryReport(
    kind=Kind.FAILED,
    envelope=Envelope(Address("sql", "example.com"), (OPS,)),
    origin=Origin(Door.SMTP, NOW - 60, "192.0.2.9", "SQL01"),
    message_id="<one@example.com>",
    subject="job failed",
    told=(UNKNOWN,),
    returned=ORIGINAL,
    whole=True,
    fqdn="relay.example.com",
    postmaster=Address("postmaster", "example.com"),
    id="<report@relay.example.com>",
    token="0123456789abcdef",
    now=NOW,
)


def parsed(report: DeliveryReport) -> tuple[Message, str, list[Message], Message]:
    """The report, its text, the field blocks of its status part, and its third part."""
    octets = compose(report, 0)
    if not report.needs_smtputf8:
        assert not needs_conversion(octets)
    message = message_from_bytes(octets)
    text, status, returned = message.get_payload()
    assert not message.defects and not text.defects and not status.defects
    return message, text.get_payload(decode=True).decode(), status.get_payload(), returned


def test_a_failure_report_octet_by_octet() -> None:
    assert compose(REPORT, 0).decode().split("\r\n") == [
        "From: Mail Delivery System <postmaster@example.com>",
        "To: <sql@example.com>",
        "Subject: Delivery Status Notification (Failure)",
        "Date: Fri, 15 Jan 2027 08:00:00 +0000",
        "Message-ID: <report@relay.example.com>",
        "In-Reply-To: <one@example.com>",
        "References: <one@example.com>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        '\tboundary="DSN=_0123456789abcdef"',
        "",
        "This is a MIME message: a text for people, the same for programs, and what it is about.",
        "",
        "--DSN=_0123456789abcdef",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 7bit",
        "",
        "This is an automatically generated Delivery Status Notification.",
        "",
        "Delivery to the following recipients failed.",
        "",
        "       ops@example.net",
        "",
        "",
        "ops@example.net:",
        "mx.example.net [192.0.2.1]:25, on Fri, 15 Jan 2027 08:00:00 +0000:",
        "    550 5.1.1 User unknown",
        "    See https://example.net/",
        "The address does not exist there. Check its spelling.",
        "",
        "",
        "The message:",
        "",
        "       Subject: job failed",
        "       From: sql@example.com",
        "       Received: Fri, 15 Jan 2027 07:59:00 +0000 from SQL01 [192.0.2.9]",
        "       Message-ID: <one@example.com>",
        "",
        "This report was written by relay.example.com.",
        "",
        "--DSN=_0123456789abcdef",
        "Content-Type: message/delivery-status",
        "Content-Transfer-Encoding: 7bit",
        "",
        "Reporting-MTA: dns;relay.example.com",
        "Received-From-MTA: dns;SQL01",
        "Arrival-Date: Fri, 15 Jan 2027 07:59:00 +0000",
        "",
        "Final-Recipient: rfc822;ops@example.net",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns;mx.example.net",
        "Diagnostic-Code: smtp;550 5.1.1 User unknown See https://example.net/",
        "Last-Attempt-Date: Fri, 15 Jan 2027 08:00:00 +0000",
        "",
        "--DSN=_0123456789abcdef",
        "Content-Type: message/rfc822",
        "Content-Transfer-Encoding: 7bit",
        "",
        *ORIGINAL.decode().split("\r\n"),
        "--DSN=_0123456789abcdef--",
        "",
    ]


def test_what_the_client_asked_for_comes_back() -> None:
    recipient = replace(OPS, original="rfc822;Ops+list@example.org")
    _, _, (about, one), _ = parsed(
        replace(
            REPORT,
            envelope=replace(REPORT.envelope, envid="QQ 314159"),
            told=(replace(UNKNOWN, recipient=recipient),),
        )
    )
    assert about["Original-Envelope-Id"] == "QQ 314159"
    assert one["Original-Recipient"] == "rfc822;Ops+list@example.org"
    assert one["Final-Recipient"] == "rfc822;ops@example.net"


def test_an_expired_message_has_its_status_and_the_last_reply() -> None:
    last = Reply(452, "4.4.7", "Not delivered. The last answer was: 452 4.2.2 full")
    told = replace(UNKNOWN, reply=last, words="The mailbox is full.")
    _, text, (_, one), _ = parsed(replace(REPORT, told=(told,)))
    assert (one["Action"], one["Status"]) == ("failed", "4.4.7")
    assert one["Diagnostic-Code"].split() == f"smtp;{last}".split()
    assert "Last tried: mx.example.net [192.0.2.1]:25, on Fri, 15 Jan 2027 08:00:00" in text
    assert f"+0000:\r\n    {last}\r\n" in text
    assert "not tried again" in text
    assert "The mailbox is full." in text


def test_a_failure_that_was_said_as_a_delay_is_one() -> None:
    reply = Reply(421, "4.7.1", "All messages will be permanently deferred; Retrying will NOT succeed")
    _, text, (_, one), _ = parsed(replace(REPORT, told=(replace(UNKNOWN, reply=reply),)))
    assert (one["Action"], one["Status"]) == ("failed", "5.7.1")
    assert "Last tried" not in text and "not tried again" not in text


def test_an_expired_message_whose_reply_quotes_the_last_one() -> None:
    reply = Reply(451, "4.4.7", "Not delivered within 48 hours. The last answer was: 451 4.4.1 Connection refused")
    _, text, (_, one), _ = parsed(replace(REPORT, told=(replace(UNKNOWN, reply=reply),)))
    assert one["Status"] == "4.4.7"
    assert "Connection refused" in " ".join(one["Diagnostic-Code"].split())
    assert "due to being unable to connect" in text


def test_no_host_was_reached() -> None:
    reply = Reply(451, "4.4.7", "The last answer was: 451 4.4.1 Connection refused")
    _, text, (_, one), _ = parsed(replace(REPORT, told=(replace(UNKNOWN, reply=reply, host=""),)))
    assert one["Remote-MTA"] is None
    assert one["Diagnostic-Code"].split() == f"x-mailroot;{reply}".split()
    assert "unable to connect\r\nsuccessfully to the destination mail server." in text
    assert "Last tried: This server, on Fri," in text


def test_a_mail_loop_is_named() -> None:
    reply = Reply(554, "5.4.6", "Too many hops")
    _, text, (_, one), _ = parsed(replace(REPORT, told=(replace(UNKNOWN, reply=reply),)))
    assert "This could indicate a mail loop." in text
    assert one["Status"] == "5.4.6"


def test_a_delay() -> None:
    message, text, (_, one), returned = parsed(
        replace(
            REPORT,
            kind=Kind.DELAYED,
            told=(replace(UNKNOWN, reply=Reply(421, "", "Busy"), host="[192.0.2.1]:25"),),
            returned=b"Subject: job failed\r\n",
            whole=False,
            due=NOW + 3600,
            expires=NOW + 86400,
        )
    )
    assert message["Subject"] == "Delivery Status Notification (Delay)"
    assert (one["Action"], one["Status"], one["Remote-MTA"]) == ("delayed", "4.4.7", "dns;[192.0.2.1]:25")
    assert one["Will-Retry-Until"] == "Sat, 16 Jan 2027 08:00:00 +0000"
    assert "YOU DO NOT NEED TO RESEND YOUR MESSAGE." in text
    assert "next on Fri, 15 Jan 2027 09:00:00" in " ".join(text.split())
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_payload() == "Subject: job failed\r\n"


@pytest.mark.parametrize(
    ("kind", "subject"), [(Kind.DELIVERED, "Success"), (Kind.RELAYED, "Relay"), (Kind.FAILED, "Failure")]
)
def test_subjects_and_actions(kind: Kind, subject: str) -> None:
    told = replace(UNKNOWN, reply=Reply(250, "", "Taken")) if kind is not Kind.FAILED else UNKNOWN
    message, text, (_, one), _ = parsed(replace(REPORT, kind=kind, told=(told,)))
    assert message["Subject"] == f"Delivery Status Notification ({subject})"
    assert one["Action"] == kind.value
    assert one["Status"] == ("5.1.1" if kind is Kind.FAILED else "2.0.0")
    assert text.splitlines()[0] == "This is an automatically generated Delivery Status Notification."


def test_many_recipients() -> None:
    told = tuple(
        replace(
            UNKNOWN, recipient=Recipient(Address(f"user{n}", "example.net")), host=f"mx{n}.example.net [::1]:25"
        )
        for n in range(100)
    )
    _, text, (_, *each), _ = parsed(replace(REPORT, told=told))
    assert [one["Final-Recipient"] for one in each] == [f"rfc822;user{n}@example.net" for n in range(100)]
    assert all(f"\r\n       user{n}@example.net\r\n" in text for n in range(100))


def test_nothing_that_strangers_wrote_gets_into_other_fields() -> None:
    evil = "x\r\nBcc: victim@example.org\r\n\r\n--DSN=_0123456789abcdef--\x00\x1b[31m"
    recipient = Recipient(Address(evil, evil), original=f"rfc822;{evil}")
    report = replace(
        REPORT,
        envelope=Envelope(Address(evil, "example.com"), (recipient,), envid=evil),
        origin=Origin(Door.SMTP, NOW, evil, evil),
        message_id=evil,
        subject=evil,
        told=(Told(recipient, Reply(550, "5.1.1", evil), evil, NOW),),
    )
    message, _, (about, one), _ = parsed(report)
    assert len(message.get_payload()) == 3
    for block in (message, about, one):
        assert block["Bcc"] is None
    assert b"\x1b" not in compose(report, 0)


def test_a_long_reply_is_folded_and_cut() -> None:
    reply = Reply(550, "5.7.1", "\n".join(["word " * 1000] * 100))
    _, text, (_, one), _ = parsed(replace(REPORT, told=(replace(UNKNOWN, reply=reply),)))
    assert all(len(line) <= 78 for line in str(one["Diagnostic-Code"]).split("\r\n"))
    assert len(text) < 12_000


# Originals that are more than ASCII

EIGHT_BIT = (
    b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + "Größe\r\n".encode()
)


def test_an_eight_bit_message_comes_back_as_seven_bit() -> None:
    _, _, _, returned = parsed(replace(REPORT, returned=EIGHT_BIT))
    assert returned.get_content_type() == "message/rfc822"
    (original,) = returned.get_payload()
    assert original.get_payload(decode=True) == "Größe\r\n".encode()


def test_a_message_with_utf8_in_its_header_comes_back_encoded() -> None:
    octets = "Subject: Größe\r\n\r\nGröße\r\n".encode()
    report = replace(REPORT, returned=octets)
    _, _, _, returned = parsed(report)
    assert (returned.get_content_type(), returned["Content-Transfer-Encoding"]) == ("message/global", "base64")
    assert b"\r\n\r\n" + base64.b64encode(octets) + b"\r\n" in compose(report)


def test_of_a_message_with_a_broken_header_only_that_comes_back() -> None:
    _, _, _, returned = parsed(replace(REPORT, returned=b"Subject: Gr\xf6\xdfe\r\n\r\nText\r\n"))
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_payload(decode=True) == b"Subject: Gr\xf6\xdfe\r\n"


def test_the_subject_is_shown_as_it_is() -> None:
    _, text, _, _ = parsed(replace(REPORT, subject="Größe"))
    assert "       Subject: Größe\r\n" in text


def test_an_international_recipient_of_an_ascii_sender() -> None:
    recipient = Recipient(Address("jürgen+x", "bücher.example"), original="utf-8;jürgen+x@bücher.example")
    report = replace(REPORT, told=(replace(UNKNOWN, recipient=recipient),))
    assert not report.needs_smtputf8
    _, text, (_, one), _ = parsed(report)
    assert one["Final-Recipient"] == r"utf-8;j\x{FC}rgen\x{2B}x@b\x{FC}cher.example"
    assert one["Original-Recipient"] == one["Final-Recipient"]
    assert "       jürgen+x@bücher.example\r\n" in text


def test_an_international_sender() -> None:
    recipient = Recipient(Address("jürgen", "bücher.example"))
    envelope = Envelope(Address("søren", "example.com"), (recipient,), smtputf8=True)
    report = replace(REPORT, envelope=envelope, told=(replace(UNKNOWN, recipient=recipient),))
    assert report.needs_smtputf8
    octets = compose(report, 0)
    assert "\r\nTo: <søren@example.com>\r\n".encode() in octets
    assert b"report-type=global-delivery-status;" in octets
    assert b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n" in octets
    assert "\r\nFinal-Recipient: utf-8;jürgen@bücher.example\r\n".encode() in octets


_TEXT = st.text(max_size=40)
_BUILD: Callable[..., DeliveryReport] = lambda kind, local, text, code, status, octets, whole: replace(  # noqa: E731
    REPORT,
    kind=kind,
    envelope=Envelope(Address("sql", "example.com"), (OPS,), envid=text),
    origin=Origin(Door.SMTP, NOW, text, text),
    subject=text,
    message_id=text,
    told=(Told(Recipient(Address(local, "example.net"), original=text), Reply(code, status, text), text, NOW),),
    returned=octets,
    whole=whole,
)


@given(
    st.builds(
        _BUILD,
        st.sampled_from(Kind),
        _TEXT,
        _TEXT,
        st.integers(200, 599),
        _TEXT,
        st.binary(max_size=60) | st.just(ORIGINAL) | st.just(EIGHT_BIT),
        st.booleans(),
    )
)
def test_whatever_it_is_about_a_report_is_well_formed(report: DeliveryReport) -> None:
    message, text, (about, one), _ = parsed(report)
    assert message.get_content_type() == "multipart/report"
    assert about["Reporting-MTA"] == "dns;relay.example.com"
    assert one["Action"] == report.kind.value
    assert one["Status"][0] in "245"
    assert text.startswith("This is an automatically generated")
