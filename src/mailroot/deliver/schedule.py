"""The Delivery tab: when a message is tried again, when its sender hears of a delay, when we give up."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from mailroot.units import DAY, HOUR, MINUTE, Doc, Duration, Range


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """The intervals of the Delivery tab."""

    first_retry: Annotated[Duration, Range(least=1), Doc("First retry interval.")] = 15 * MINUTE
    second_retry: Annotated[Duration, Range(least=1), Doc("Second retry interval.")] = 30 * MINUTE
    third_retry: Annotated[Duration, Range(least=1), Doc("Third retry interval.")] = 60 * MINUTE
    subsequent_retry: Annotated[Duration, Range(least=1), Doc("Subsequent retry interval.")] = 240 * MINUTE
    delay_notification: Annotated[
        Duration, Doc("Tell the sender once when a message has waited this long; 0: never.")
    ] = 12 * HOUR
    expiration: Annotated[Duration, Range(least=60), Doc("Give up and report failure after this time.")] = 2 * DAY
    local_delay_notification: Annotated[Duration, Doc("The same for the Drop folder; 0: never.")] = 12 * HOUR
    local_expiration: Annotated[Duration, Range(least=60), Doc("The same for the Drop folder.")] = 2 * DAY


class Schedule:
    """When what happens to a message that cannot be delivered. Pure: it is told the time, and how to spread.

    `local` means the recipient goes to the Drop folder. Times are seconds since the epoch.
    """

    __slots__ = ("_settings",)

    def __init__(self, settings: ScheduleSettings) -> None:
        self._settings = settings

    def expires(self, arrived: float, *, local: bool) -> float:
        """When we give up."""
        return arrived + (self._settings.local_expiration if local else self._settings.expiration)

    def delay_notice(self, arrived: float, *, local: bool) -> float | None:
        """When the sender is told of the delay; None: never."""
        after = self._settings.local_delay_notification if local else self._settings.delay_notification
        return arrived + after if after > 0 else None

    def retry(self, attempts: int, now: float, spread: float) -> float:
        """When it is tried again after `attempts` failed attempts (at least 1). `spread`, from -1 to 1, moves
        that by up to a tenth of the interval, so that what failed together is not tried together."""
        settings = self._settings
        intervals = (settings.first_retry, settings.second_retry, settings.third_retry)
        interval = intervals[attempts - 1] if attempts <= len(intervals) else settings.subsequent_retry
        return now + interval * (1 + spread / 10)

    def next_due(self, attempts: int, now: float, spread: float, marks: Iterable[float | None]) -> float:
        """When the message is looked at next: the retry, or the earliest of `marks` (expiry, delay notice)
        that still lies ahead, if that comes sooner."""
        return min(
            (self.retry(attempts, now, spread), *(mark for mark in marks if mark is not None and mark > now))
        )
