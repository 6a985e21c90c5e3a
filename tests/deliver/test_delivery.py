"""The way out over real sockets: what a next hop does at each stage, and what becomes of the recipients."""

import asyncio
import email.policy
import hashlib
import random
import socket
from pathlib import Path

import pytest

from mailroot.events import RecipientDeferred, RecipientDelivered, RecipientFailed
from mailroot.mail.envelope import Body, Notify, Recipient, Return
from mailroot.queue.base import Fate, State
from rig.delivery import Delivery, address
from rig.next_hop import DROP, SILENT, NextHop

PREFIX = b"Received: by relay.example.com\r\n"
TEXT = b"Subject: x\r\n\r\nhello\r\n"
PLAIN = ("SIZE",)
CHUNKING = ("PIPELINING", "CHUNKING", "BINARYMIME", "8BITMIME", "DSN")


def smart_host(hop: NextHop) -> str:
    return f"[{hop.address}]:{hop.port}"


@pytest.mark.parametrize("extensions", [(), PLAIN, ("PIPELINING",), CHUNKING])
async def test_a_message_arrives(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    async with NextHop(extensions=extensions) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        message_id = await delivery.send(TEXT, "a@example.net", "b@example.org")
        events = await delivery.until_seen(RecipientDelivered, 2)
        assert [(e.recipient, e.reply, e.attempts) for e in events] == [
            ("a@example.net", "250 2.0.0 queued", 1),
            ("b@example.org", "250 2.0.0 queued", 1),
        ]
        assert events[0].host == f"[127.0.0.1]:{hop.port}"
        [message] = hop.messages
        assert message.octets == PREFIX + TEXT
        assert [r.upper() for r in message.recipients] == ["RCPT TO:<A@EXAMPLE.NET>", "RCPT TO:<B@EXAMPLE.ORG>"]
        record = await delivery.record(message_id)
        assert record.state is State.FINISHED
    assert hop.commands[-1] == "QUIT"


CONTENTS = {
    "dots": b"Subject: x\r\n\r\n.\r\n..\r\n.a\r\n.\r\n\r\n.",
    "no end": b"Subject: x\r\n\r\nno line end",
    "nul": b"Subject: x\r\n\r\na\0b\0\r\n",
    "eight": "Subject: x\r\n\r\nÄÖÜ\r\n".encode("latin-1"),
    "long lines": b"Subject: x\r\n\r\n" + b"x" * 5000 + b"\r\n",
    "64 KiB": b"Subject: x\r\n\r\n" + b".0123456789abcd\r\n" * 3000,
    "3 MB": b"Subject: x\r\n\r\n"
    + random.Random(1).randbytes(3_000_000).replace(b"\r", b".").replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("extensions", [("8BITMIME",), ("PIPELINING", "8BITMIME"), CHUNKING])
async def test_octets_arrive_unchanged(tmp_path: Path, name: str, extensions: tuple[str, ...]) -> None:
    octets = CONTENTS[name]
    async with NextHop(extensions=extensions) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(octets, "a@example.net", body=Body.EIGHT_BIT)
        await delivery.until_seen(RecipientDelivered)
        [message] = hop.messages
        sent = PREFIX + octets
        # DATA ends with a line end, come what may.
        whole = sent if sent.endswith(b"\r\n") or message.octets == sent else sent + b"\r\n"
        assert hashlib.sha256(message.octets).digest() == hashlib.sha256(whole).digest()


async def test_binary_arrives_unchanged(tmp_path: Path) -> None:
    octets = b"Content-Transfer-Encoding: binary\r\n\r\n\n.\n\r.\r\r\n.\r\n" + random.Random(2).randbytes(500_000)
    for content in (octets[:1000], octets):
        async with NextHop(extensions=CHUNKING) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
            await delivery.send(content, "a@example.net", body=Body.BINARY)
            await delivery.until_seen(RecipientDelivered)
            assert hop.messages[0].octets == PREFIX + content
            assert "BODY=BINARYMIME" in hop.messages[0].mail


async def test_nothing_in_a_message_poses_as_its_end(tmp_path: Path) -> None:
    evil = b"Subject: x\r\n\r\na\n.\r\nMAIL FROM:<evil@example.com>\r\nb\r.\rc\n.\nd\r\n"
    async with NextHop() as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(evil, "a@example.net")
        await delivery.until_seen(RecipientDelivered)
        assert hop.messages[0].octets == PREFIX + evil.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(
            b"\n", b"\r\n"
        )
        assert hop.count("MAIL") == 1


# At each stage, each kind of no


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), CHUNKING])
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("451 4.3.0 later", RecipientDeferred),
        ("550 5.7.1 never", RecipientFailed),
        ("421 4.3.2 closing", RecipientDeferred),
        (DROP, RecipientDeferred),
        ("hello?", RecipientDeferred),
        ("250-endless\n" * 600 + "250 end", RecipientDeferred),
        ("250 one\n550 other", RecipientDeferred),
    ],
)
async def test_no_at_each_stage(
    tmp_path: Path, extensions: tuple[str, ...], stage: str, said: str, expected: type
) -> None:
    if stage == "DATA" and "CHUNKING" in extensions:
        stage = "."
    replies = {stage: said.replace("250-endless", "250 endless")}
    async with NextHop(replies, extensions) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, "a@example.net")
        [event] = await delivery.until_seen(expected)
        if said[0] in "45":
            assert event.reply == said
        else:
            assert event.reply.startswith(f"451 4.4.2 [127.0.0.1]:{hop.port}")
        assert not hop.messages
        assert not delivery.seen(RecipientDelivered)


