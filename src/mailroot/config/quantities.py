"""Durations and sizes as people write them: "15 min", "1 h 30 min", "2 MiB"."""

import re

from mailroot.units import DAY, HOUR, KIB, MIB, MINUTE, SECOND

_GIB = 1024 * MIB

_DURATIONS = {
    SECOND: ("s", "sec", "second", "seconds"),
    MINUTE: ("min", "minute", "minutes"),
    HOUR: ("h", "hour", "hours"),
    DAY: ("d", "day", "days"),
    7 * DAY: ("w", "week", "weeks"),
}
# As in the old property sheet, where 2,048 KB are 2 MiB.
_SIZES = {
    1: ("B", "octets", "bytes"),
    KIB: ("KiB", "KB", "K"),
    MIB: ("MiB", "MB", "M"),
    _GIB: ("GiB", "GB", "G"),
}
_SECONDS = {name: seconds for seconds, names in _DURATIONS.items() for name in names}
_OCTETS = {name.lower(): octets for octets, names in _SIZES.items() for name in names}

_PART = re.compile(r"\s*([0-9]{1,16}(?:\.[0-9]{1,6})?)\s*([A-Za-z]+)\s*,?")

LONGEST = 10 * 365 * DAY
LARGEST = 1024 * 1024 * _GIB


def read_duration(text: str) -> float:
    """Seconds. Raises ValueError, which says what would be right."""
    value, at = 0.0, 0
    while at < len(text):
        match = _PART.match(text, at)
        seconds = _SECONDS.get(match[2].lower()) if match is not None else None
        if match is None or seconds is None:
            at = 0
            break
        value += float(match[1]) * seconds
        at = match.end()
    if not at:
        raise ValueError('not a duration; right would be "30 s", "15 min", "12 h" or "2 days"')
    if value > LONGEST:
        raise ValueError(f"too long; right would be at most {format_duration(LONGEST)}")
    return value


def read_size(text: str) -> int:
    """Octets. Raises ValueError, which says what would be right."""
    match = _PART.fullmatch(text)
    octets = _OCTETS.get(match[2].lower()) if match is not None else None
    if match is None or octets is None:
        raise ValueError('not a size; right would be "64 KiB", "2 MiB" or "1 GiB"')
    value = float(match[1]) * octets
    if value > LARGEST:
        raise ValueError(f"too large; right would be at most {format_size(LARGEST)}")
    return round(value)


def format_duration(seconds: float) -> str:
    """In the largest unit that gives a whole number: "15 min", "2 days"."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds and seconds % unit == 0:
            return f"{seconds / unit:.0f} {'day' if seconds == DAY else name}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"


def format_size(octets: int) -> str:
    """In the largest unit that gives a whole number: "64 KiB", "2 MiB"."""
    for unit, name in ((_GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if octets and octets % unit == 0:
            return f"{octets // unit} {name}"
    return f"{octets} B"
