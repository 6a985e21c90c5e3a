"""Counts over a minute and over a day: strict within any period, bounded in memory, right after a restart."""

from random import Random

import pytest

from mailroot.policy.limits import Quota
from mailroot.policy.rates import A_DAY, A_MINUTE, Period, Rates, Window, limits_of

pytestmark = pytest.mark.quick


def taken(window: Window, most: int, now: float) -> bool:
    window.move(now)
    if window.total >= most:
        return False
    window.add()
    return True


@pytest.mark.parametrize("period", [A_MINUTE, A_DAY])
def test_never_more_than_the_limit_within_any_period(period: Period) -> None:
    random = Random(7)
    length = period.step * period.steps
    window = Window(period, 0.0)
    now, accepted = 0.0, []
    for _ in range(3000):
        now += random.choice((0.0, length / 300, length / 40, length / 3))
        if taken(window, 20, now):
            accepted.append(now)
    assert len(accepted) > 500
    assert all(late - early >= length for early, late in zip(accepted, accepted[20:], strict=False))


@pytest.mark.parametrize("period", [A_MINUTE, A_DAY])
def test_room_again_a_step_after_the_period_at_the_latest(period: Period) -> None:
    random = Random(8)
    for _ in range(200):
        start = random.uniform(0, 1e6)
        window = Window(period, start)
        assert taken(window, 1, start)
        assert not taken(window, 1, start + period.step * period.steps * 0.999)
        assert taken(window, 1, start + period.step * (period.steps + 1))


def test_a_long_silence_forgets_all() -> None:
    window = Window(A_MINUTE, 0.0)
    window.add(5)
    window.move(1e9)
    assert window.total == 0
    window.add()
    assert window.total == 1


def test_what_was_before_is_counted_where_it_belongs() -> None:
    window = Window(A_DAY, 50.0)  # the machine was started 50 seconds ago
    window.add_past(-86_000.0, 3)
    window.add_past(-3600.0, 4)
    window.add_past(-200_000.0, 100)
    window.add_past(60.0, 1)  # the clock was set back meanwhile
    assert window.total == 8
    window.move(1400.0)
    assert window.total == 5
    window.move(86_400.0)
    assert window.total == 1


def test_only_what_is_set_is_limited() -> None:
    assert limits_of(Quota()).messages == limits_of(Quota()).recipients == ()
    limits = limits_of(Quota(messages_per_day=3, recipients_per_minute=4))
    assert [(limit.name, limit.most) for limit in limits.messages] == [("messages_per_day", 3)]
    assert [(limit.name, limit.most) for limit in limits.recipients] == [("recipients_per_minute", 4)]


def test_a_table_forgets_the_key_not_used_for_longest() -> None:
    [limit] = limits_of(Quota(messages_per_minute=9)).messages
    rates = Rates(most=3)
    for key in ("a", "b", "c"):
        rates.usage(key).window(limit, 0.0).add()
    rates.usage("a")
    rates.usage("d").window(limit, 0.0).add()
    assert len(rates) == 3
    assert rates.usage("a").window(limit, 1.0).total == 1
    assert rates.usage("b").window(limit, 1.0).total == 0
