"""What is put in front of a message, and what is refused, however the octets come."""

import re
from ipaddress import IPv4Address
from typing import Any

import pytest

from mailroot.events import MessageAccepted, SenderRewritten
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door as Way
from mailroot.mail.envelope import Envelope, Origin, Recipient
from mailroot.policy.domains import LocalDomains
from mailroot.policy.limits import MessageSettings
from mailroot.policy.permissions import Otherwise, Permission, Permissions, SenderRule
from mailroot.policy.visit import Refuse, Visit
from mailroot.queue.base import QueueError, QueueFull, format_id
from mailroot.queue.memory import MemoryQueue
from mailroot.receive.intake import Accepted
from rig.door import FQDN, Door

pytestmark = pytest.mark.quick

A = Address("a", "example.com")
B = Address("b", "example.net")
ENVELOPE = Envelope(A, (Recipient(B),))
RECEIVED = "from client ([192.0.2.1]) by relay.example.com with ESMTP"


async def take(
    door: Door, *pieces: bytes, envelope: Envelope = ENVELOPE, senders: SenderRule | None = None
) -> tuple[Accepted | Refuse, bytes, bytes]:
    """The result, and what is stored as prefix and octets."""
    incoming = door.intake.open(senders)
    for piece in pieces:
        await incoming.write(piece)
    origin = Origin(Way.SMTP, door.clock.now(), "192.0.2.1", "client")
    result = await incoming.commit(envelope, origin, RECEIVED, "session1")
    await incoming.abandon()
    records = await door.records()
    if isinstance(result, Refuse):
        assert not records
        return result, b"", b""
    return result, *await door.octets(records[-1])


def single(octets: bytes) -> list[bytes]:
    return [octets[n : n + 1] for n in range(len(octets))]


R = rb"Received: from client \(\[192\.0\.2\.1\]\)\r\n\tby relay\.example\.com with ESMTP id [0-9A-Z]{13}"
R += rb" for <b@example\.net>;\r\n\t\w{3}, \d+ \w{3} \d{4} [\d:]{8} [+-]\d{4}\r\n"
D = rb"Date: \w{3}, \d+ \w{3} \d{4} [\d:]{8} [+-]\d{4}\r\n"
M = rb"Message-ID: <[0-9A-Z]{13}\.[0-9a-f]{8}@relay\.example\.com>\r\n"


@pytest.mark.parametrize(
    ("octets", "prefix"),
    [
        (b"Subject: x\r\n\r\nbody\r\n", R + D + M),
        (b"Subject: x\r\nDate: today\r\n\r\nbody\r\n", R + M),
        (b"message-id: <x@y>\r\nSubject: x\r\n\r\nbody\r\n", R + D),
        (b"Date: today\r\nMESSAGE-ID : <x@y>\r\n\r\n", R),
        # A header without a body, with and without its empty line
        (b"Subject: x\r\n\r\n", R + D + M),
        (b"Subject: x\r\n", R + D + M),
        (b"Subject: x", R + D + M),
        # What stands in the body is not looked at
        (b"Subject: x\r\n\r\nDate: today\r\nMessage-ID: <x@y>\r\n", R + D + M),
        # No header: the empty line that ends ours is there, or is added
        (b"\r\nbody\r\n", R + D + M),
        (b"hello world\r\n", R + D + M + rb"\r\n"),
        (b"hello world\r\n\r\nSubject: no\r\n", R + D + M + rb"\r\n"),
        (b" indented\r\n", R + D + M + rb"\r\n"),
        (b"Dear Bob: hello\r\n", R + D + M + rb"\r\n"),
        (b": nameless\r\n", R + D + M + rb"\r\n"),
        (b"hello", R + D + M + rb"\r\n"),
        (b"\xff\xfe\r\n", R + D + M + rb"\r\n"),
        # An empty message
        (b"", R + D + M),
        # From a mailbox file
        (b"From bob Mon Nov 23 10:00:00 2026\r\nDate: today\r\n\r\nbody\r\n", R + M + rb"Mailbox-Line: "),
        (b">From bob\r\nSubject: x\r\n\r\n", R + D + M + rb"Mailbox-Line: "),
        (b"From bob\r\n\r\nbody\r\n", R + D + M + rb"Mailbox-Line: "),
        (b"From now on we meet on Mondays\r\nor Tuesdays\r\n", R + D + M + rb"\r\n"),
        (b"From now on", R + D + M + rb"\r\n"),
    ],
)
async def test_prefix(octets: bytes, prefix: bytes) -> None:
    for pieces in ([octets], single(octets), [octets[:7], octets[7:]]):
        door = Door()
        result, stored, unchanged = await take(door, *pieces)
        assert isinstance(result, Accepted)
        assert re.fullmatch(prefix, stored), stored
        assert unchanged == octets
        assert result.size == len(stored) + len(octets)


