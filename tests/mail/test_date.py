"""Dates in header fields."""

from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.date import format_date

pytestmark = pytest.mark.quick


def test_a_date_in_a_zone() -> None:
    assert format_date(1_800_000_000.9, 0) == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert format_date(1_800_000_000, 5 * 3600 + 1800) == "Fri, 15 Jan 2027 13:30:00 +0530"
    assert format_date(1_800_000_000, -3 * 3600 - 1800) == "Fri, 15 Jan 2027 04:30:00 -0330"
    assert format_date(1_799_000_000, 0) == "Sun, 3 Jan 2027 18:13:20 +0000"


@given(st.integers(0, 4_000_000_000), st.integers(-14 * 60, 14 * 60))
def test_the_standard_library_reads_the_same_time(second: int, minutes: int) -> None:
    moment = parsedate_to_datetime(format_date(second, minutes * 60))
    assert moment.timestamp() == second
    assert (moment.utcoffset() or timedelta()).total_seconds() in {minutes * 60, 0}


def test_the_zone_of_the_machine() -> None:
    assert parsedate_to_datetime(format_date(1_800_000_000)).timestamp() == 1_800_000_000
