"""Tokens that are shared: when one is fetched, how often, and what is used while nobody can be asked."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from mailroot.clock import ManualClock
from mailroot.deliver.credentials.base import Fault, Token, TokenTrouble
from mailroot.deliver.credentials.fetch import Patience, TokenKeeper

pytestmark = pytest.mark.quick


def trouble(fault: Fault = Fault.NETWORK, *, mailbox: bool = False, wait: float | None = None) -> TokenTrouble:
    return TokenTrouble("No.", fault=fault, code="no", retry=True, mailbox=mailbox, wait=wait)


class FakeGrant:
    """Gives "1", "2", … or the trouble it is told; waits for `hold` if there is one."""

    def __init__(self, clock: ManualClock, life: float = 3600) -> None:
        self.clock = clock
        self.life = life
        self.asked = 0
        self.trouble: TokenTrouble | None = None
        self.hold: asyncio.Event | None = None
        self.stamped: object = None

    async def fetch(self) -> Token:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.trouble is not None:
            raise self.trouble
        return Token(str(self.asked), self.clock.now(), self.clock.now() + self.life)

    def stamp(self) -> object:
        return self.stamped


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def grant(clock: ManualClock) -> FakeGrant:
    return FakeGrant(clock)


@pytest.fixture
def keeper(grant: FakeGrant, clock: ManualClock) -> TokenKeeper:
    return TokenKeeper(grant, clock)


async def value(keeper: TokenKeeper, *, fresh: bool = False) -> str:
    return (await keeper.token(fresh=fresh)).value


async def settled(until: Callable[[], bool]) -> None:
    for _ in range(100):
        if until():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to that")


async def test_all_share_one_request_and_one_token(
    keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
) -> None:
    assert await asyncio.gather(*(value(keeper) for _ in range(50))) == ["1"] * 50
    clock.turn(2000)
    assert await value(keeper) == "1"
    assert grant.asked == 1
    assert keeper.held is not None


async def test_ahead_of_its_end_another_is_fetched_while_the_old_one_is_used(
    keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
) -> None:
    await value(keeper)
    clock.turn(3600 - 900)
    grant.hold = asyncio.Event()
    assert await value(keeper) == "1"
    await settled(lambda: grant.asked == 2)
    assert await value(keeper) == "1"
    grant.hold.set()
    await settled(lambda: keeper.held is not None and keeper.held.value == "2")
    assert await value(keeper) == "2"
    assert grant.asked == 2


async def test_ten_minutes_before_its_end_it_is_not_given_away_any_more(
    keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
) -> None:
    await value(keeper)
    clock.turn(3001)
    assert await value(keeper) == "2"


@pytest.mark.parametrize(("life", "good"), [(300, 239), (3600, 2999), (86400, 85799)])
async def test_what_is_left_of_long_and_short_ones(life: float, good: float) -> None:
    clock = ManualClock()
    grant = FakeGrant(clock, life)
    keeper = TokenKeeper(grant, clock)
    await value(keeper)
    clock.turn(good)
    assert await value(keeper) == "1"
    clock.turn(2)
    # The one of the background may have come meanwhile; the first is over in any case.
    assert await value(keeper) == "2"


async def test_a_clock_that_is_set_and_one_that_stood_still(
    keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
) -> None:
    await value(keeper)
    clock.set(clock.now() - 86400)
    clock.turn(3590)
    assert await value(keeper) == "2"
    # A computer that slept: no time passed by `steady`.
    clock.set(clock.now() + 3601)
    assert await value(keeper) == "3"


async def test_a_valid_token_is_used_while_nobody_can_be_asked(
    keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
) -> None:
    await value(keeper)
    grant.trouble = trouble()
    for _ in range(59):
        clock.turn(60)
        assert await value(keeper) == "1"
    clock.turn(61)
    assert keeper.held is None
    with pytest.raises(TokenTrouble):
        await value(keeper)
    # From 2,700 s on it was tried, and not at every call.
    assert 4 <= grant.asked <= 12
    grant.trouble = None
    clock.turn(300)
    assert int(await value(keeper)) == grant.asked


@pytest.mark.parametrize(
    ("fault", "first", "most"), [(Fault.OURS, 60, 900), (Fault.THEIRS, 5, 300), (Fault.NETWORK, 5, 300)]
)
async def test_an_endpoint_is_never_hammered(
    keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock, fault: Fault, first: float, most: float
) -> None:
    grant.trouble = trouble(fault)
    asked = []
    for second in range(7200):
        for _ in range(3):
            with pytest.raises(TokenTrouble) as raised:
                await value(keeper)
            assert raised.value.wait is not None
            assert 0 < raised.value.wait <= most
        if len(asked) < grant.asked:
            asked.append(second)
        clock.turn(1)
    pauses = [after - before for before, after in pairwise(asked)]
    assert first * 0.8 <= pauses[0] <= first + 1
    assert max(pauses) <= most + 1
    assert min(pauses[-3:]) >= most * 0.8
    assert grant.asked == len(asked)


async def test_a_wait_that_is_asked_for_is_kept(keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock) -> None:
    grant.trouble = trouble(Fault.THEIRS, wait=1000)
    with pytest.raises(TokenTrouble):
        await value(keeper)
    grant.trouble = None
    clock.turn(999)
    with pytest.raises(TokenTrouble) as raised:
        await value(keeper)
    assert raised.value.wait == 1
    clock.turn(2)
    assert await value(keeper) == "2"


async def test_what_ends_the_wait(keeper: TokenKeeper, grant: FakeGrant) -> None:
    grant.trouble = trouble(Fault.OURS)
    for _ in range(3):
        with pytest.raises(TokenTrouble):
            await value(keeper)
    assert grant.asked == 1
    keeper.forgive()
    with pytest.raises(TokenTrouble):
        await value(keeper)
    assert grant.asked == 2
    grant.stamped = "somebody logged in"
    grant.trouble = None
    assert await value(keeper) == "3"


class TestRefused:
    """The host refused the token: another one is wanted."""

    async def test_another_is_fetched_once_for_all(
        self, keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
    ) -> None:
        await value(keeper)
        clock.turn(100)
        assert await asyncio.gather(*(value(keeper, fresh=True) for _ in range(20))) == ["2"] * 20
        assert await value(keeper, fresh=True) == "2"
        assert grant.asked == 2

    async def test_not_more_than_once_a_minute(
        self, keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
    ) -> None:
        for _ in range(600):
            await value(keeper, fresh=True)
            clock.turn(1)
        assert grant.asked == 10

    async def test_the_refused_one_does_not_come_back(
        self, keeper: TokenKeeper, grant: FakeGrant, clock: ManualClock
    ) -> None:
        await value(keeper)
        clock.turn(100)
        grant.trouble = trouble()
        with pytest.raises(TokenTrouble):
            await value(keeper, fresh=True)
        # Who was not refused goes on with it.
        assert await value(keeper) == "1"


async def test_one_that_gives_up_does_not_spoil_it_for_the_others(keeper: TokenKeeper, grant: FakeGrant) -> None:
    grant.hold = asyncio.Event()
    impatient = asyncio.create_task(value(keeper))
    patient = asyncio.create_task(value(keeper))
    await settled(lambda: grant.asked == 1)
    impatient.cancel()
    grant.hold.set()
    assert await patient == "1"
    assert impatient.cancelled()


async def test_a_stop_waits_for_what_is_under_way(keeper: TokenKeeper, grant: FakeGrant) -> None:
    grant.hold = asyncio.Event()
    waiting = asyncio.create_task(value(keeper))
    await settled(lambda: grant.asked == 1)
    closing = asyncio.create_task(keeper.close())
    await asyncio.sleep(0)
    assert not closing.done()
    grant.hold.set()
    await closing
    assert await waiting == "1"


async def test_but_not_for_ever(keeper: TokenKeeper, grant: FakeGrant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.deliver.credentials.fetch._LONGEST_FAREWELL", 0.01)
    grant.hold = asyncio.Event()
    waiting = asyncio.create_task(value(keeper))
    await settled(lambda: grant.asked == 1)
    await keeper.close()
    with pytest.raises(TokenTrouble, match="is stopping"):
        await waiting
    with pytest.raises(TokenTrouble, match="is stopping"):
        await value(keeper)
    assert grant.asked == 1


async def test_a_grant_that_never_ends(
    keeper: TokenKeeper, grant: FakeGrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroot.deliver.credentials.fetch._LONGEST_FETCH", 0.01)
    grant.hold = asyncio.Event()
    with pytest.raises(TokenTrouble, match=r"no token within 0\.01 s") as raised:
        await value(keeper)
    assert raised.value.fault is Fault.NETWORK
    assert raised.value.retry


async def test_troubles_of_one_mailbox_are_its_own(clock: ManualClock) -> None:
    common = Patience(clock)
    ann, bob = FakeGrant(clock), FakeGrant(clock)
    anns, bobs = (TokenKeeper(one, clock, common=common) for one in (ann, bob))
    ann.trouble = trouble(Fault.OURS, mailbox=True)
    with pytest.raises(TokenTrouble):
        await value(anns)
    assert await value(bobs) == "1"

    bob.trouble = trouble(Fault.OURS)
    clock.turn(3601)
    with pytest.raises(TokenTrouble):
        await value(bobs)
    ann.trouble = None
    with pytest.raises(TokenTrouble) as raised:
        await value(anns)
    assert not raised.value.mailbox
    assert (ann.asked, bob.asked) == (1, 2)


def test_waits_are_spread() -> None:
    clock = ManualClock()
    waits = {Patience(clock, lambda n=n: n).failed(trouble(), None).wait for n in (0.0, 0.5, 1.0)}
    assert waits == {4.0, 4.5, 5.0}
