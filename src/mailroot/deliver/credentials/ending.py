"""When secrets end, as an administrator writes it."""

from datetime import UTC, datetime

from mailroot.deliver.credentials.base import Ending


def ending_of(setting: str, day: str, what: str) -> tuple[Ending, ...]:
    """The ending that a setting tells, as a tuple of none or one; a secret is taken to be good until its day
    begins, UTC. Raises ValueError, naming the setting, for what is no day."""
    if not day:
        return ()
    try:
        ends = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{setting}: '{day}' is not a day; right would be '2027-05-01'") from None
    return (Ending(what, ends.timestamp()),)
