"""Who is told what: which reports an attempt causes, to whom, and what they bring back."""

from collections.abc import AsyncIterator
from email import message_from_bytes
from email.message import Message as Parsed

import pytest

from mailroot.clock import ManualClock
from mailroot.deliver.bounce import Bounce, ReportSettings, kind_of
from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Door, Envelope, Notify, Origin, Recipient, Return
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from mailroot.mail.report import Kind
from mailroot.queue.base import Fate, Message, MessageId, Record, Report, Standing, State

pytestmark = pytest.mark.quick

CLOCK = ManualClock()
NOW = CLOCK.now()
SENDER = Address("sql", "example.com")
OCTETS = b"Received: by relay\r\nSubject: job failed\r\n\r\nStep 3 returned 1.\r\n"
GONE = Failed(Reply(550, "5.1.1", "User unknown"), "mx.example.net [192.0.2.1]:25", NOW)
BUSY = Deferred(Reply(451, "4.3.2", "Busy"), "mx.example.net [192.0.2.1]:25", NOW)
TAKEN = Delivered(Reply(250, "2.0.0", "Taken"), "mx.example.net [192.0.2.1]:25", NOW)
TAKEN_BY_DSN_HOST = Delivered(Reply(250, "2.0.0", "Taken"), "mx.example.net [192.0.2.1]:25", NOW, reports_on=True)
DROPPED = Delivered(Reply(250, "2.1.5", "Written"), "", NOW)


class Octets:
    """Content in memory, that can say how much of it was read."""

    def __init__(self, octets: bytes, in_one_piece: bool = True, chunk: int = 1000) -> None:
        self._octets = octets
        self._in_one_piece = in_one_piece
        self._chunk = chunk
        self.read = 0

    @property
    def size(self) -> int:
        return len(self._octets)

    async def octets(self) -> bytes | None:
        return self._octets if self._in_one_piece else None

    async def chunks(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._octets), self._chunk):
            piece = self._octets[at : at + self._chunk]
            self.read += len(piece)
            yield piece


def recipient(local: str, notify: Notify | None = None) -> Recipient:
    return Recipient(Address(local, "example.net"), notify)


def record(*recipients: Recipient, sender: Address | None = SENDER, ret: Return | None = None) -> Record:
    return Record(
        id=MessageId(1),
        message=Message(
            Envelope(sender, recipients, ret=ret),
            Origin(Door.SMTP, NOW - 60, "192.0.2.9", "SQL01"),
            b"Received: by relay\r\n",
            "<one@example.com>",
            "job failed",
        ),
        size=len(OCTETS),
        state=State.QUEUED,
        standings=tuple(
            Standing(one, Fate.PENDING, BUSY if "tried" in one.address.local else None) for one in recipients
        ),
        attempts=1,
        due=NOW,
        delay_reported=False,
        leased=True,
    )


async def reports(
    about: Record,
    *outcomes: Outcome,
    settings: ReportSettings | None = None,
    content: Octets | None = None,
    delayed: tuple[int, ...] = (),
) -> list[Report]:
    bounce = Bounce(settings or ReportSettings(), CLOCK, fqdn="relay.example.com", default_domain="example.com")
    return await bounce.reports(
        about,
        content or Octets(OCTETS),
        list(enumerate(outcomes)),
        delayed=delayed,
        due=NOW + 3600,
        expires=NOW + 7200,
    )


def parsed(report: Report) -> tuple[Parsed, list[Parsed], Parsed]:
    message = message_from_bytes(report.octets)
    _, status, returned = message.get_payload()
    return message, status.get_payload()[1:], returned


async def test_a_failure_is_told_to_the_sender() -> None:
    (report,) = await reports(record(recipient("a")), GONE)
    message, (one,), returned = parsed(report)
    assert report.message.envelope == Envelope(None, (Recipient(SENDER),), body=Body.SEVEN_BIT)
    assert report.message.origin == Origin(Door.REPORT, NOW)
    assert (report.message.prefix, report.message.subject) == (b"", "Delivery Status Notification (Failure)")
    assert report.message.message_id == message["Message-ID"]
    assert (message["To"], message["From"]) == (
        "<sql@example.com>",
        "Mail Delivery System <postmaster@example.com>",
    )
    assert (one["Final-Recipient"], one["Status"]) == ("rfc822;a@example.net", "5.1.1")
    assert returned.get_payload()[0].as_bytes() == OCTETS.replace(b"\r\n", b"\n")
    assert kind_of(report) is Kind.FAILED


async def test_no_report_about_a_report() -> None:
    settings = ReportSettings(copy_to="admin@example.com")
    about = record(recipient("a"), recipient("b"), sender=None)
    assert await reports(about, GONE, GONE, settings=settings, delayed=(0, 1)) == []


@pytest.mark.parametrize(
    ("notify", "outcome", "kind"),
    [
        (None, GONE, Kind.FAILED),
        (Notify.FAILURE, GONE, Kind.FAILED),
        (Notify.FAILURE | Notify.SUCCESS, GONE, Kind.FAILED),
        (Notify.NEVER, GONE, None),
        (Notify.SUCCESS, GONE, None),
        (Notify.DELAY, GONE, None),
        (None, TAKEN, None),
        (Notify.FAILURE, TAKEN, None),
        (Notify.SUCCESS, TAKEN, Kind.RELAYED),
        (Notify.SUCCESS, TAKEN_BY_DSN_HOST, None),
        (Notify.SUCCESS, DROPPED, Kind.DELIVERED),
        (Notify.NEVER, DROPPED, None),
        (Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, BUSY, None),
    ],
)
async def test_who_asked_is_told(notify: Notify | None, outcome: Outcome, kind: Kind | None) -> None:
    found = await reports(record(recipient("a", notify)), outcome)
    assert [kind_of(report) for report in found] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("notify", "told"), [(None, True), (Notify.DELAY, True), (Notify.FAILURE, False), (Notify.NEVER, False)]
)
async def test_a_delay_is_told_to_who_did_not_say_otherwise(notify: Notify | None, told: bool) -> None:
    found = await reports(record(recipient("a", notify)), BUSY, delayed=(0,))
    assert [kind_of(report) for report in found] == ([Kind.DELAYED] if told else [])


