"""Several hosts for one message: mail exchangers, smart hosts in order, direct delivery first."""

from pathlib import Path

import pytest

from mailroot.deliver.hosts import Itself
from mailroot.deliver.route import RemoteDomain
from mailroot.events import RecipientDeferred, RecipientDelivered, RecipientFailed
from rig.delivery import Delivery, Names
from rig.next_hop import DROP, NextHop

TEXT = b"Subject: x\r\n\r\nhello\r\n"
NAMES = Names(
    mx={
        "two.example": [(20, "b.example"), (10, "a.example")],
        "null.example": [(0, "")],
        "loop.example": [(10, "relay.example.com")],
    },
    addresses={
        "a.example": ["127.0.0.1"],
        "b.example": ["127.0.0.2"],
        "relay.example.com": ["127.0.0.9"],
        "deaf.example": ["127.0.0.3"],
        "smart.example": ["127.0.0.2"],
    },
    failing=("servfail.example",),
)


def out(
    tmp_path: Path, port: int, *smart: str, direct_first: bool = False, remote: tuple[RemoteDomain, ...] = ()
) -> Delivery:
    return Delivery(
        tmp_path,
        *smart,
        names=NAMES,
        itself=Itself(["relay.example.com"]),
        advanced={"direct_first": direct_first},
        connections={"port": port},
        remote=remote,
    )


async def one(delivery: Delivery, recipient: str):  # type: ignore[no-untyped-def]
    """Send one message to one recipient: the event that tells its fate."""
    await delivery.send(TEXT, recipient, sender=None)
    kinds = (RecipientDelivered, RecipientDeferred, RecipientFailed)
    await delivery.until(lambda: any(isinstance(event, kinds) for event in delivery.events))
    return next(event for event in delivery.events if isinstance(event, kinds))


async def test_the_best_exchanger_gets_it(tmp_path: Path) -> None:
    async with (
        NextHop() as a,
        NextHop(address="127.0.0.2", port=a.port) as b,
        out(tmp_path, a.port).running() as delivery,
    ):
        event = await one(delivery, "x@two.example")
        assert event.host == f"a.example [127.0.0.1]:{a.port}" and event.route == "two.example"
        assert len(a.messages) == 1 and b.connections == 0


@pytest.mark.parametrize(
    "replies",
    [
        {"BANNER": "421 down"},
        {"BANNER": "554 no service"},
        {"EHLO": DROP},
        {"MAIL": "451 later"},
        {"RCPT": "450 greylisted"},
        {"DATA": "451 later"},
        {".": "452 no room"},
        {"RCPT": DROP},
        {"MAIL": "421 closing"},
    ],
)
async def test_the_next_exchanger_after_a_refusal_for_now(tmp_path: Path, replies: dict[str, str]) -> None:
    async with (
        NextHop(replies) as a,
        NextHop(address="127.0.0.2", port=a.port) as b,
        out(tmp_path, a.port).running() as delivery,
    ):
        event = await one(delivery, "x@two.example")
        assert isinstance(event, RecipientDelivered)
        assert event.host == f"b.example [127.0.0.2]:{a.port}"
        assert (a.connections, len(b.messages)) == (1, 1)


@pytest.mark.parametrize("replies", [{"MAIL": "550 no"}, {"RCPT": "550 no"}, {".": "554 no"}])
async def test_not_after_a_refusal_for_ever(tmp_path: Path, replies: dict[str, str]) -> None:
    async with (
        NextHop(replies) as a,
        NextHop(address="127.0.0.2", port=a.port) as b,
        out(tmp_path, a.port).running() as delivery,
    ):
        assert isinstance(await one(delivery, "x@two.example"), RecipientFailed)
        assert b.connections == 0


async def test_not_where_the_first_may_have_taken_it(tmp_path: Path) -> None:
    async with (
        NextHop({".": DROP}) as a,
        NextHop(address="127.0.0.2", port=a.port) as b,
        out(tmp_path, a.port).running() as delivery,
    ):
        event = await one(delivery, "x@two.example")
        assert isinstance(event, RecipientDeferred)
        assert "the message's content" in event.reply and b.connections == 0


async def test_only_who_is_undecided_goes_on(tmp_path: Path) -> None:
    replies = {"RCPT": ["250 ok", "450 greylisted", "550 no"]}
    async with (
        NextHop(replies) as a,
        NextHop(address="127.0.0.2", port=a.port) as b,
        out(tmp_path, a.port).running() as delivery,
    ):
        await delivery.send(TEXT, "1@two.example", "2@two.example", "3@two.example", sender=None)
        await delivery.until_seen(RecipientFailed)
        assert [m.recipients for m in b.messages] == [["RCPT TO:<2@two.example>"]]
        assert {e.recipient: e.host[0] for e in delivery.seen(RecipientDelivered)} == {
            "1@two.example": "a",
            "2@two.example": "b",
        }


