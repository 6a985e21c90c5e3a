"""What values look like to people."""

import time

import pytest
import typer

from mailroot.cli.search import read_when
from mailroot.cli.tables import Column, ago, ahead, fit, many, octets, plain, show_table, span

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 世界 🎉", "Grüße, 世界 🎉"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("one\r\ntwo\tthree", "one  two three"),
        ("abc\u202etxt.exe", "abctxt.exe"),
        ("half \ud800 pair", "half  pair"),
        ("\x9b31m\x07", "31m"),
        ("line\u2028end", "lineend"),
    ],
)
def test_strangers_cannot_write_to_the_terminal(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_times_relative_to_now() -> None:
    assert ago(1000, 1090) == "1 min ago"
    assert ahead(1900, 1000) == "in 15 min"
    assert ahead(900, 1000) == "now"


def test_sizes_and_numbers() -> None:
    assert [octets(n) for n in (0, 1023, 4096, 2_200_000, 3 * 1024**3)] == [
        "0 B",
        "1023 B",
        "4.0 KiB",
        "2.1 MiB",
        "3.0 GiB",
    ]
    assert [many(n, "message") for n in (0, 1, 2)] == ["0 messages", "1 message", "2 messages"]


def test_a_narrow_terminal_loses_the_highest_ranks_and_never_rank_0() -> None:
    columns = {
        0: (Column("ID"), 13),
        1: (Column("TO", least=10), 30),
        2: (Column("SUBJECT", rank=2, least=10), 40),
        3: (Column("SIZE", rank=1), 8),
    }
    assert fit(columns, 200) == {0: 13, 1: 30, 2: 40, 3: 8}
    assert fit(columns, 60) == {0: 13, 1: 23, 2: 10, 3: 8}
    assert fit(columns, 40) == {0: 13, 1: 15, 3: 8}
    assert fit(columns, 26) == {0: 13, 1: 11}
    assert fit(columns, 5) == {0: 13, 1: 10}


def test_in_a_pipe_nothing_is_cut_and_empty_columns_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(
        [Column("ID"), Column("SUBJECT", rank=1), Column("N", right=True), Column("USER", rank=1)],
        [["a", "x" * 300, "1", ""], ["bb", "[bold]y\n", "10", ""]],
    )
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "ID  " + "SUBJECT".ljust(300) + "   N"
    assert lines[1] == "a   " + "x" * 300 + "   1"
    assert lines[2] == "bb  " + "[bold]y".ljust(300) + "  10"


NOW = time.mktime((2027, 1, 15, 12, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90 s", NOW - 90),
        ("5 min ago", NOW - 300),
        ("2h", NOW - 7200),
        ("1.5 h", NOW - 5400),
        ("3 days", NOW - 3 * 86400),
        ("08:30", NOW - 3.5 * 3600),
        ("2027-01-15", NOW - 12 * 3600),
        ("2027-01-15 14:05", NOW + 2 * 3600 + 300),
        ("1970-01-01T00:00:10+00:00", 10.0),
    ],
)
def test_times_as_people_write_them(text: str, when: float) -> None:
    assert read_when(text, NOW) == when


@pytest.mark.parametrize("text", ["yesterday", "12", "h", "25:00", "2027-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a time; right would be"):
        read_when(text, NOW)
