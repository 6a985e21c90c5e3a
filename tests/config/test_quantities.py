"""Durations and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.config.quantities import (
    LARGEST,
    LONGEST,
    format_duration,
    format_size,
    read_duration,
    read_size,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30 s", 30),
        ("30s", 30),
        ("1 second", 1),
        ("15 min", 900),
        ("15 Minutes", 900),
        ("12 h", 43200),
        ("1 hour", 3600),
        ("2 days", 172800),
        ("1 d", 86400),
        ("1 week", 604800),
        ("1 h 30 min", 5400),
        ("1h30min", 5400),
        ("1 day, 6 h", 108000),
        ("0.5 s", 0.5),
        (" 0 s ", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "15", "min", "15 m", "15 minuten", "-1 s", "1 h 30", "1e3 s", "15 min!", "1,5 h", "١ s"]
)
def test_what_is_no_duration_is_told_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="right would be"):
        read_duration(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("2 MiB", 2097152),
        ("2 MB", 2097152),
        ("2048 KB", 2097152),
        ("2048kb", 2097152),
        ("64 KiB", 65536),
        ("1.5 GiB", 1610612736),
        ("100 B", 100),
        ("100 bytes", 100),
        ("0 KB", 0),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    assert read_size(text) == octets


@pytest.mark.parametrize("text", ["", "2", "MiB", "2 Mb/s", "-2 MiB", "2 MiB 3 KiB", "1e9 B", "2 TB"])
def test_what_is_no_size_is_told_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="right would be"):
        read_size(text)


def test_more_than_makes_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        read_duration("10 years".replace("years", "weeks").replace("10", "9999"))
    with pytest.raises(ValueError, match="too large"):
        read_size("99999999 GiB")


@given(st.integers(0, int(LONGEST * 1000)))
def test_a_duration_that_is_written_is_read_as_the_same(milliseconds: int) -> None:
    assert read_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, LARGEST))
def test_a_size_that_is_written_is_read_as_the_same(octets: int) -> None:
    assert read_size(format_size(octets)) == octets


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (900, "15 min"), (86400, "1 day"), (172800, "2 days"), (0.5, "0.5 s"), (90, "90 s")],
)
def test_a_duration_is_written_in_the_unit_that_people_would_take(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
