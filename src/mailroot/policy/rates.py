"""How much a client has handed in of late: counts over a minute and over 24 hours, for each key.

A count is kept in small steps of its period, and a step is forgotten when all of it is past: never more than the
limit within any one period, and what is over it may come a step later than to the second. A table holds so many
keys and no more; the one not used for longest falls out. Times are the clock's steady ones.
"""

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from mailroot.policy.limits import Quota

MOST_KEYS = 8192
"""Keys of one kind that are counted at a time."""


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time that is counted over, in `steps` of `step` seconds; `words` as in "… in a minute"."""

    words: str
    step: float
    steps: int


A_MINUTE = Period("a minute", 5.0, 12)
A_DAY = Period("24 hours", 900.0, 96)


@dataclass(frozen=True, slots=True)
class Limit:
    """One number of a Quota. `name` is its key in the configuration, `index` its place in a `Usage`."""

    index: int
    name: str
    what: str
    period: Period
    most: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of a Quota that are set, by what they are asked for."""

    messages: tuple[Limit, ...]
    recipients: tuple[Limit, ...]


@lru_cache(maxsize=256)
def limits_of(quota: Quota) -> Limits:
    """What a quota limits; the numbers that are 0 are left out."""
    numbers = (
        Limit(0, "messages_per_minute", "messages", A_MINUTE, quota.messages_per_minute),
        Limit(1, "messages_per_day", "messages", A_DAY, quota.messages_per_day),
        Limit(2, "recipients_per_minute", "recipients", A_MINUTE, quota.recipients_per_minute),
        Limit(3, "recipients_per_day", "recipients", A_DAY, quota.recipients_per_day),
    )
    return Limits(
        tuple(limit for limit in numbers[:2] if limit.most), tuple(limit for limit in numbers[2:] if limit.most)
    )


class Window:
    """What was counted within one period, up to now. `said`: when a limit on it was last told of."""

    __slots__ = ("_counts", "_newest", "_period", "said", "total")

    def __init__(self, period: Period, now: float) -> None:
        self._period = period
        # One more than the period has, since the newest step is not over yet.
        self._counts = array("I", bytes(4 * (period.steps + 1)))
        self._newest = int(now // period.step)
        self.total = 0
        self.said = float("-inf")

    def move(self, now: float) -> None:
        """Forget what is past; `total` is right then."""
        newest = int(now // self._period.step)
        passed = newest - self._newest
        if passed <= 0:
            return
        counts, size = self._counts, self._period.steps + 1
        for step in range(self._newest + 1, self._newest + 1 + min(passed, size)):
            place = step % size
            self.total -= counts[place]
            counts[place] = 0
        self._newest = newest

    def add(self, number: int = 1) -> None:
        """Count so many, in the step that `move` came to."""
        self._counts[self._newest % (self._period.steps + 1)] += number
        self.total += number

    def add_past(self, when: float, number: int) -> None:
        """Count so many that were at `when`, if that is not past yet."""
        step = min(int(when // self._period.step), self._newest)
        if self._newest - step <= self._period.steps:
            self._counts[step % (self._period.steps + 1)] += number
            self.total += number


class Usage:
    """The windows of one key: of each limit that it was asked about."""

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        self._windows: list[Window | None] = [None, None, None, None]

    def window(self, limit: Limit, now: float) -> Window:
        """The window that `limit` is about, moved to now."""
        window = self._windows[limit.index]
        if window is None:
            window = self._windows[limit.index] = Window(limit.period, now)
        else:
            window.move(now)
        return window


class Rates:
    """The usage of the keys of one kind. `most` of them are remembered."""

    __slots__ = ("_most", "_usages")

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._usages: OrderedDict[int | str, Usage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._usages)

    def usage(self, key: int | str) -> Usage:
        """What this key has used; it was not forgotten for longest from now on."""
        usages = self._usages
        usage = usages.get(key)
        if usage is None:
            usage = usages[key] = Usage()
            if len(usages) > self._most:
                usages.popitem(last=False)
        else:
            usages.move_to_end(key)
        return usage

    def clear(self) -> None:
        """Forget all of them."""
        self._usages.clear()
