"""The Delivery tab's intervals as a table."""

import pytest

from mailroot.deliver.schedule import Schedule, ScheduleSettings
from mailroot.units import DAY, HOUR, MINUTE

pytestmark = pytest.mark.quick

SCHEDULE = Schedule(ScheduleSettings())


@pytest.mark.parametrize(("attempts", "minutes"), [(1, 15), (2, 30), (3, 60), (4, 240), (5, 240), (100, 240)])
def test_intervals(attempts: int, minutes: int) -> None:
    assert SCHEDULE.retry(attempts, 1000.0, 0.0) == 1000 + minutes * MINUTE
    assert SCHEDULE.retry(attempts, 1000.0, 1.0) == pytest.approx(1000 + minutes * MINUTE * 1.1)
    assert SCHEDULE.retry(attempts, 1000.0, -1.0) == pytest.approx(1000 + minutes * MINUTE * 0.9)


def test_marks() -> None:
    assert SCHEDULE.expires(0.0, local=False) == SCHEDULE.expires(0.0, local=True) == 2 * DAY
    assert SCHEDULE.delay_notice(0.0, local=False) == 12 * HOUR
    own = Schedule(ScheduleSettings(expiration=DAY, local_expiration=HOUR, delay_notification=0))
    assert (own.expires(1.0, local=False), own.expires(1.0, local=True)) == (1 + DAY, 1 + HOUR)
    assert own.delay_notice(1.0, local=False) is None
    assert own.delay_notice(1.0, local=True) == 1 + 12 * HOUR


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ([], 900.0),
        ([None], 900.0),
        ([2000.0], 900.0),
        ([600.0, 2000.0, None], 600.0),
        ([0.0, -5.0], 900.0),  # What is over is no reason to come back sooner.
    ],
)
def test_next_due(marks: list[float | None], expected: float) -> None:
    assert SCHEDULE.next_due(1, 0.0, 0.0, marks) == expected
