"""The clocks: the time of day may be set, what passes may not."""

import asyncio

import pytest

from mailroot.clock import ManualClock, SystemClock

pytestmark = pytest.mark.quick


def test_setting_the_time_of_day_lets_no_time_pass() -> None:
    clock = ManualClock(1000.0)
    clock.turn(5)
    before = clock.steady()
    clock.set(500.0)
    assert (clock.now(), clock.steady()) == (500.0, before)


async def test_a_sleep_is_not_cut_short_or_drawn_out_by_a_set_clock() -> None:
    clock = ManualClock(1000.0)
    sleeper = asyncio.ensure_future(clock.sleep(10))
    clock.set(5000.0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not sleeper.done()
    clock.set(0.0)
    clock.turn(10)
    await sleeper


async def test_waiting_for_a_time_of_day_ends_when_it_is_set_to_it() -> None:
    clock = ManualClock(1000.0)
    waiter = asyncio.ensure_future(clock.sleep_until(2000.0))
    await asyncio.sleep(0)
    clock.set(2000.0)
    await waiter


async def test_the_machines_own_time_passes() -> None:
    clock = SystemClock()
    before = clock.steady()
    await clock.sleep(0)
    assert clock.steady() >= before
    await clock.sleep_until(clock.now() - 1)
