"""How many connections there are, who gets them, and when they go: rules as tables, then the pool itself."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailroot.deliver.connection import Connection, Fault, Manner, Trouble
from mailroot.deliver.destination import ANY, Crowded, Stopped, Wish, connections_wanted, grown
from mailroot.deliver.hosts import Host, Hosts, Itself
from mailroot.deliver.pool import PATIENCE, OutboundConnections, Pool
from mailroot.deliver.route import SmartHost, ToHosts
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.events import RecipientDeferred, RecipientDelivered
from mailroot.mail.reply import Reply
from rig.delivery import Delivery, Names
from rig.next_hop import NextHop

TEXT = b"Subject: x\r\n\r\nhello\r\n"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("waiting", "picky", "opening", "standing", "window", "room", "wanted"),
    [
        (1, 0, 0, 0, 4, 100, 1),
        (1, 0, 1, 0, 4, 100, 0),  # One is coming already.
        (100, 0, 0, 0, 4, 100, 4),  # A burst begins with few.
        (100, 0, 3, 1, 4, 100, 0),
        (100, 0, 0, 4, 5, 100, 1),
        (100, 0, 0, 19, 20, 0, 0),  # The limits come first.
        (100, 0, 0, 0, 4, 2, 2),
        (0, 1, 0, 4, 4, 100, 1),  # Another host is wanted: the window is no obstacle.
        (0, 1, 1, 4, 4, 100, 0),
        (0, 1, 0, 4, 4, 0, 0),
        (0, 0, 0, 4, 4, 100, 0),
        (1, 0, 0, 9, 4, 100, 0),  # The window has shrunk.
    ],
)
def test_connections_wanted(
    waiting: int, picky: int, opening: int, standing: int, window: int, room: int, wanted: int
) -> None:
    found = connections_wanted(
        waiting=waiting, picky=picky, opening=opening, standing=standing, window=window, room=room
    )
    assert found == wanted


@pytest.mark.quick
@pytest.mark.parametrize(
    ("window", "waited", "limit", "expected"),
    [
        (4, 0.0, 100, 5),
        (19, 0.0, 100, 20),
        (20, 0.9, 100, 20),
        (20, 1.1, 100, 21),
        (99, 5.0, 100, 100),
        (100, 5.0, 100, 100),
        (4, 5.0, 4, 4),
    ],
)
def test_window(window: int, waited: float, limit: int, expected: int) -> None:
    assert grown(window, waited, limit) == expected


class Link(Connection):
    """A connection without a network."""

    is_usable = True  # type: ignore[assignment]

    def __init__(self, host: Host) -> None:
        self.host = host
        self.messages = 0
        self.since = 0.0
        self.quits = 0

    async def quit(self) -> None:
        self.is_usable = False
        self.quits += 1

    def abort(self) -> None:
        self.is_usable = False


class Stage:
    """A pool whose connections are links, opened when the test says so, and whose time the test turns."""

    def __init__(self, **settings: Any) -> None:
        self.time = 0.0
        self.asked: list[tuple[Host, asyncio.Future[Any]]] = []
        names = Names(addresses={"a.example": ["192.0.2.1"], "b.example": ["192.0.2.2", "192.0.2.3"]})
        self.pool = Pool(
            OutboundConnections(**settings),
            Hosts(names, Itself()),
            name="relay",
            now=lambda: self.time,
            opener=self._open,
        )

    async def _open(self, host: Host, manner: Manner, *, clear: bool = False) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.asked.append((host, future))
        return await future

    async def opened(self, count: int = 1) -> list[Link]:
        """Let so many connections come about."""
        links = []
        for _ in range(count):
            await self.until(lambda: bool(self.asked))
            host, future = self.asked.pop(0)
            links.append(Link(host))
            future.set_result(links[-1])
        await self.settle()
        return links

    async def refused(self, fault: Fault = Fault.HOST, text: str = "no") -> None:
        await self.until(lambda: bool(self.asked))
        host, future = self.asked.pop(0)
        future.set_result(Trouble(Reply(451, "4.4.1", text), str(host), fault))
        await self.settle()

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(50):
            if holds():
                return
            await asyncio.sleep(0)
        pytest.fail("it never came to that")

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def take(self, route: ToHosts, wish: Wish = ANY) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.pool.take(route, wish))


def to(*texts: str) -> ToHosts:
    hosts = tuple(SmartHost.read(text, 25) for text in texts)
    return ToHosts(",".join(texts), "", "", hosts, 25, OutboundSecurity(tls=TlsPolicy.NONE))


A, B = to("a.example"), to("b.example")


async def test_an_idle_connection_is_used_again() -> None:
    stage = Stage()
    first = stage.take(A)
    [link] = await stage.opened()
    assert await first is link
    stage.pool.give(A, link)
    assert await stage.pool.take(A) is link
    stage.pool.give(A, link)
    link.is_usable = False
    second = stage.take(A)
    [other] = await stage.opened()
    assert await second is other and link.quits == 1


async def test_who_waits_is_served_in_turn() -> None:
    stage = Stage(max_connections_per_domain=1)
    first, second, third = stage.take(A), stage.take(A), stage.take(A)
    [link] = await stage.opened()
    assert await first is link
    stage.pool.give(A, link)
    assert await second is link and not third.done()
    stage.pool.give(A, link)
    assert await third is link
    assert not stage.asked


async def test_a_burst_starts_with_few_and_grows() -> None:
    stage = Stage()
    takes = [stage.take(A) for _ in range(100)]
    await stage.settle()
    assert len(stage.asked) == 4
    links = await stage.opened(4)
    for turn in range(40):
        link = links[turn % len(links)]
        stage.pool.give(A, link)
        await stage.settle()
        links += await stage.opened(len(stage.asked))
    assert len(links) == 20 == stage.pool.connections
    # Those beyond are for a next hop that is slow.
    stage.time += 2
    stage.pool.give(A, links[0])
    await stage.settle()
    assert len(stage.asked) == 1
    for take in takes:
        take.cancel()


async def test_after_its_messages_a_connection_takes_leave() -> None:
    stage = Stage(max_messages_per_connection=2)
    take = stage.take(A)
    [link] = await stage.opened()
    await take
    link.messages = 2
    stage.pool.give(A, link)
    await stage.settle()
    assert link.quits == 1 and stage.pool.connections == 0


async def test_without_such_a_limit_it_stays() -> None:
    stage = Stage(max_messages_per_connection=0)
    take = stage.take(A)
    [link] = await stage.opened()
    await take
    link.messages = 10_000
    stage.pool.give(A, link)
    assert await stage.pool.take(A) is link


async def test_idle_ones_are_closed_in_time() -> None:
    stage = Stage(keep_idle=5.0)
    take = stage.take(A)
    [link] = await stage.opened()
    await take
    stage.pool.give(A, link)
    stage.time += 4.9
    stage.pool.sweep()
    await stage.settle()
    assert link.quits == 0
    stage.time += 0.1
    stage.pool.sweep()
    await stage.settle()
    assert link.quits == 1 and stage.pool.connections == 0


async def test_kept_not_at_all() -> None:
    stage = Stage(keep_idle=0.0)
    take = stage.take(A)
    [link] = await stage.opened()
    await take
    stage.pool.give(A, link)
    await stage.settle()
    assert link.quits == 1


async def test_all_domains_together_have_a_limit() -> None:
    stage = Stage(max_connections=2)
    first, second = stage.take(A), stage.take(A)
    links = await stage.opened(2)
    assert [await first, await second] == links
    other = stage.take(B)
    await stage.settle()
    assert not stage.asked and not other.done()
    # What comes free goes to those who have none, not to sleep.
    stage.pool.give(A, links[0])
    [link] = await stage.opened()
    assert await other is link and links[0].quits == 1
    stage.pool.give(A, links[1])
    third = stage.take(to("[192.0.2.9]"))
    await stage.opened()
    assert isinstance(await third, Link) and links[1].quits == 1


async def test_a_dead_host_costs_few_connections() -> None:
    stage = Stage()
    takes = [stage.take(A) for _ in range(1000)]
    for _ in range(4):
        await stage.refused(text="dead")
    assert not stage.asked
    for take in takes:
        trouble = await take
        assert isinstance(trouble, Trouble) and trouble.reply.text == "dead"
    for _ in range(10):
        assert (await stage.pool.take(A)).reply.text == "dead"
    assert not stage.asked
    # After a moment it is asked again, and the moment grows.
    stage.time += 2.1
    take = stage.take(A)
    await stage.refused(text="still dead")
    assert (await take).reply.text == "still dead"
    stage.time += 2.1
    assert (await stage.pool.take(A)).reply.text == "still dead"
    stage.time += 2
    take = stage.take(A)
    [link] = await stage.opened()
    assert await take is link


async def test_one_refusal_among_successes_is_no_failure() -> None:
    stage = Stage()
    takes = [stage.take(A) for _ in range(3)]
    await stage.refused(text="one too many")
    assert not any(take.done() for take in takes)
    [link, other] = await stage.opened(2)
    assert (await takes[0], await takes[1]) == (link, other)
    stage.pool.give(A, link)
    assert await takes[2] is link


async def test_a_destination_that_wants_no_more_gets_no_more() -> None:
    stage = Stage()
    first = stage.take(A)
    [link] = await stage.opened()
    assert await first is link
    takes = [stage.take(A) for _ in range(50)]
    for _ in range(3):
        await stage.refused(text="too many")
    assert not stage.asked and not any(take.done() for take in takes)
    for take in takes:
        stage.pool.give(A, link)
        assert await take is link
    assert not stage.asked


async def test_the_next_host_after_a_failure() -> None:
    stage = Stage()
    take = stage.take(B)
    await stage.refused()
    [link] = await stage.opened()
    assert await take is link and link.host.address == "192.0.2.3"


async def test_a_refused_login_asks_nobody_else() -> None:
    stage = Stage()
    take = stage.take(B)
    await stage.refused(Fault.LOGIN, "wrong password")
    assert (await take).reply.text == "wrong password"
    stage.time += 29
    assert (await stage.pool.take(B)).reply.text == "wrong password"
    assert not stage.asked
    stage.time += 2
    take = stage.take(B)
    [link] = await stage.opened()
    assert await take is link


async def test_asked_again_because_an_operator_wants_it() -> None:
    stage = Stage()
    for destination, fault in ((A, Fault.HOST), (B, Fault.LOGIN)):
        take = stage.take(destination)
        await stage.refused(fault, "no")
        assert (await take).reply.text == "no"
        assert (await stage.pool.take(destination)).reply.text == "no"
        stage.pool.ask_again()
        take = stage.take(destination)
        [link] = await stage.opened()
        assert await take is link


async def test_another_host_is_another_host() -> None:
    stage = Stage()
    take = stage.take(B)
    [first] = await stage.opened()
    await take
    stage.pool.give(B, first)
    second_take = stage.take(B, Wish(frozenset({first.host})))
    [second] = await stage.opened()
    assert await second_take is second and second.host != first.host
    stage.pool.give(B, second)
    nobody = await stage.pool.take(B, Wish(frozenset({first.host, second.host})))
    assert isinstance(nobody, Trouble)
    assert await stage.pool.take(B, Wish(frozenset({second.host}))) is first
    # Where the other host does not answer, the answer is that there is none.
    take = stage.take(B, Wish(frozenset({second.host})))
    await stage.refused(text="gone")
    assert (await take).reply.text == "gone"


async def test_fresh_means_fresh() -> None:
    stage = Stage(max_connections_per_domain=2)
    idle, busy = stage.take(A), stage.take(A)
    links = await stage.opened(2)
    assert [await idle, await busy] == links
    links[0].messages = links[1].messages = 1
    stage.pool.give(A, links[0])
    fresh = stage.take(A, Wish(fresh=True))
    await stage.until(lambda: bool(stage.asked))
    assert links[0].quits == 1
    # What comes free has been used and will not do.
    stage.pool.give(A, links[1])
    await stage.settle()
    assert not fresh.done()
    [other] = await stage.opened()
    assert await fresh is other


async def test_a_fresh_one_that_cannot_be_had() -> None:
    stage = Stage()
    take = stage.take(A, Wish(fresh=True))
    await stage.refused(text="gone")
    assert (await take).reply.text == "gone"


async def test_a_wait_has_an_end() -> None:
    stage = Stage(max_connections_per_domain=1, timeout=60.0)
    first, second = stage.take(A), stage.take(A)
    await stage.opened()
    await first
    stage.time += PATIENCE - 1
    stage.pool.sweep()
    assert not second.done()
    stage.time += 1
    stage.pool.sweep()
    assert await second == Crowded(Reply(451, "4.4.5", "No connection for a.example came free within 30 s"))


async def test_a_wait_for_a_host_that_nobody_reaches_has_an_end() -> None:
    stage = Stage(max_connections_per_domain=1, timeout=60.0)
    take = stage.take(A)
    await stage.until(lambda: bool(stage.asked))
    stage.time += 59
    stage.pool.sweep()
    assert not take.done()
    stage.time += 1
    stage.pool.sweep()
    trouble = await take
    assert isinstance(trouble, Trouble)
    assert str(trouble.reply) == "451 4.4.5 No connection for a.example came free within 60 s"


async def test_a_cancelled_wait_loses_no_connection() -> None:
    stage = Stage()
    take = stage.take(A)
    await stage.until(lambda: bool(stage.asked))
    host, future = stage.asked.pop(0)
    link = Link(host)
    future.set_result(link)
    await asyncio.sleep(0)
    take.cancel()
    await asyncio.gather(take, return_exceptions=True)
    await stage.settle()
    assert await stage.pool.take(A) is link


async def test_stop_and_close() -> None:
    stage = Stage(max_connections_per_domain=2)
    first, second = stage.take(A), stage.take(A)
    [link, other] = await stage.opened(2)
    waits = stage.take(A)
    await stage.settle()
    stage.pool.give(A, await first)
    stage.pool.stop()
    assert await waits is link or isinstance(await waits, Stopped)
    assert isinstance(await stage.pool.take(A), Stopped)
    await second
    await stage.pool.close(1.0)
    assert not link.is_usable and not other.is_usable


async def test_a_fault_of_ours_reaches_who_waits() -> None:
    stage = Stage()
    take = stage.take(A)
    await stage.until(lambda: bool(stage.asked))
    stage.asked.pop(0)[1].set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await take
    assert stage.pool.connections == 0
    again = stage.take(A)
    [link] = await stage.opened()
    assert await again is link


# With real connections


async def test_twenty_messages_to_a_connection(tmp_path: Path) -> None:
    async with NextHop() as hop:
        one = {"max_connections_per_domain": 1}
        async with Delivery(tmp_path, f"[127.0.0.1]:{hop.port}", connections=one).running() as delivery:
            for _ in range(45):
                await delivery.send(TEXT, "a@example.net")
            await delivery.until_seen(RecipientDelivered, 45)
            assert [sum(m.connection == n for m in hop.messages) for n in (1, 2, 3)] == [20, 20, 5]
            assert hop.most_open <= 2
        assert hop.count("QUIT") == 3


async def test_a_burst_flows_through_few(tmp_path: Path) -> None:
    async with NextHop() as hop, Delivery(tmp_path, f"[127.0.0.1]:{hop.port}").running() as delivery:
        for _ in range(1000):
            await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(RecipientDelivered, 1000)
        assert hop.most_open <= 25
        assert len(hop.messages) == 1000


@pytest.mark.parametrize("how", ["closes after each", "421 after three"])
async def test_a_host_that_closes_early_loses_and_doubles_nothing(tmp_path: Path, how: str) -> None:
    hop = NextHop(drop_when_idle=True) if how == "closes after each" else NextHop(messages_per_connection=3)
    async with hop, Delivery(tmp_path, f"[127.0.0.1]:{hop.port}").running() as delivery:
        for n in range(40):
            await delivery.send(TEXT + b"%d\r\n" % n, "a@example.net")
        await delivery.until(
            lambda: len(delivery.seen(RecipientDelivered)) + len(delivery.seen(RecipientDeferred)) == 40
        )
        assert not delivery.seen(RecipientDeferred)
        assert len({m.octets for m in hop.messages}) == len(hop.messages) == 40


async def test_a_dead_smart_host_and_many_messages(tmp_path: Path) -> None:
    hop = NextHop({"BANNER": "421 4.3.2 down"})
    async with hop, Delivery(tmp_path, f"[127.0.0.1]:{hop.port}").running() as delivery:
        for _ in range(2000):
            await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(RecipientDeferred, 2000)
        assert hop.connections <= 8
