"""Tokens shared by all connections of a route: fetched ahead of their end, one request at a time, and seldom.

A token that is still good is used while its issuer cannot be reached. After a failure the issuer is left alone for
a while, longer each time, whoever asks. Times go by the clock's `steady`, and the time of day beside it: the one
stands still while a computer sleeps, the other may be set.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Fault, Grant, Token, TokenTrouble
from mailroot.units import MINUTE

_AHEAD = 10 * MINUTE
"""Some hosts refuse tokens with less than this left (501 5.5.127 Token will expire soon)."""
_AHEAD_OF_SHORT = 0.2
"""Of the life of a token that is shorter than 50 minutes."""
_EARLIER = 0.1
"""Of its life: so much before it has to be, another one is fetched while this one goes on being used."""
_MOST_EARLIER = 30 * MINUTE
_YOUNG = 60.0
_LONGEST_FETCH = 60.0
_LONGEST_FAREWELL = 15.0

_FIRST_WAIT = {Fault.OURS: MINUTE, Fault.THEIRS: 5.0, Fault.NETWORK: 5.0}
_MOST_WAIT = {Fault.OURS: 15 * MINUTE, Fault.THEIRS: 5 * MINUTE, Fault.NETWORK: 5 * MINUTE}


class Patience:
    """How long nobody is asked after failures. May be shared by sources of which all fail for the same reason."""

    __slots__ = ("_clock", "_failures", "_random", "_stamp", "_trouble", "_until")

    def __init__(self, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        """`chance`: numbers from 0 to 1, so that not all relays of the world come back in the same second."""
        self._clock = clock
        self._random = chance
        self._failures = 0
        self._until = 0.0
        self._trouble: TokenTrouble | None = None
        self._stamp: object = None

    def trouble(self, stamp: object) -> TokenTrouble | None:
        """The last trouble, as long as nobody is to be asked because of it. Another `stamp` than then ends that."""
        left = self._until - self._clock.steady()
        if self._trouble is None or left <= 0 or stamp != self._stamp:
            return None
        return self._trouble.again(left)

    def failed(self, trouble: TokenTrouble, stamp: object) -> TokenTrouble:
        """Take note; the same trouble, with the wait that there will be."""
        wait = min(_FIRST_WAIT[trouble.fault] * 2.0 ** min(self._failures, 20), _MOST_WAIT[trouble.fault])
        wait = max(wait * (0.8 + 0.2 * self._random()), trouble.wait or 0.0)
        self._failures += 1
        self._until = self._clock.steady() + wait
        self._stamp = stamp
        self._trouble = trouble.again(wait)
        return self._trouble

    def end(self) -> None:
        """Forget all failures."""
        self._failures = 0
        self._trouble = None


@dataclass(frozen=True, slots=True)
class _Held:
    """A token we have, since when, and when its life of `life` seconds ends; the latter two by `steady`."""

    token: Token
    since: float
    ends: float
    life: float

    def left(self, clock: Clock) -> float:
        return min(self.ends - clock.steady(), self.token.expires - clock.now())

    @property
    def enough(self) -> float:
        """A token with less than this left is not given away, if another can be had."""
        return min(_AHEAD, self.life * _AHEAD_OF_SHORT)

    @property
    def plenty(self) -> float:
        """With less than this left, another one is fetched meanwhile."""
        return self.enough + min(self.life * _EARLIER, _MOST_EARLIER)


class TokenKeeper:
    """A TokenSource that asks a grant as seldom as can be."""

    __slots__ = ("_clock", "_closed", "_common", "_flight", "_grant", "_held", "_own")

    def __init__(self, grant: Grant, clock: Clock, *, common: Patience | None = None) -> None:
        """`common`: shared with sources of the same issuer, for troubles that are not those of one mailbox."""
        self._grant = grant
        self._clock = clock
        self._own = Patience(clock)
        self._common = common or self._own
        self._held: _Held | None = None
        self._flight: asyncio.Task[TokenTrouble | None] | None = None
        self._closed = False

    @property
    def held(self) -> Token | None:
        """The token there is, if it has not ended."""
        held = self._held
        return held.token if held is not None and held.left(self._clock) > 0 else None

    async def token(self, *, fresh: bool = False) -> Token:
        held = self._held
        refused = fresh and held is not None and self._clock.steady() - held.since >= _YOUNG
        if held is not None and not refused:
            left = held.left(self._clock)
            if left > held.enough:
                if left <= held.plenty:
                    self._begin()
                return held.token
        trouble = await self._fetched()
        if trouble is None:
            assert self._held is not None
            return self._held.token
        # It may be that there is a new one although this attempt failed: then it is the better one.
        known = self._held
        if known is not None and known.left(self._clock) > 0 and not (refused and known is held):
            return known.token
        raise trouble

    def forgive(self) -> None:
        """The next call may ask at once."""
        self._own.end()
        self._common.end()

    async def close(self) -> None:
        """Wait until a request that is under way has come to its end (what it brings may have to be kept), but not
        for long."""
        self._closed = True
        flight = self._flight
        if flight is not None and not flight.done():
            await asyncio.wait([flight], timeout=_LONGEST_FAREWELL)
            flight.cancel()
            await asyncio.wait([flight])

    def _begin(self) -> TokenTrouble | None:
        """Have somebody ask, unless it is too early after a failure: then that failure."""
        if self._flight is not None and not self._flight.done():
            return None
        if self._closed:
            return TokenTrouble("The service is stopping.", fault=Fault.OURS, code="closed", retry=True)
        stamp = self._grant.stamp()
        trouble = self._own.trouble(stamp) or self._common.trouble(stamp)
        if trouble is None:
            self._flight = asyncio.create_task(self._fetch(stamp))
        return trouble

    async def _fetched(self) -> TokenTrouble | None:
        """All who wait together; None: there is a new token."""
        trouble = self._begin()
        if trouble is not None:
            return trouble
        flight = self._flight
        assert flight is not None
        # One that gives up waiting does not take the others' answer with it.
        await asyncio.wait([flight])
        if flight.cancelled():
            return TokenTrouble("The service is stopping.", fault=Fault.OURS, code="closed", retry=True)
        trouble = flight.result()
        return None if trouble is None else trouble.again(trouble.wait)

    async def _fetch(self, stamp: object) -> TokenTrouble | None:
        began = self._clock.steady()
        try:
            async with asyncio.timeout(_LONGEST_FETCH):
                token = await self._grant.fetch()
        except TokenTrouble as trouble:
            patience = self._own if trouble.mailbox else self._common
            return patience.failed(trouble, stamp)
        except TimeoutError:
            reason = f"There was no token within {_LONGEST_FETCH:g} s."
            slow = TokenTrouble(reason, fault=Fault.NETWORK, code="unreachable", retry=True)
            return self._common.failed(slow, stamp)
        life = token.expires - token.obtained
        self._held = _Held(token, self._clock.steady(), began + life, life)
        self._own.end()
        self._common.end()
        return None
