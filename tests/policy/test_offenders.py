"""Who failed of late, and who is banned: delays, doubling, decay, and floods that push out nobody who matters."""

import pytest

from mailroot.policy.limits import LoginLimits
from mailroot.policy.offenders import Offenders

pytestmark = pytest.mark.quick

LIMITS = LoginLimits(failures=4, ban=300.0, longest_ban=2000.0, forget=3600.0, longest_delay=8.0)


def ban(offenders: Offenders, key: int | str, now: float, failures: int = 4) -> float:
    """Fail until banned; the end of the ban."""
    for number in range(failures):
        offender, banned = offenders.fail(key, now)
        assert banned is (number == failures - 1)
    return offender.until


def test_answers_come_later_and_later() -> None:
    offenders = Offenders(LoginLimits(failures=100))
    delays = [offenders.delay(offenders.fail(1, 0.0)[0]) for _ in range(8)]
    assert delays == [0, 1, 2, 4, 8, 8, 8, 8]
    assert offenders.delay(offenders.fail(2, 0.0)[0]) == 0


def test_a_delay_of_none_is_none() -> None:
    offenders = Offenders(LoginLimits(failures=100, longest_delay=0))
    assert [offenders.delay(offenders.fail(1, 0.0)[0]) for _ in range(5)] == [0] * 5


def test_each_ban_is_twice_as_long_up_to_the_longest() -> None:
    offenders, now = Offenders(LIMITS), 0.0
    lengths = []
    for _ in range(5):
        until = ban(offenders, 1, now)
        lengths.append(until - now)
        assert offenders.ban(1, until - 1) is not None
        assert offenders.ban(1, until) is None
        now = until
    assert lengths == [300, 600, 1200, 2000, 2000]


def test_half_is_forgotten_in_quiet_times() -> None:
    offenders = Offenders(LIMITS)
    until = ban(offenders, 1, ban(offenders, 1, 0.0))
    assert ban(offenders, 1, until) - until == 1200
    until += 1200
    # Three bans become one; its own time does not count as quiet.
    assert ban(offenders, 1, until + 3600) - (until + 3600) == 600

    for _ in range(3):
        offender, banned = offenders.fail(2, 0.0)
    offender, banned = offenders.fail(2, 3600.0)
    assert (offender.failures, banned) == (2, False)
    offender, banned = offenders.fail(2, 1e12)
    assert (offender.failures, banned) == (1, False)


def test_what_fails_while_banned_is_no_second_ban() -> None:
    offenders = Offenders(LIMITS)
    until = ban(offenders, 1, 0.0)
    for _ in range(20):
        offender, banned = offenders.fail(1, 10.0)
        assert not banned
    assert offender.until == until
    assert len(list(offenders.banned(10.0))) == 1


def test_lifting_forgets_everything() -> None:
    offenders = Offenders(LIMITS)
    ban(offenders, 1, 0.0)
    ban(offenders, 2, 0.0)
    assert offenders.lift(1, 1.0)
    assert not offenders.lift(1, 1.0)
    assert offenders.ban(1, 1.0) is None
    assert [one.key for one in offenders.banned(1.0)] == [2]
    assert offenders.fail(1, 1.0)[0].failures == 1
    assert not offenders.lift(2, 301.0)  # over by itself


def test_a_flood_of_newcomers_pushes_out_newcomers_alone() -> None:
    offenders = Offenders(LIMITS, most=100)
    ban(offenders, "banned", 0.0)
    for _ in range(3):
        offenders.fail("nearly", 0.0)
    for number in range(10_000):
        offenders.fail(number, 1.0)
    assert len(offenders) == 102
    assert offenders.ban("banned", 2.0) is not None
    assert offenders.fail("nearly", 2.0)[1]


def test_a_flood_of_bans_pushes_out_the_one_that_ends_first() -> None:
    offenders = Offenders(LIMITS, most=100)
    ban(offenders, "long", ban(offenders, "long", -300.0))
    for number in range(1000):
        ban(offenders, number, 1.0 + number / 1000)
    assert offenders.ban("long", 3.0) is not None
    assert offenders.ban(999, 3.0) is not None
    assert offenders.ban(0, 3.0) is None
    assert len(list(offenders.banned(3.0))) == 100
    assert len(offenders) <= 300


def test_a_ban_that_finds_no_room_is_none() -> None:
    offenders = Offenders(LIMITS, most=2)
    for key in ("a", "b"):
        ban(offenders, key, ban(offenders, key, 0.0))
    for _ in range(3):
        offenders.fail("new", 300.0)
    assert not offenders.fail("new", 300.0)[1]
    assert offenders.ban("new", 300.0) is None


def test_bans_that_are_over_make_room() -> None:
    offenders = Offenders(LIMITS, most=10)
    for number in range(10):
        ban(offenders, number, 0.0)
    for number in range(10, 20):
        ban(offenders, number, 400.0)
    assert {one.key for one in offenders.banned(400.0)} == set(range(10, 20))
    assert ban(offenders, 5, 500.0) == 500.0 + 600  # it is remembered that this is its second


def test_changed_limits_hold_from_now_on() -> None:
    offenders = Offenders(LIMITS)
    offenders.fail(1, 0.0)
    offenders.change(LoginLimits(failures=2, ban=60.0))
    assert offenders.fail(1, 0.0)[0].until == 60.0