@pytest.mark.parametrize("stage", ["BANNER", "EHLO"])
@pytest.mark.parametrize("said", ["451 4.3.0 later", "554 5.7.1 never", "421 4.3.2 closing", DROP, "hello?"])
async def test_no_at_the_door_is_never_for_ever(tmp_path: Path, stage: str, said: str) -> None:
    replies = {stage: said, "HELO": said}
    async with NextHop(replies) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, "a@example.net")
        [event] = await delivery.until_seen(RecipientDeferred)
        assert f"127.0.0.1]:{hop.port}" in event.reply
        if said[0] in "45":
            assert said in event.reply


@pytest.mark.parametrize("stage", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_silence_at_each_stage(tmp_path: Path, stage: str) -> None:
    async with NextHop({stage: SILENT}, ()) as hop:
        slow = Delivery(tmp_path, smart_host(hop), connections={"timeout": 0.05})
        async with slow.running() as delivery:
            await delivery.send(TEXT, "a@example.net")
            [event] = await delivery.until_seen(RecipientDeferred)
            assert "did not answer within" in event.reply


async def test_nobody_listens(tmp_path: Path) -> None:
    async with NextHop() as hop:
        gone = smart_host(hop)
    async with Delivery(tmp_path, gone).running() as delivery:
        await delivery.send(TEXT, "a@example.net")
        [event] = await delivery.until_seen(RecipientDeferred)
        assert event.reply.startswith(f"451 4.4.1 Connecting to {gone} failed")
        assert event.due == delivery.clock.now() + 900


async def test_nobody_answers_the_call(tmp_path: Path) -> None:
    """A listener whose line is full answers nothing at all, as a firewall does."""
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        hop = f"[127.0.0.1]:{deaf.getsockname()[1]}"
        async with Delivery(tmp_path, hop, connections={"connect_timeout": 0.2}).running() as delivery:
            await delivery.send(TEXT, "a@example.net")
            [event] = await delivery.until_seen(RecipientDeferred)
            assert event.reply == f"451 4.4.1 {hop} did not take a connection within 0.2 s"


async def test_helo_only(tmp_path: Path) -> None:
    async with NextHop({"EHLO": "500 what?"}) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(RecipientDelivered)
        assert hop.commands[:3] == ["EHLO relay.example.com", "HELO relay.example.com", "MAIL FROM:<s@example.com>"]


async def test_an_early_verdict_is_heard(tmp_path: Path) -> None:
    large = b"Subject: x\r\n\r\n" + b"x" * 998 + b"\r\n" * 1000 + (b"y" * 98 + b"\r\n") * 200_000
    hop = NextHop(verdict_after=(1000, "552 5.3.4 too big after all"))
    async with hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(large, "a@example.net")
        [event] = await delivery.until_seen(RecipientFailed)
        assert event.reply == "552 5.3.4 too big after all"


# Some yes, some no


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), CHUNKING])
async def test_each_recipient_has_its_own_fate(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    replies = {"RCPT": ["250 ok", "550 5.1.1 unknown", "450 4.2.1 later", "251 forwarded"]}
    async with NextHop(replies, extensions) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        message_id = await delivery.send(TEXT, *(f"{name}@example.net" for name in "abcd"))
        await delivery.until_seen(RecipientFailed)
        record = await delivery.record(message_id)
        assert [s.fate for s in record.standings] == [Fate.DELIVERED, Fate.FAILED, Fate.PENDING, Fate.DELIVERED]
        delivery.clock.turn(900)
        await delivery.until_seen(RecipientDelivered, 4)  # With the report on b.
        record = await delivery.record(message_id)
        assert record.state is State.FINISHED
        assert len(hop.messages) == 3


async def test_all_recipients_refused(tmp_path: Path) -> None:
    replies = {
        "RCPT": ["550 5.1.1 unknown", "550 5.1.1 unknown", "250 ok"],
        "DATA": ["354 go"],
        ".": ["554 none", "250 ok"],
    }
    async with NextHop(replies) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, "a@example.net", "b@example.net", sender=None)
        await delivery.until_seen(RecipientFailed, 2)
        assert not hop.messages
        await delivery.send(TEXT, "c@example.net")
        await delivery.until_seen(RecipientDelivered)
        assert hop.connections == 1
        assert hop.messages[0].octets == PREFIX + TEXT


