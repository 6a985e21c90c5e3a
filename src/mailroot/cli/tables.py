"""How values become text for people: tables that fit the terminal, local times, ages, sizes.

What comes out of a message (addresses, subjects, replies) was written by strangers: `plain` takes the control
characters out, so that no subject can move the cursor or colour the screen.
"""

import errno
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `rank`: on a narrow terminal those with the highest rank go first, 0 never.
    `least`: the width a shrinking column keeps; None: it does not shrink. `wraps`: what does not fit goes on in the
    next line; otherwise it is cut."""

    title: str
    rank: int = 0
    right: bool = False
    least: int | None = None
    wraps: bool = False


def plain(text: str) -> str:
    """The text on one line, without control and direction characters."""
    if text.isprintable():
        return text
    return "".join(" " if c in "\r\n\t" else c for c in text if c in "\r\n\t" or _is_harmless(c))


def _is_harmless(character: str) -> bool:
    # Cc: control; Cf: format, which holds the direction overrides; Cs: half a surrogate pair; Zl, Zp: line ends.
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def local_time(when: float | None, now: float) -> str:
    """A time on this machine's clock: "14:05:31" today, "2027-01-15 14:05" otherwise, "" for None."""
    if when is None:
        return ""
    moment = datetime.fromtimestamp(when, UTC).astimezone()
    if moment.date() == datetime.fromtimestamp(now, UTC).astimezone().date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%Y-%m-%d %H:%M")


def exact_time(when: float | None) -> str:
    """Date, time and offset from UTC: "2027-01-15 14:05:31 +0100", "" for None."""
    return (
        datetime.fromtimestamp(when, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %z") if when is not None else ""
    )


def span(seconds: float) -> str:
    """A length of time in its two largest units: "12 s", "3 min", "2 h 5 min", "1 d 4 h"."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        hours, minutes = divmod(whole // _MINUTE, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(whole // _HOUR, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(when: float, now: float) -> str:
    """ "3 min ago"."""
    return f"{span(now - when)} ago"


def ahead(when: float, now: float) -> str:
    """ "in 12 min", or "now" once it has come."""
    return f"in {span(when - now)}" if when - now >= 0.5 else "now"


def octets(count: int) -> str:
    """ "512 B", "4.0 KiB", "2.1 MiB"."""
    if count < 1024:
        return f"{count} B"
    if count < 1024**2:
        return f"{count / 1024:.1f} KiB"
    return f"{count / 1024**2:.1f} MiB" if count < 1024**3 else f"{count / 1024**3:.1f} GiB"


def many(count: int, noun: str) -> str:
    """ "1 message", "2 messages"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Failure(Exception):
    """The command failed; the text is all that the user has to read. Exit code 1."""


class OutputLost(Exception):
    """Standard output cannot be written to; `reader_left`: who read it had enough, which is no fault."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror or error}")
        # Windows says EINVAL for a pipe without a reader.
        self.reader_left = error.errno in (errno.EPIPE, errno.EINVAL)

    def silence(self) -> None:
        """Send to nowhere what is still in the buffer: it would fail once more when the interpreter ends."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def writing() -> Iterator[None]:
    """Around whatever writes to standard output. Raises OutputLost."""
    try:
        yield
    except OSError as error:
        raise OutputLost(error) from None


def put(text: str) -> None:
    """Text on standard output, as it is. Raises OutputLost."""
    with writing():
        sys.stdout.write(text)
        sys.stdout.flush()


def say(text: str = "") -> None:
    """A line for people, on standard output. Raises OutputLost."""
    put(text + "\n")


def complain(text: str) -> None:
    """A line for people, on standard error."""
    sys.stderr.write(text + "\n")


def say_json(value: object) -> None:
    """A value for programs, on standard output."""
    say(json_text(value))


def json_text(value: object) -> str:
    """JSON in the way all commands write it."""
    # Not every pipe on Windows carries all of Unicode.
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    return json.dumps(value, ensure_ascii=ascii_only, indent=2)


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: fitted to a terminal, complete and aligned in a pipe or file."""
    cells = [[plain(cell) for cell in row] for row in rows]
    # A column that is empty throughout tells nothing.
    kept = [n for n, column in enumerate(columns) if not rows or column.rank == 0 or any(row[n] for row in cells)]
    if sys.stdout.isatty():
        _show_fitted(columns, cells, kept)
        return
    widths = [max([len(columns[n].title), *(len(row[n]) for row in cells)]) for n in kept]
    for line in ([column.title for column in columns], *cells):
        parts = (
            line[n].rjust(width) if columns[n].right else line[n].ljust(width)
            for n, width in zip(kept, widths, strict=True)
        )
        say("  ".join(parts).rstrip())


def _show_fitted(columns: Sequence[Column], cells: Sequence[Sequence[str]], kept: list[int]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    natural = {n: max([cell_len(columns[n].title), *(cell_len(row[n]) for row in cells)]) for n in kept}
    widths = fit({n: (columns[n], natural[n]) for n in kept}, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for n, width in widths.items():
        table.add_column(
            columns[n].title,
            justify="right" if columns[n].right else "left",
            no_wrap=not columns[n].wraps,
            overflow="fold" if columns[n].wraps else "ellipsis",
            width=width,
        )
    for row in cells:
        table.add_row(*(Text(row[n]) for n in widths))
    with writing():
        console.print(table)


def fit(columns: Mapping[int, tuple[Column, int]], room: int) -> dict[int, int]:
    """Which columns are shown within `room`, and how wide: the wish of each is given with it. Those of the highest
    rank give way first; what room is left goes to the shrinking ones of the lowest rank first."""
    widths = {n: wish if column.least is None else min(wish, column.least) for n, (column, wish) in columns.items()}
    while sum(widths.values()) + _GAP * (len(widths) - 1) > room:
        last = max(widths, key=lambda n: (columns[n][0].rank, n))
        if columns[last][0].rank == 0:
            break
        del widths[last]
    left = room - sum(widths.values()) - _GAP * (len(widths) - 1)
    for n in sorted(widths, key=lambda n: (columns[n][0].rank, n)):
        more = max(0, min(left, columns[n][1] - widths[n]))
        widths[n] += more
        left -= more
    return widths


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values below each other; a value that is empty is left out."""
    shown = [(name, plain(value)) for name, value in facts if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{name + ':':<{width + 1}}  {value}")
