"""Who has failed to log in of late: how often, and who is banned for it. Of one kind: addresses, or accounts.

What is remembered is bounded three times over: who failed once, who failed repeatedly, and who is banned. So a
flood of newcomers pushes out newcomers alone; those who try again and again stay known, and the bans in force stay
in force. Where even the bans are too many, the one that ends first gives way. Times are the clock's steady ones.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from mailroot.policy.limits import LoginLimits

MOST = 4096
"""So many are remembered in each of the three tables."""


class Offender:
    """One who failed. `failures` of late; `counted`: those since the last ban; `bans` of late; `until`: the end of
    the last ban. Every `forget` seconds without a failure (or a ban) halve the numbers."""

    __slots__ = ("bans", "counted", "failures", "key", "since", "until")

    def __init__(self, key: int | str, now: float) -> None:
        self.key = key
        self.failures = 0
        self.counted = 0
        self.bans = 0
        self.until = now
        # What is forgotten is forgotten since then: the last failure, or the last halving
        self.since = now

    def forget(self, now: float, every: float) -> None:
        """Halve what was counted, once for each time that has passed."""
        # A ban leaves no chance to fail: its time is no merit.
        quiet = now - max(self.since, self.until)
        if quiet >= every:
            halvings = min(int(quiet // every), 64)
            self.failures >>= halvings
            self.counted >>= halvings
            self.bans >>= halvings
            self.since = now


class Offenders:
    """Those of one kind, each by its key."""

    __slots__ = ("_banned", "_ends", "_limits", "_most", "_once", "_order", "_repeated")

    def __init__(self, limits: LoginLimits, most: int = MOST) -> None:
        self._limits = limits
        self._most = most
        self._once: OrderedDict[int | str, Offender] = OrderedDict()
        self._repeated: OrderedDict[int | str, Offender] = OrderedDict()
        self._banned: dict[int | str, Offender] = {}
        # The banned, by the end of their bans; the number in the middle keeps offenders from being compared.
        self._ends: list[tuple[float, int, Offender]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._once) + len(self._repeated) + len(self._banned)

    def change(self, limits: LoginLimits) -> None:
        """Go by these limits from now on; bans in force end when they were to end."""
        self._limits = limits

    def ban(self, key: int | str, now: float) -> Offender | None:
        """Whoever has the key, if banned now."""
        offender = self._banned.get(key)
        if offender is None or offender.until > now:
            return offender
        self._free(now)
        return None

    def fail(self, key: int | str, now: float) -> tuple[Offender, bool]:
        """Count a failure; whether it has led to a ban just now."""
        offender = self._banned.get(key)
        if offender is not None and offender.until > now:
            # Begun before the ban came into force.
            offender.failures += 1
            return offender, False
        if offender is not None:
            self._free(now)
        offender = self._once.pop(key, None) or self._repeated.pop(key, None) or Offender(key, now)
        limits = self._limits
        offender.forget(now, limits.forget)
        offender.failures += 1
        offender.counted += 1
        offender.since = now
        if offender.counted >= limits.failures:
            self._ban(offender, now)
            return offender, offender.key in self._banned
        self._remember(offender)
        return offender, False

    def delay(self, offender: Offender) -> float:
        """Seconds that the answer to the last failure waits: none for the first, then 1, 2, 4 and so on."""
        if offender.failures < 2:
            return 0.0
        return float(min(2 ** min(offender.failures - 2, 16), self._limits.longest_delay))

    def banned(self, now: float) -> Iterator[Offender]:
        """All bans in force."""
        return (offender for offender in self._banned.values() if offender.until > now)

    def lift(self, key: int | str, now: float) -> bool:
        """Forget whoever has the key, failures and all; whether there was a ban in force."""
        self._once.pop(key, None)
        self._repeated.pop(key, None)
        offender = self._banned.pop(key, None)
        if offender is None:
            return False
        self._ends = [entry for entry in self._ends if entry[2] is not offender]
        heapq.heapify(self._ends)
        return offender.until > now

    def _ban(self, offender: Offender, now: float) -> None:
        limits = self._limits
        offender.counted = 0
        offender.until = now + min(limits.ban * 2 ** min(offender.bans, 32), limits.longest_ban)
        offender.bans += 1
        self._free(now)
        self._banned[offender.key] = offender
        self._order += 1
        heapq.heappush(self._ends, (offender.until, self._order, offender))
        if len(self._ends) > self._most:
            self._drop_first()

    def _free(self, now: float) -> None:
        """Those whose bans are over are remembered as what they are: repeated offenders."""
        while self._ends and self._ends[0][0] <= now:
            self._drop_first()

    def _drop_first(self) -> None:
        offender = heapq.heappop(self._ends)[2]
        del self._banned[offender.key]
        self._remember(offender)

    def _remember(self, offender: Offender) -> None:
        table = self._repeated if offender.failures > 1 or offender.bans else self._once
        table[offender.key] = offender
        if len(table) > self._most:
            table.popitem(last=False)