@pytest.mark.parametrize("code", ["452 4.5.3 too many", "552 too many"])
async def test_too_many_recipients_go_in_turns(tmp_path: Path, code: str) -> None:
    replies = {"RCPT": ["250 ok", "250 ok", code, code, "250 ok", code, "250 ok"]}
    async with NextHop(replies) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, *(f"{name}@example.net" for name in "abcd"))
        await delivery.until_seen(RecipientDelivered, 4)
        assert [len(m.recipients) for m in hop.messages] == [2, 1, 1]
        assert hop.connections == 1


async def test_more_recipients_than_a_transaction_holds(tmp_path: Path) -> None:
    async with NextHop(messages_per_connection=1) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, *(f"r{n}@example.net" for n in range(150)))
        await delivery.until_seen(RecipientDelivered, 150)
        assert [len(m.recipients) for m in hop.messages] == [100, 50]


# What the host can take


async def test_eight_bits_to_a_host_of_seven_are_converted(tmp_path: Path) -> None:
    octets = (
        b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    async with (
        NextHop(extensions=("PIPELINING",)) as hop,
        Delivery(tmp_path, smart_host(hop)).running() as delivery,
    ):
        await delivery.send(octets + "Viele liebe Grüße\r\n".encode(), "a@example.net", body=Body.EIGHT_BIT)
        await delivery.until_seen(RecipientDelivered)
        assert hop.messages[0].octets.isascii()
        arrived = email.message_from_bytes(hop.messages[0].octets, policy=email.policy.default)
        assert arrived.get_content().splitlines() == ["Viele liebe Grüße"]
        assert "BODY" not in hop.messages[0].mail
        await delivery.send(octets + "Grüße\r\n".encode() * 20_000, "a@example.net")
        await delivery.until_seen(RecipientDelivered, 2)
        assert hop.messages[1].octets.isascii()


async def test_what_cannot_be_converted_is_reported(tmp_path: Path) -> None:
    octets = "Subject: Grüße\r\n\r\nhello\r\n".encode()
    async with NextHop(extensions=()) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(octets, "a@example.net", body=Body.EIGHT_BIT)
        [event] = await delivery.until_seen(RecipientFailed)
        assert event.reply.startswith("554 5.6.3")
        await delivery.until_seen(RecipientDelivered)
        assert hop.messages[0].recipients == ["RCPT TO:<s@example.com>"]


async def test_a_message_too_large_is_not_even_tried(tmp_path: Path) -> None:
    async with NextHop(extensions=("SIZE 30",)) as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, "a@example.net", sender=None)
        [event] = await delivery.until_seen(RecipientFailed)
        assert event.reply.startswith("552 5.3.4 The message has 53 octets")
        assert hop.count("MAIL") == 0


@pytest.mark.parametrize(
    ("sender", "recipient", "header", "reply"),
    [
        ("s@example.com", "a@bücher.example", b"Subject: x", ""),
        ("s@bücher.example", "a@example.net", b"Subject: x", ""),
        ("s@example.com", "ä@example.net", b"Subject: x", "the address ä@example.net needs SMTPUTF8"),
        ("ä@example.com", "a@example.net", b"Subject: x", "the sender address ä@example.com needs SMTPUTF8"),
        ("s@example.com", "a@example.net", "Subject: ä".encode(), "its header needs SMTPUTF8"),
    ],
)
async def test_smtputf8_to_a_host_without(
    tmp_path: Path, sender: str, recipient: str, header: bytes, reply: str
) -> None:
    hop = NextHop(extensions=("PIPELINING", "8BITMIME"))
    async with hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        recipients = [recipient, "other@example.net"]
        await delivery.send(header + b"\r\n\r\nhello\r\n", *recipients, sender=sender, smtputf8=True)
        if not reply:
            await delivery.until_seen(RecipientDelivered, 2)
            assert "bücher" not in str(hop.messages[0])
            assert "xn--bcher-kva.example" in str(hop.messages[0])
        else:
            failed = (await delivery.until_seen(RecipientFailed))[0]
            assert failed.reply == f"550 5.6.7 [127.0.0.1]:{hop.port} does not offer SMTPUTF8, and {reply}"
            assert len(delivery.seen(RecipientFailed)) == (1 if "ä" in recipient else 2)


async def test_smtputf8_where_offered(tmp_path: Path) -> None:
    hop = NextHop(extensions=("PIPELINING", "8BITMIME", "SMTPUTF8"))
    async with hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send("Subject: ä\r\n\r\nü\r\n".encode(), "ä@bücher.example", smtputf8=True)
        await delivery.until_seen(RecipientDelivered)
        assert hop.messages[0].mail.endswith(" BODY=8BITMIME SMTPUTF8")
        assert hop.messages[0].recipients == ["RCPT TO:<ä@bücher.example>"]