async def test_several_recipients_are_not_named() -> None:
    envelope = Envelope(A, (Recipient(B), Recipient(A)))
    _, prefix, _ = await take(Door(), b"Subject: x\r\n\r\n", envelope=envelope)
    assert b" for " not in prefix


async def test_a_message_id_of_its_own() -> None:
    door = Door()
    result, _, _ = await take(door, b"Message-ID: <mine@x>\r\nSubject: =?utf-8?q?gr=C3=A5?=\r\n\r\nx")
    assert isinstance(result, Accepted)
    assert (result.message_id, result.supplied) == ("<mine@x>", True)
    (record,) = await door.records()
    assert (record.message.message_id, record.message.subject) == ("<mine@x>", "grå")
    (event,) = door.published(MessageAccepted)
    assert (event.door, event.sender, event.recipients) == ("smtp", "a@example.com", ("b@example.net",))
    assert (event.session, event.client, event.subject, event.size) == ("session1", "192.0.2.1", "grå", result.size)


async def test_message_ids_are_ours_and_differ() -> None:
    door = Door()
    first, _, _ = await take(door, b"Subject: x\r\n\r\n")
    second, _, _ = await take(door, b"Subject: x\r\n\r\n")
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert not first.supplied
    assert first.message_id != second.message_id
    assert first.message_id.endswith(f"@{FQDN}>")


@pytest.mark.parametrize(("hops", "refused"), [(0, False), (15, False), (16, True), (100, True)])
async def test_hops(hops: int, refused: bool) -> None:
    octets = b"Received: from a by b; now\r\n" * hops + b"Subject: x\r\n\r\nReceived: no hop\r\n"
    for pieces in ([octets], single(octets)):
        result, _, _ = await take(Door(), *pieces)
        assert isinstance(result, Refuse) is refused
        if isinstance(result, Refuse):
            assert (result.reply.code, result.reply.status, result.rule) == (550, "5.4.6", "max_hops")


async def test_a_header_has_a_limit() -> None:
    messages = MessageSettings(max_header_size=1024)
    line = b"X-Filler: " + b"x" * 52 + b"\r\n"
    assert len(line) == 64
    fits = line * 15 + b"X-Filler: " + b"x" * 50 + b"\r\n\r\n"
    assert len(fits) == 1024
    for pieces in ([fits], single(fits), [fits[:1000], fits[1000:]]):
        assert isinstance((await take(Door(messages=messages), *pieces, b"body" * 1000))[0], Accepted)
    for much in (b"x: y\r\n" + fits, line * 17, b"x" * 2000 + b": y", line * 10_000):
        for pieces in ([much], [much[:100], much[100:]], [much[:1030], much[1030:], b"\r\n"]):
            result, _, _ = await take(Door(messages=messages), *pieces)
            assert isinstance(result, Refuse)
            assert (result.reply.code, result.rule) == (552, "max_header_size")


async def test_a_long_text_without_header_has_no_header_to_be_too_large() -> None:
    messages = MessageSettings(max_header_size=1024)
    octets = b"hello world\r\n" * 1000
    result, _, unchanged = await take(Door(messages=messages), octets[:2000], octets[2000:])
    assert isinstance(result, Accepted)
    assert unchanged == octets


class Troubled(MemoryQueue):
    """A queue that fails while `error` is set."""

    error: QueueError | None = None

    def draft(self) -> Any:
        draft = super().draft()
        commit = draft.commit

        async def fail(message: Any) -> None:
            if self.error is not None:
                raise self.error
            await commit(message)

        draft.commit = fail
        return draft


async def test_what_cannot_be_stored_was_not_accepted() -> None:
    door = Door(queue=(queue := Troubled(Door().clock)))
    queue.error = QueueFull("the disk is full")
    with pytest.raises(QueueFull):
        await take(door, b"x")
    assert not door.published(MessageAccepted)
    queue.error = None
    await take(door, b"x")
    assert len(door.published(MessageAccepted)) == 1