async def test_a_smart_host_that_is_dead_is_not_waited_for_by_everybody(tmp_path: Path) -> None:
    async with NextHop({"BANNER": DROP}) as a, NextHop() as b:
        smart = (f"[127.0.0.1]:{a.port}", f"[127.0.0.1]:{b.port}")
        async with out(tmp_path, 25, *smart).running() as delivery:
            for _ in range(100):
                await delivery.send(TEXT, "x@other.example")
            await delivery.until_seen(RecipientDelivered, 100)
            assert len(b.messages) == 100 and a.connections <= 4


@pytest.mark.parametrize(
    ("recipient", "kind", "reply"),
    [
        ("x@null.example", RecipientFailed, "556 5.1.10 Domain null.example does not accept mail (null MX)"),
        ("x@nowhere.example", RecipientFailed, "550 5.1.2 Domain nowhere.example does not exist"),
        ("x@servfail.example", RecipientDeferred, "451 4.4.3 DNS could not be asked for servfail.example"),
        ("x@loop.example", RecipientFailed, "550 5.4.6 Mail for loop.example loops back to this server"),
        ("x@deaf.example", RecipientDeferred, "451 4.4.1 Connecting to deaf.example [127.0.0.3]:"),
    ],
)
async def test_nobody_to_ask(tmp_path: Path, recipient: str, kind: type, reply: str) -> None:
    async with NextHop() as a, out(tmp_path, a.port).running() as delivery:
        event = await one(delivery, recipient)
        assert isinstance(event, kind) and event.reply.startswith(reply)
        assert a.connections == 0


async def test_an_address_literal(tmp_path: Path) -> None:
    async with NextHop() as a, out(tmp_path, a.port).running() as delivery:
        assert (await one(delivery, "x@[127.0.0.1]")).host == f"[127.0.0.1]:{a.port}"


@pytest.mark.parametrize(
    ("recipient", "replies", "first", "second"),
    [
        ("x@two.example", {}, 1, 0),
        ("x@two.example", {"RCPT": "450 greylisted"}, 0, 1),
        ("x@deaf.example", {}, 0, 1),
        ("x@nowhere.example", {}, 0, 1),
        ("x@servfail.example", {}, 0, 1),
        ("x@two.example", {"RCPT": "550 no"}, 0, 0),
        ("x@null.example", {}, 0, 0),
    ],
)
async def test_direct_first(
    tmp_path: Path, recipient: str, replies: dict[str, str], first: int, second: int
) -> None:
    async with NextHop(replies) as a, NextHop() as smart:
        delivery = out(tmp_path, a.port, f"[127.0.0.1]:{smart.port}", direct_first=True)
        async with delivery.running():
            event = await one(delivery, recipient)
            assert (len(a.messages), len(smart.messages)) == (first, second)
            assert isinstance(event, RecipientDelivered if first or second else RecipientFailed)


@pytest.mark.parametrize("recipient", ["x@nowhere.example", "x@servfail.example"])
async def test_direct_first_waits_for_a_smart_host_that_is_down(tmp_path: Path, recipient: str) -> None:
    """Where DNS knows nothing of the outside the smart host is the way, and its being down is no failure."""
    async with NextHop({"BANNER": "421 4.3.2 down"}) as smart:
        delivery = out(tmp_path, 1, f"[127.0.0.1]:{smart.port}", direct_first=True)
        async with delivery.running():
            event = await one(delivery, recipient)
            assert isinstance(event, RecipientDeferred) and event.reply.endswith("said: 421 4.3.2 down")


async def test_a_remote_domain_has_its_own_way(tmp_path: Path) -> None:
    async with NextHop() as default, NextHop() as own:
        remote = (
            RemoteDomain("*.own.example", smart_host=(f"[127.0.0.1]:{own.port}",), send_helo=True),
            RemoteDomain("two.example", smart_host=(), port=default.port),
        )
        delivery = out(tmp_path, 1, f"[127.0.0.1]:{default.port}", remote=remote)
        async with delivery.running():
            await delivery.send(TEXT, "1@x.own.example", "2@other.example", "3@two.example")
            events = await delivery.until_seen(RecipientDelivered, 3)
            assert {e.recipient: e.route for e in events} == {
                "1@x.own.example": f"smart host [127.0.0.1]:{own.port} (remote domain *.own.example)",
                "2@other.example": f"smart host [127.0.0.1]:{default.port}",
                "3@two.example": "two.example",
            }
            assert own.commands[0] == "HELO relay.example.com"
            assert len(own.messages) == 1 and len(default.messages) == 2


async def test_a_source_address(tmp_path: Path) -> None:
    async with NextHop() as hop:
        delivery = Delivery(tmp_path, f"[127.0.0.1]:{hop.port}", connections={"source_address": "127.0.0.5"})
        async with delivery.running():
            assert isinstance(await one(delivery, "x@other.example"), RecipientDelivered)
            assert hop.peers == ["127.0.0.5"]