async def test_a_delay_knows_the_last_reply_from_now_or_before() -> None:
    about = record(recipient("a"), recipient("tried-before"), recipient("never"))
    (report,) = await reports(about, BUSY, delayed=(0, 1, 2))
    _, blocks, returned = parsed(report)
    assert [one["Diagnostic-Code"] for one in blocks] == [
        "smtp;451 4.3.2 Busy",
        "smtp;451 4.3.2 Busy",
        "x-mailroot;451 4.4.7 Not tried yet",
    ]
    assert blocks[0]["Will-Retry-Until"] is not None
    assert returned.get_content_type() == "text/rfc822-headers"


async def test_one_report_for_each_kind() -> None:
    about = record(*(recipient(name, Notify.SUCCESS | Notify.FAILURE | Notify.DELAY) for name in "abcdef"))
    found = await reports(about, GONE, TAKEN, GONE, DROPPED, BUSY, TAKEN, delayed=(4,))
    told = {kind_of(report): [one["Final-Recipient"][7] for one in parsed(report)[1]] for report in found}
    assert told == {
        Kind.FAILED: ["a", "c"],
        Kind.RELAYED: ["b", "f"],
        Kind.DELIVERED: ["d"],
        Kind.DELAYED: ["e"],
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    ("ret", "most", "kind"),
    [
        (None, 1000, "message/rfc822"),
        (Return.FULL, 1000, "message/rfc822"),
        (Return.HEADERS, 1000, "text/rfc822-headers"),
        (None, len(OCTETS), "message/rfc822"),
        (None, len(OCTETS) - 1, "text/rfc822-headers"),
        (Return.FULL, 10, "text/rfc822-headers"),
        (None, 0, "text/rfc822-headers"),
    ],
)
async def test_how_much_comes_back(ret: Return | None, most: int, kind: str) -> None:
    (report,) = await reports(
        record(recipient("a"), ret=ret), GONE, settings=ReportSettings(max_returned_size=most)
    )
    _, _, returned = parsed(report)
    assert returned.get_content_type() == kind
    if kind == "text/rfc822-headers":
        assert returned.get_payload() == "Received: by relay\r\nSubject: job failed\r\n"


async def test_of_a_large_message_only_the_header_is_read() -> None:
    content = Octets(OCTETS + b"x" * 500_000, in_one_piece=False)
    (report,) = await reports(record(recipient("a")), GONE, content=content)
    assert content.read == 1000
    assert parsed(report)[2].get_payload() == "Received: by relay\r\nSubject: job failed\r\n"


async def test_a_body_in_a_file_comes_back_whole() -> None:
    (report,) = await reports(record(recipient("a")), GONE, content=Octets(OCTETS, False, chunk=7))
    assert OCTETS in report.octets


async def test_a_header_without_end_is_cut() -> None:
    content = Octets(b"X-Field: something\r\n" * 50_000, in_one_piece=False)
    (report,) = await reports(record(recipient("a")), GONE, content=content)
    assert 60_000 < len(report.octets) < 70_000
    assert content.read <= 70_000


async def test_nothing_is_read_when_there_is_nothing_to_report() -> None:
    content = Octets(OCTETS, in_one_piece=False)
    assert await reports(record(recipient("a"), recipient("b")), TAKEN, BUSY, content=content) == []
    assert content.read == 0


async def test_a_copy_goes_to_the_configured_address() -> None:
    settings = ReportSettings(copy_to="Mail Admin <admin>", postmaster="mailer@example.org")
    about = record(recipient("a", Notify.SUCCESS | Notify.FAILURE), recipient("b", Notify.SUCCESS))
    failure, copy, success = await reports(about, GONE, TAKEN, settings=settings)
    assert copy.message.envelope == Envelope(
        None, (Recipient(Address("admin", "example.com"), notify=Notify.NEVER),), body=Body.SEVEN_BIT
    )
    assert copy.octets == failure.octets
    assert kind_of(success) is Kind.RELAYED
    assert "<mailer@example.org>" in parsed(failure)[0]["From"]


async def test_no_copy_to_who_has_the_report_already() -> None:
    assert len(await reports(record(recipient("a")), GONE, settings=ReportSettings(copy_to=str(SENDER)))) == 1


async def test_a_sender_that_is_not_ascii_needs_smtputf8() -> None:
    (report,) = await reports(record(recipient("a"), sender=Address("søren", "example.com")), GONE)
    assert report.message.envelope.smtputf8
    assert report.message.envelope.body is Body.EIGHT_BIT


async def test_names_in_a_report_are_ascii() -> None:
    bounce = Bounce(ReportSettings(), CLOCK, fqdn="Bücher.example", default_domain="bücher.example")
    (report,) = await bounce.reports(record(recipient("a")), Octets(OCTETS), [(0, GONE)], due=NOW, expires=NOW)
    assert report.octets.isascii() and b"postmaster@xn--bcher-kva.example" in report.octets
