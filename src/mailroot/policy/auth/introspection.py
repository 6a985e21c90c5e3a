"""Access tokens that only their issuer understands: it is asked about each (RFC 7662).

A good answer is remembered for a minute, under a hash of the token, and never past the token's end; so a token that
was revoked is refused after a minute at the latest. Imported only where logins with tokens are configured.
"""

import hashlib
from collections import OrderedDict
from urllib.parse import quote_plus

from mailroot.clock import Clock
from mailroot.net.https import EndpointError, Endpoints
from mailroot.policy.auth.base import Denied, Granted, Unavailable, Verdict
from mailroot.policy.auth.claims import Wanted, expiry, judge
from mailroot.units import MINUTE

_REMEMBERED_FOR = MINUTE
_MOST_REMEMBERED = 1000


class Introspection:
    """Asks the endpoint at `address`, as `client_id` with `client_secret`."""

    __slots__ = ("_address", "_clock", "_endpoints", "_login", "_remembered", "_wanted")

    def __init__(
        self,
        address: str,
        client_id: str,
        client_secret: str,
        wanted: Wanted,
        endpoints: Endpoints,
        clock: Clock,
    ) -> None:
        self._address = address
        # RFC 6749 §2.3.1: both are encoded as in a form before they become Basic authentication.
        self._login = (quote_plus(client_id), quote_plus(client_secret))
        self._wanted = wanted
        self._endpoints = endpoints
        self._clock = clock
        self._remembered: OrderedDict[bytes, tuple[Granted, float]] = OrderedDict()

    async def check(self, token: str) -> Verdict:
        name = hashlib.sha256(token.encode()).digest()
        remembered = self._remembered.get(name)
        if remembered is not None:
            granted, until = remembered
            if self._clock.steady() < until:
                return granted
            del self._remembered[name]
        try:
            form = {"token": token, "token_type_hint": "access_token"}
            said = await self._endpoints.post(self._address, form, self._login)
        except EndpointError as error:
            return Unavailable(f"the issuer cannot be asked about the token: {error}")
        if said.get("active") is not True:
            return Denied("the issuer says that the token is not active")
        now = self._clock.now()
        verdict = judge(said, self._wanted, now)
        if isinstance(verdict, Granted):
            ends = expiry(said)
            left = _REMEMBERED_FOR if ends is None else min(_REMEMBERED_FOR, ends - now)
            self._remember(name, verdict, self._clock.steady() + left)
        return verdict

    async def close(self) -> None:
        self._remembered.clear()
        await self._endpoints.close()

    def _remember(self, name: bytes, granted: Granted, until: float) -> None:
        self._remembered[name] = (granted, until)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