@pytest.mark.parametrize(
    ("local", "domain", "named"),
    [
        ("bob", "münchen.example", b" for <bob@xn--mnchen-3ya.example>;"),
        ("jürgen", "münchen.example", " for <jürgen@münchen.example>;".encode()),
        ("bob", "[IPv6:::1]", b" for <bob@[IPv6:::1]>;"),
    ],
)
async def test_received_is_ascii_where_it_can_be(local: str, domain: str, named: bytes) -> None:
    """Our own field must not be what keeps a message from a next hop without SMTPUTF8."""
    to = Envelope(Address("a", "example.com"), (Recipient(Address(local, domain)),), smtputf8=True)
    _, prefix, _ = await take(Door(), b"Subject: x\r\n\r\nbody\r\n", envelope=to)
    assert named in prefix


# Where a client may use certain senders only


def rule(*, rewrite: bool = False) -> SenderRule:
    otherwise = Otherwise.REWRITE if rewrite else Otherwise.REFUSE
    entry = Permission(("*",), (), ("crm@corp.example",), otherwise, "noreply@corp.example")
    visit = Visit(IPv4Address("10.0.0.1"), "127.0.0.1:25", user="crm")
    found = Permissions((entry,), LocalDomains("corp.example")).of(visit).senders
    assert found is not None
    return found


CRM = Envelope(Address("crm", "corp.example"), (Recipient(B),))
CEO = Envelope(Address("ceo", "other.example"), (Recipient(B),))
NULL = Envelope(None, (Recipient(B),))


@pytest.mark.parametrize("end", [b"\r\nbody\r\n", b"\r\n", b""])
async def test_an_allowed_message_stays_as_it_is_however_it_comes(end: bytes) -> None:
    octets = b"Subject: x\r\nFrom: CRM\r\n <crm@corp.example>\r\nDKIM-Signature: v=1\r\n" + end
    for pieces in ([octets], single(octets), [octets[:20], octets[20:]]):
        for senders in (rule(), rule(rewrite=True)):
            door = Door()
            result, prefix, stored = await take(door, *pieces, envelope=CRM, senders=senders)
            assert isinstance(result, Accepted)
            assert stored == octets
            assert re.fullmatch(R + D + M, prefix)
            assert result.size == len(prefix) + len(octets)
            assert not door.published(SenderRewritten)


@pytest.mark.parametrize(
    "octets", [b"", b"body without a header\r\n", b"\r\nbody\r\n", b"From crm Mon\r\n\r\nbody"]
)
async def test_a_message_without_from_claims_nothing(octets: bytes) -> None:
    for envelope in (CRM, NULL):
        result, _, stored = await take(Door(), *single(octets), envelope=envelope, senders=rule())
        assert isinstance(result, Accepted)
        assert stored == octets


@pytest.mark.parametrize("end", [b"\r\nbody\r\n", b"\r\n", b""])
async def test_another_from_is_refused_at_the_end_of_data(end: bytes) -> None:
    octets = b"Subject: x\r\nFrom: ceo@other.example\r\n" + end
    for pieces in ([octets], single(octets)):
        for envelope in (CRM, NULL):
            result, _, _ = await take(Door(), *pieces, envelope=envelope, senders=rule())
            assert isinstance(result, Refuse)
            assert str(result.reply) == (
                "550 5.7.60 Client does not have permissions to send as this sender: ceo@other.example in From; "
                "allowed are crm@corp.example"
            )


async def test_another_mail_from_is_refused_too() -> None:
    result, _, _ = await take(Door(), b"From: crm@corp.example\r\n\r\n", envelope=CEO, senders=rule())
    assert isinstance(result, Refuse)
    assert result.reply.status == "5.7.60"


async def test_senders_are_rewritten_and_the_rest_stays() -> None:
    octets = b"Date: today\r\nFrom: Boss <ceo@other.example>\r\nSubject: x\r\n\r\nFrom: in the body\r\n.\r\n\xff"
    new = (
        b'Date: today\r\nFrom: "Boss" <noreply@corp.example>\r\nReply-To: Boss <ceo@other.example>\r\n'
        b"Subject: x\r\n\r\nFrom: in the body\r\n.\r\n\xff"
    )
    for pieces in ([octets], single(octets), [octets[:-1], octets[-1:]]):
        door = Door()
        result, prefix, stored = await take(door, *pieces, envelope=CEO, senders=rule(rewrite=True))
        assert isinstance(result, Accepted)
        assert stored == new
        assert result.size == len(prefix) + len(new)
        (record,) = await door.records()
        assert record.message.envelope.sender == Address("noreply", "corp.example")
        (event,) = door.published(SenderRewritten)
        assert (event.message, event.session) == (format_id(record.id), "session1")
        assert (event.original, event.sender) == ("ceo@other.example", "noreply@corp.example")
        assert event.rule == "access.permissions, entry 1"
        (accepted,) = door.published(MessageAccepted)
        assert accepted.sender == "noreply@corp.example"


