"""Sessions on a stream in memory: limits, policy, trouble, and how they end."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mailroot.events import (
    CommandRefused,
    InternalError,
    MessageAccepted,
    SessionClosed,
    SessionOpened,
    SessionRefused,
)
from mailroot.mail.envelope import Body, Notify, Return
from mailroot.policy.access import AccessList, Mode, RelayList
from mailroot.policy.limits import MessageSettings
from mailroot.queue.base import QueueError
from mailroot.queue.memory import MemoryQueue
from rig.door import Door, relay_for_all

pytestmark = pytest.mark.quick

BEGIN = b"EHLO client\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n"
MESSAGE = b"Subject: x\r\n\r\ntext\r\n"


def codes(octets: bytes) -> list[int]:
    """The codes of the replies."""
    return [int(line[:3]) for line in octets.split(b"\r\n") if line and line[3:4] == b" "]


async def test_a_message_with_everything() -> None:
    door = Door()
    session = await door.connect()
    octets = await session.say(
        b"EHLO client\r\n"
        b"MAIL FROM:<a@example.com> BODY=8BITMIME RET=HDRS ENVID=e+2B1 SIZE=100\r\n"
        b"RCPT TO:<b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B@example.net\r\n"
        b"RCPT TO:<c@example.net>\r\n"
        b"DATA\r\n" + MESSAGE + b".\r\n"
    )
    assert codes(octets) == [250, 250, 250, 250, 354, 250]
    (record,) = await door.records()
    envelope = record.message.envelope
    assert str(envelope.sender) == "a@example.com"
    assert (envelope.body, envelope.ret, envelope.envid) == (Body.EIGHT_BIT, Return.HEADERS, "e+1")
    one, two = envelope.recipients
    assert (one.notify, one.original) == (Notify.SUCCESS | Notify.DELAY, "rfc822;B@example.net")
    assert (two.notify, two.original) == (None, None)
    origin = record.message.origin
    assert (origin.client, origin.helo, origin.user) == ("127.0.0.1", "client", "")
    assert origin.arrived == door.clock.now()
    assert (await door.octets(record))[1] == MESSAGE
    await session.leave()
    opened, accepted, closed = door.events
    assert isinstance(opened, SessionOpened)
    assert isinstance(accepted, MessageAccepted)
    assert isinstance(closed, SessionClosed)
    assert (closed.messages, closed.why) == (1, "client left")
    assert len({opened.session, accepted.session, closed.session}) == 1


async def test_answers_to_pipelined_commands_leave_in_one_piece() -> None:
    door = Door()
    session = await door.connect()
    before = session.stream.transport.writes
    await session.say(BEGIN + b"DATA\r\n")
    assert session.stream.transport.writes == before + 1
    await session.leave()


async def test_an_acknowledgement_does_not_wait_for_the_next_message() -> None:
    """BDAT may be pipelined; the first 250 is sent before the second message is stored."""
    sent: list[bytes] = []

    class Watching(MemoryQueue):
        def draft(self) -> Any:
            draft = super().draft()
            commit = draft.commit

            async def watched(message: Any) -> None:
                sent.append(bytes(session.stream.transport.sent))
                await commit(message)

            draft.commit = watched
            return draft

    door = Door(queue=Watching(Door().clock))
    session = await door.connect()
    one = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nBDAT 3 LAST\r\nx\r\n"
    await session.say(one + one)
    assert codes(sent[0]) == [250, 250]
    assert codes(sent[1]) == [250, 250, 250, 250, 250]
    await session.leave()


async def test_a_250_only_after_the_commit() -> None:
    release = asyncio.Event()

    class Slow(MemoryQueue):
        def draft(self) -> Any:
            draft = super().draft()
            commit = draft.commit

            async def slow(message: Any) -> None:
                await release.wait()
                await commit(message)

            draft.commit = slow
            return draft

    door = Door(queue=Slow(Door().clock))
    session = await door.connect()
    await session.say(BEGIN + b"DATA\r\n")
    session.stream.data_received(MESSAGE + b".\r\n")
    for _ in range(20):
        await asyncio.sleep(0)
    assert session.stream.taken() == b""
    assert not await door.records()
    release.set()
    await session.settle()
    assert codes(session.stream.taken()) == [250]
    assert len(await door.records()) == 1
    await session.leave()


@pytest.mark.parametrize("octets", [b"DATA\r\nSubject: x\r\n\r\nhalf", b"BDAT 10\r\nhalf", b"BDAT 4\r\nhalf"])
async def test_a_client_that_leaves_in_the_middle(octets: bytes) -> None:
    door = Door()
    session = await door.connect()
    await session.say(BEGIN + octets)
    await session.leave()
    assert not await door.records()
    (closed,) = door.published(SessionClosed)
    assert (closed.why, closed.messages) == ("client left", 0)
    assert not door.published(InternalError)


async def test_the_last_line_before_a_half_close_is_answered() -> None:
    door = Door()
    session = await door.connect()
    session.stream.data_received(BEGIN + b"DATA\r\n" + MESSAGE + b".\r\nQUIT\r\n")
    session.stream.eof_received()
    await session.task
    assert codes(session.stream.taken()) == [250, 250, 250, 354, 250, 221]
    assert len(await door.records()) == 1


# Policy


async def test_relay_is_decided_for_each_recipient() -> None:
    door = Door(relay=RelayList(Mode.ONLY), aliases=("alias.example",), relay_domains=("open.example",))
    session = await door.connect("192.0.2.7")
    octets = await session.say(
        b"MAIL FROM:<a@example.com>\r\nRCPT TO:<x@example.net>\r\nRCPT TO:<x@example.com>\r\n"
        b"RCPT TO:<x@alias.example>\r\nRCPT TO:<x@open.example>\r\nDATA\r\n" + MESSAGE + b".\r\n"
    )
    assert codes(octets) == [250, 550, 250, 250, 250, 354, 250]
    assert b"550 5.7.1 Unable to relay for x@example.net\r\n" in octets
    (record,) = await door.records()
    assert [str(r.address) for r in record.message.envelope.recipients] == [
        "x@example.com",
        "x@alias.example",
        "x@open.example",
    ]
    (refused,) = door.published(CommandRefused)
    assert (refused.command, refused.client) == ("RCPT TO:<x@example.net>", "192.0.2.7")
    assert "relay restrictions" in refused.rule
    await session.leave()


async def test_connection_control() -> None:
    door = Door(connection=AccessList(Mode.EXCEPT, ("192.0.2.0/24",)))
    session = await door.connect("192.0.2.7", banner=True)
    assert codes(session.stream.taken()) == [554]
    await session.task
    (refused,) = door.published(SessionRefused)
    assert refused.client == "192.0.2.7"
    assert not door.published(SessionOpened)
    assert door.published(SessionClosed)[0].why == "refused"


async def test_a_mapped_address_is_an_ipv4_address() -> None:
    door = Door(relay=RelayList(Mode.ONLY, ("192.0.2.7",)))
    session = await door.connect("::ffff:192.0.2.7")
    octets = await session.say(BEGIN)
    assert b"Hello [192.0.2.7]" in octets
    assert codes(octets) == [250, 250, 250]
    await session.leave()


async def test_the_name_is_looked_up_where_somebody_wants_it() -> None:
    asked: list[str] = []

    async def lookup(address: str) -> str | None:
        asked.append(address)
        return "pc.corp.example"

    door = Door(relay=RelayList(Mode.ONLY, ("corp.example",)), lookup=lookup)
    session = await door.connect("192.0.2.7")
    assert codes(await session.say(BEGIN + b"DATA\r\n" + MESSAGE + b".\r\n")) == [250, 250, 250, 354, 250]
    assert asked == ["192.0.2.7"]
    (record,) = await door.records()
    assert b"from client (pc.corp.example [192.0.2.7])\r\n" in record.message.prefix
    await session.leave()
    plain = Door(lookup=lookup)
    await (await plain.connect()).leave()
    assert asked == ["192.0.2.7"]


async def test_a_look_up_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.receive.client._LOOKUP_TIMEOUT", 0.01)

    async def lookup(address: str) -> str | None:
        await asyncio.Event().wait()
        return None

    door = Door(relay=RelayList(Mode.ONLY, ("corp.example",)), lookup=lookup, reverse_dns=True)
    session = await door.connect("192.0.2.7")
    assert codes(await session.say(BEGIN)) == [250, 250, 550]
    octets = await session.say(b"RCPT TO:<x@example.com>\r\nDATA\r\n" + MESSAGE + b".\r\n")
    assert codes(octets) == [250, 354, 250]
    (record,) = await door.records()
    assert b"from client ([192.0.2.7] unverified)\r\n" in record.message.prefix
    await session.leave()


# Limits


async def test_too_many_recipients_are_not_the_end_of_the_others() -> None:
    door = Door(messages=MessageSettings(max_recipients=2, max_errors=3))
    session = await door.connect()
    octets = await session.say(
        b"MAIL FROM:<a@example.com>\r\n"
        + b"".join(b"RCPT TO:<u%d@example.net>\r\n" % n for n in range(10))
        + b"DATA\r\n"
        + MESSAGE
        + b".\r\nNOOP\r\n"
    )
    assert codes(octets) == [250, 250, 250, *[452] * 8, 354, 250, 250]
    assert b"452 4.5.3 Too many recipients\r\n" in octets
    (record,) = await door.records()
    assert len(record.message.envelope.recipients) == 2
    await session.leave()


async def test_too_many_errors() -> None:
    door = Door(messages=MessageSettings(max_errors=3))
    session = await door.connect()
    octets = await session.say(b"FOO\r\nNOOP\r\nFOO\r\nNOOP\r\nFOO\r\nNOOP\r\n")
    assert octets.endswith(b"421 4.7.0 Too many errors, closing transmission channel\r\n")
    assert codes(octets) == [500, 250, 500, 250, 421]
    await session.task
    assert door.published(SessionClosed)[0].why == "too many errors"


async def test_a_message_that_is_too_large_is_read_to_its_end() -> None:
    door = Door(messages=MessageSettings(max_message_size=1000))
    session = await door.connect()
    octets = await session.say(BEGIN + b"DATA\r\n" + b"x" * 5000 + b"\r\n.\r\nNOOP\r\n")
    assert codes(octets) == [250, 250, 250, 354, 552, 250]
    assert b"552 5.3.4 Message size exceeds fixed maximum message size\r\n" in octets
    assert not await door.records()
    # The session and its next message are none the worse for it.
    assert codes(await session.say(BEGIN + b"DATA\r\n" + MESSAGE + b".\r\n"))[-1] == 250
    await session.leave()


async def test_a_session_that_had_enough() -> None:
    door = Door(messages=MessageSettings(max_session_size=100))
    session = await door.connect()
    whole = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n" + b"x" * 58 + b"\r\n.\r\n"
    assert codes(await session.say(whole)) == [250, 250, 354, 250]
    octets = await session.say(whole)
    assert codes(octets) == [250, 250, 354, 421]
    assert b"421 4.3.4 " in octets
    await session.task
    assert len(await door.records()) == 1
    assert door.published(SessionClosed)[0].why == "session size"


async def test_a_session_that_had_enough_says_so_at_mail() -> None:
    door = Door(messages=MessageSettings(max_session_size=100))
    session = await door.connect()
    whole = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n" + b"x" * 58 + b"\r\n.\r\n"
    await session.say(whole)
    assert codes(await session.say(b"MAIL FROM:<a@example.com> SIZE=41\r\n")) == [421]
    await session.task


async def test_a_message_that_no_session_could_hold() -> None:
    door = Door(messages=MessageSettings(max_message_size=0, max_session_size=100))
    session = await door.connect()
    octets = await session.say(BEGIN + b"DATA\r\n" + b"x" * 200 + b"\r\n.\r\n")
    assert codes(octets) == [250, 250, 250, 354, 552]
    await session.task
    assert not await door.records()


async def test_an_endless_message() -> None:
    door = Door(messages=MessageSettings(max_message_size=100, max_session_size=1000))
    session = await door.connect()
    await session.say(BEGIN + b"DATA\r\n")
    for _ in range(200):
        if not session.is_open:
            break
        await session.say(b"x" * 100_000)
    assert not session.is_open
    await session.task


async def test_the_header_limit() -> None:
    door = Door(messages=MessageSettings(max_header_size=1024))
    session = await door.connect()
    octets = await session.say(BEGIN + b"DATA\r\n" + b"X: y\r\n" * 1000 + b"\r\n.\r\nNOOP\r\n")
    assert codes(octets) == [250, 250, 250, 354, 552, 250]
    assert not await door.records()
    await session.leave()


async def test_nobody_else_starves_while_one_client_floods() -> None:
    door = Door()
    one, two = await door.connect(), await door.connect()
    one.stream.data_received(b"NOOP\r\n" * 5000)
    two.stream.data_received(b"NOOP\r\n")
    turns = 0
    while not two.stream.transport.sent:
        turns += 1
        await asyncio.sleep(0)
    assert codes(one.stream.taken()).count(250) < 5000
    await one.settle()
    await one.leave()
    await two.leave()


async def test_what_follows_a_message_with_bare_line_ends_is_not_read_as_commands() -> None:
    door = Door()
    session = await door.connect()
    smuggled = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n"
    octets = await session.say(BEGIN + b"DATA\r\nSubject: x\r\n\r\nx\r\r\n.\r\n" + smuggled)
    assert codes(octets) == [250, 250, 250, 354, 550]
    await session.task
    assert not await door.records()
    assert door.published(SessionClosed)[0].why == "bare line ends"


# The end


async def test_an_idle_client_is_sent_away() -> None:
    door = Door(idle_timeout=0.02)
    session = await door.connect()
    await session.task
    assert session.stream.taken() == b"421 4.4.2 Timeout waiting for client input\r\n"
    assert door.published(SessionClosed)[0].why == "time-out"


async def test_an_idle_client_within_a_message() -> None:
    door = Door(idle_timeout=0.02)
    session = await door.connect()
    session.stream.data_received(BEGIN + b"DATA\r\nSubject: x\r\n")
    await session.task
    assert codes(session.stream.taken()) == [250, 250, 250, 354, 421]
    assert not await door.records()


async def test_an_operator_ends_a_session() -> None:
    door = Door()
    session = await door.connect("192.0.2.7")
    await session.say(b"EHLO client\r\nMAIL FROM:<a@example.com>\r\n")
    (info,) = door.sessions.list()
    assert (info.client, info.helo, info.tls, info.messages) == ("192.0.2.7", "client", False, 0)
    assert (info.state, info.since, info.user) == ("sender given", door.clock.now(), "")
    assert not door.sessions.end("nobody")
    assert door.sessions.end(info.id)
    await session.task
    assert session.stream.taken() == b"421 4.3.2 Service not available, closing transmission channel\r\n"
    assert door.published(SessionClosed)[0].why == "ended by operator"


async def test_an_operator_does_not_wait_for_a_message() -> None:
    door = Door()
    session = await door.connect()
    await session.say(BEGIN + b"DATA\r\nSubject: x\r\n")
    assert door.sessions.end_all() == 1
    await session.task
    assert codes(session.stream.taken()) == [421]
    assert not await door.records()


async def test_the_end_waits_for_a_message_where_it_should() -> None:
    door = Door()
    session = await door.connect()
    await session.say(BEGIN + b"DATA\r\nSubject: x\r\n")
    door.sessions.end_all("server stopped", finish_message=True)
    await session.settle()
    assert session.stream.taken() == b""
    assert codes(await session.say(b"\r\ntext\r\n.\r\n")) == [250, 421]
    await session.task
    assert len(await door.records()) == 1
    assert door.published(SessionClosed)[0].why == "server stopped"


async def test_the_end_does_not_wait_for_a_client_that_left() -> None:
    door = Door()
    session = await door.connect()
    await session.say(BEGIN + b"DATA\r\nSubject: x\r\n")
    door.sessions.end_all("server stopped", finish_message=True)
    await session.leave()
    assert door.published(SessionClosed)[0].why == "server stopped"
    assert not await door.records()


async def test_the_end_waits_for_the_last_chunk() -> None:
    door = Door()
    session = await door.connect()
    await session.say(BEGIN + b"BDAT 1\r\nx")
    door.sessions.end_all("server stopped", finish_message=True)
    assert codes(await session.say(b"BDAT 3 LAST\r\ny\r\n")) == [250, 421]
    await session.task
    assert len(await door.records()) == 1


# Trouble


class Failing(MemoryQueue):
    """A queue whose drafts fail."""

    error: Exception | None = None
    at = "commit"

    def draft(self) -> Any:
        if self.at == "draft" and self.error is not None:
            raise self.error
        draft = super().draft()
        whole = getattr(draft, self.at) if self.at != "draft" else None

        async def fail(*arguments: Any) -> None:
            if self.error is not None:
                raise self.error
            assert whole is not None
            await whole(*arguments)

        if whole is not None:
            setattr(draft, self.at, fail)
        return draft


@pytest.mark.parametrize("at", ["draft", "write", "commit"])
@pytest.mark.parametrize("how", [b"DATA\r\n" + MESSAGE + b".\r\n", b"BDAT 3 LAST\r\nx\r\n"])
async def test_the_queue_cannot_store(at: str, how: bytes) -> None:
    queue = Failing(Door().clock)
    queue.at = at
    queue.error = QueueError("read-only")
    door = Door(queue=queue)
    session = await door.connect()
    octets = await session.say(BEGIN + how + b"NOOP\r\n")
    assert codes(octets)[3:] in ([354, 451, 250], [451, 250])
    assert b"451 4.3.0 " in octets
    queue.error = None
    assert codes(await session.say(b"RSET\r\n" + BEGIN + how))[-1] == 250
    assert len(await door.records()) == 1
    await session.leave()


async def test_a_chunk_that_cannot_be_stored_ends_the_transaction() -> None:
    queue = Failing(Door().clock)
    queue.at = "write"
    queue.error = QueueError("read-only")
    door = Door(queue=queue)
    session = await door.connect()
    octets = await session.say(BEGIN + b"BDAT 1\r\nxBDAT 1 LAST\r\nyNOOP\r\n")
    assert codes(octets)[3:] == [451, 503, 250]
    await session.leave()


@pytest.mark.parametrize("at", ["draft", "write", "commit"])
async def test_a_fault_of_ours(at: str) -> None:
    queue = Failing(Door().clock)
    queue.at = at
    queue.error = ZeroDivisionError("ours")
    door = Door(queue=queue)
    session = await door.connect()
    octets = await session.say(BEGIN + b"DATA\r\n" + MESSAGE + b".\r\nNOOP\r\n")
    assert codes(octets) == [250, 250, 250, 354, 451]
    await session.task
    (event,) = door.published(InternalError)
    assert "ZeroDivisionError" in event.error
    assert "in _converse" in event.traceback
    assert door.published(SessionClosed)[0].why == "internal error"


async def test_terms_of_tls_without_any() -> None:
    door = Door(relay=relay_for_all())
    assert not door.terms.offer(door.rules).starttls
    assert replace(door.terms, certificates=object()).offer(door.rules).starttls  # type: ignore[arg-type]