@pytest.mark.parametrize("offered", [True, False])
async def test_reports_are_asked_of_the_host_or_written_here(tmp_path: Path, offered: bool) -> None:
    recipient = Recipient(address("a@example.net"), Notify.SUCCESS, "rfc822;a@example.net")
    hop = NextHop(extensions=("PIPELINING", "DSN") if offered else ("PIPELINING",))
    async with hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, recipient, ret=Return.HEADERS, envid="e1")
        await delivery.until_seen(RecipientDelivered, 1 if offered else 2)
        if offered:
            assert hop.messages[0].mail.endswith("RET=HDRS ENVID=e1")
            assert hop.messages[0].recipients == [
                "RCPT TO:<a@example.net> NOTIFY=SUCCESS ORCPT=rfc822;a@example.net"
            ]
            assert len(hop.messages) == 1
        else:
            assert hop.messages[1].recipients == ["RCPT TO:<s@example.com>"]
            assert b"Action: relayed" in hop.messages[1].octets


async def test_masquerade(tmp_path: Path) -> None:
    async with NextHop() as hop:
        advanced = {"masquerade_domain": "public.example"}
        async with Delivery(tmp_path, smart_host(hop), advanced=advanced).running() as delivery:
            for sender in ("s@local.example", "s@other.example", None):
                await delivery.send(TEXT, "a@example.net", sender=sender)
            await delivery.until_seen(RecipientDelivered, 3)
            assert sorted(m.mail.split()[1] for m in hop.messages) == [
                "FROM:<>", "FROM:<s@other.example>", "FROM:<s@public.example>"
            ]  # fmt: skip


async def test_local_mail_goes_to_drop_and_the_rest_on(tmp_path: Path) -> None:
    async with NextHop() as hop, Delivery(tmp_path, smart_host(hop)).running() as delivery:
        await delivery.send(TEXT, "a@example.net", "b@local.example")
        events = await delivery.until_seen(RecipientDelivered, 2)
        assert {(e.recipient, e.route) for e in events} == {
            ("a@example.net", f"smart host [127.0.0.1]:{hop.port}"),
            ("b@local.example", "Drop folder"),
        }
        assert len(list((tmp_path / "Drop").iterdir())) == 1


# Stopping


async def stopped(delivery: Delivery, task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_what_is_under_way_comes_to_its_end(tmp_path: Path) -> None:
    answer = asyncio.Event()
    async with NextHop(hold={".": answer}) as hop:
        delivery = Delivery(tmp_path, smart_host(hop))
        message_id = await delivery.send(TEXT, "a@example.net")
        task = asyncio.create_task(delivery.agent.run())
        await hop.heard("DATA")
        task.cancel()
        asyncio.get_running_loop().call_soon(answer.set)
        await asyncio.gather(task, return_exceptions=True)
        record = await delivery.record(message_id)
        assert record.state is State.FINISHED and len(hop.messages) == 1


async def test_what_does_not_end_in_time_is_given_back(tmp_path: Path) -> None:
    async with NextHop({"MAIL": SILENT}) as hop:
        delivery = Delivery(tmp_path, smart_host(hop), grace=0.01)
        message_id = await delivery.send(TEXT, "a@example.net", "b@local.example")
        other = await delivery.send(TEXT, "a@example.net")
        task = asyncio.create_task(delivery.agent.run())
        await hop.heard("MAIL", 2)
        await stopped(delivery, task)
        record = await delivery.record(message_id)
        # One half was done, and is not done again.
        assert [s.fate for s in record.standings] == [Fate.PENDING, Fate.DELIVERED]
        assert not record.leased
        untried = await delivery.record(other)
        assert (untried.attempts, untried.leased, untried.due) == (0, False, delivery.clock.now())


async def test_who_waits_for_a_connection_is_given_back_at_once(tmp_path: Path) -> None:
    answer = asyncio.Event()
    async with NextHop(hold={".": answer}) as hop:
        delivery = Delivery(tmp_path, smart_host(hop), connections={"max_connections": 1}, grace=30)
        ids = [await delivery.send(TEXT, "a@example.net") for _ in range(20)]
        task = asyncio.create_task(delivery.agent.run())
        await hop.heard("DATA")
        task.cancel()
        asyncio.get_running_loop().call_later(0.01, answer.set)
        await asyncio.gather(task, return_exceptions=True)
        records = [await delivery.record(one) for one in ids]
        assert [r.state for r in records].count(State.FINISHED) == len(hop.messages) == 1
        assert all(not r.leased and r.attempts == 0 for r in records if r.state is State.QUEUED)
