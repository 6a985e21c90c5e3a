"""Dates as they stand in header fields and replies (RFC 5322 §3.3). It only writes them; nothing here reads one."""

from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_date(when: float, offset: int | None = None) -> str:
    """A time (seconds since the epoch) as "Mon, 23 Nov 2026 10:00:00 +0100".

    `offset` is the zone in seconds east of UTC; None takes the machine's zone as it is at that time. Cheap
    enough for every message: the text is made once a second.
    """
    return _format(int(when), offset)


@lru_cache(maxsize=256)
def _format(second: int, offset: int | None) -> str:
    moment = datetime.fromtimestamp(second, UTC)
    moment = moment.astimezone(None if offset is None else timezone(timedelta(seconds=offset)))
    east = round((moment.utcoffset() or timedelta()).total_seconds() / 60)
    sign, minutes = ("-", -east) if east < 0 else ("+", east)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day} {_MONTHS[moment.month - 1]} {moment.year:04} "
        f"{moment.hour:02}:{moment.minute:02}:{moment.second:02} {sign}{minutes // 60:02}{minutes % 60:02}"
    )
