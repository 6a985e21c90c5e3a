"""What is put in front of a message, and what is refused, however the octets come."""

import re
from typing import Any

import pytest

from mailroot.events import MessageAccepted
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door as Way
from mailroot.mail.envelope import Envelope, Origin, Recipient
from mailroot.policy.limits import MessageSettings
from mailroot.policy.visit import Refuse
from mailroot.queue.base import QueueError, QueueFull
from mailroot.queue.memory import MemoryQueue
from mailroot.receive.intake import Accepted
from rig.door import FQDN, Door

pytestmark = pytest.mark.quick

A = Address("a", "example.com")
B = Address("b", "example.net")
ENVELOPE = Envelope(A, (Recipient(B),))
RECEIVED = "from client ([192.0.2.1]) by relay.example.com with ESMTP"


async def take(door: Door, *pieces: bytes, envelope: Envelope = ENVELOPE) -> tuple[Accepted | Refuse, bytes, bytes]:
    """The result, and what is stored as prefix and octets."""
    incoming = door.intake.open()
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