async def test_mail_from_alone_is_rewritten_and_the_null_sender_is_not() -> None:
    octets = b"From: crm@corp.example\r\n\r\n"
    door = Door()
    _, _, stored = await take(door, octets, envelope=CEO, senders=rule(rewrite=True))
    assert stored == octets
    (event,) = door.published(SenderRewritten)
    assert event.original == "ceo@other.example"
    door = Door()
    await take(door, b"From: ceo@other.example\r\n\r\n", envelope=NULL, senders=rule(rewrite=True))
    (record,) = await door.records()
    assert record.message.envelope.sender is None
    assert len(door.published(SenderRewritten)) == 1


@pytest.mark.parametrize("junk", [b"no field\r\n", b"\x00\r\n", b"From ceo@other.example\r\n", b"junk\r\n\r\n"])
async def test_a_header_that_a_line_without_a_colon_ends_is_really_over(junk: bytes) -> None:
    header = b"From: crm@corp.example\r\nDate: today\r\n"
    rest = junk + b"From: ceo@other.example\r\n\r\nbody\r\n"
    for pieces in ([header + rest], single(header + rest)):
        _, _, stored = await take(Door(), *pieces, envelope=CRM, senders=rule())
        assert stored == header + b"\r\n" + rest
        _, _, stored = await take(Door(), *pieces, envelope=CRM)
        assert stored == header + rest, "without a rule nothing is changed"


async def test_a_line_from_a_mailbox_file_is_seen_past() -> None:
    line, octets = b"From x Mon Nov 23 10:00:00 2026\r\n", b"From: ceo@other.example\r\nSubject: x\r\n\r\nbody\r\n"
    for pieces in ([line + octets], single(line + octets)):
        result, _, _ = await take(Door(), *pieces, envelope=CRM, senders=rule())
        assert isinstance(result, Refuse)
        _, prefix, stored = await take(Door(), *pieces, envelope=CRM, senders=rule(rewrite=True))
        assert prefix.endswith(b"Mailbox-Line: ")
        assert stored.startswith(line + b'From: "ceo@other.example" <noreply@corp.example>\r\nReply-To: ceo@')
        assert stored.endswith(b"Subject: x\r\n\r\nbody\r\n")


async def test_a_from_field_with_space_before_its_colon_is_no_line_of_a_mailbox_file() -> None:
    octets = b"From : a@example.com\r\nSubject: x\r\n\r\n"
    for pieces in ([octets], single(octets)):
        _, prefix, _ = await take(Door(), *pieces)
        assert b"Mailbox-Line" not in prefix
        result, _, _ = await take(Door(), *pieces, envelope=CRM, senders=rule())
        assert isinstance(result, Refuse)


async def test_no_more_of_a_header_is_held_back_than_a_header_may_have() -> None:
    door = Door(messages=MessageSettings(max_header_size=1024))
    incoming = door.intake.open(rule())
    for _ in range(2000):
        await incoming.write(b"X: y\r\n")
    held = incoming._held  # type: ignore[attr-defined]
    assert held is None, "it is known to be refused, and let go"
    result = await incoming.commit(CRM, Origin(Way.SMTP, door.clock.now(), "192.0.2.1", "client"), RECEIVED, "s")
    assert isinstance(result, Refuse)
    assert result.reply.status == "5.3.4"
    assert not await door.records()


async def test_a_refused_body_is_not_stored() -> None:
    class Counting(MemoryQueue):
        written = 0

        def draft(self) -> Any:
            draft = super().draft()
            write = draft.write

            async def counted(octets: bytes) -> None:
                self.written += len(octets)
                await write(octets)

            draft.write = counted
            return draft

    door = Door()
    door.queue = counting = Counting(door.clock)
    door.intake._queue = counting
    incoming = door.intake.open(rule())
    await incoming.write(b"From: ceo@other.example\r\n\r\n")
    for _ in range(100):
        await incoming.write(b"body\r\n")
    await incoming.abandon()
    assert counting.written == 0
