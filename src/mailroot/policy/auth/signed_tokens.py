"""Signed access tokens (JWT, RFC 7519, RFC 9068), checked by the keys that their issuer publishes (JWKS, RFC 7517).

What to hold to is in RFC 8725. The keys are kept for an hour. A token with an unknown key has them read again, but
not more than twice a minute, however many such tokens come. While the issuer is down, the keys that are known go on
being good for a day. Imported only where logins with tokens are configured.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import jwt

from mailroot.clock import Clock
from mailroot.net.https import EndpointError, Endpoints, check_address
from mailroot.policy.auth.base import Denied, Unavailable, Verdict
from mailroot.policy.auth.claims import Wanted, judge
from mailroot.units import DAY, HOUR

ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)
"""Never "none", and none with a shared secret: the issuer's public key would be that secret (RFC 8725 §2.1)."""

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt", "application/jwt"})
_LIFETIME = HOUR
_LONGEST_USE = DAY
_LEAST_PAUSE = 30.0
_MOST_KEYS = 50
# Claims are judged by `claims`, with our clock; this is the signature's part.
_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    "enforce_minimum_key_length": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
_UNVERIFIED: Any = _SIGNATURE_ONLY | {"verify_signature": False}


class SignedTokens:
    """Checks tokens by themselves; asks the issuer for nothing but its keys."""

    __slots__ = ("_clock", "_keys", "_wanted")

    def __init__(self, wanted: Wanted, keys: "IssuerKeys", clock: Clock) -> None:
        self._wanted = wanted
        self._keys = keys
        self._clock = clock

    async def check(self, token: str) -> Verdict:
        try:
            unverified = jwt.decode_complete(token, options=_UNVERIFIED)
        except (jwt.PyJWTError, RecursionError):
            return Denied("the token is not a signed token (JWT)")
        header = unverified["header"]
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            return Denied("the token is not signed in a way that is accepted")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            return Denied("the token is of another type than an access token")
        # Nobody is asked about tokens that cannot be good whatever their signature says.
        verdict = judge(unverified["payload"], self._wanted, self._clock.now())
        if isinstance(verdict, Denied):
            return verdict
        try:
            keys = await self._keys.find(kid if isinstance(kid, str) else None)
        except EndpointError as error:
            return Unavailable(f"the issuer's keys cannot be read: {error}")
        if _is_signed(token, algorithm, keys):
            return verdict
        if keys:
            return Denied("the token's signature is wrong", verdict.user)
        return Denied("the token is signed with a key that its issuer does not have", verdict.user)

    async def close(self) -> None:
        await self._keys.close()


def _is_signed(token: str, algorithm: str, keys: tuple["Key", ...]) -> bool:
    for key in keys:
        try:
            jwt.decode_complete(token, key.for_algorithm(algorithm), [algorithm], _SIGNATURE_ONLY)
        except jwt.PyJWTError:
            continue
        return True
    return False


class Key:
    """One public key of the issuer's, read when it is first needed."""

    __slots__ = ("_jwk", "_read", "kid")

    def __init__(self, jwk: Mapping[str, Any]) -> None:
        self._jwk = dict(jwk)
        self._read: dict[str, jwt.PyJWK] = {}
        self.kid = jwk.get("kid")

    def for_algorithm(self, algorithm: str) -> jwt.PyJWK:
        """Raises PyJWTError where this key is not for that algorithm."""
        found = self._read.get(algorithm)
        if found is None:
            if self._jwk.get("alg", algorithm) != algorithm:
                raise jwt.InvalidKeyError("the key is for another algorithm")
            found = self._read[algorithm] = jwt.PyJWK(self._jwk, algorithm)
        return found


def _is_for_signatures(jwk: object) -> bool:
    """RFC 7517 §4.2, §4.3; a symmetric key ("oct") is never used, even if somebody should publish one."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP"):
        return False
    operations = jwk.get("key_ops")
    return jwk.get("use", "sig") == "sig" and (not isinstance(operations, list) or "verify" in operations)


@dataclass(frozen=True, slots=True)
class _KeySet:
    keys: tuple[Key, ...]
    read_at: float


class IssuerKeys:
    """The keys of an issuer: found by its metadata, or at `jwks` if that is told."""

    __slots__ = ("_asked_at", "_clock", "_endpoints", "_flight", "_issuer", "_jwks", "_known", "_trouble")

    def __init__(self, issuer: str, jwks: str, endpoints: Endpoints, clock: Clock) -> None:
        self._issuer = issuer
        self._jwks = jwks
        self._endpoints = endpoints
        self._clock = clock
        self._known: _KeySet | None = None
        self._asked_at: float | None = None
        self._trouble: EndpointError | None = None
        self._flight: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> tuple[Key, ...]:
        """The keys a token with this `kid` may be signed with: one, or all for a token without; empty: the issuer
        has none such. Raises EndpointError when that cannot be known."""
        if self._known is None or self._age() > _LIFETIME:
            await self._read_again()
        found = self._select(kid)
        if not found:
            await self._read_again()
            found = self._select(kid)
        if (not found and self._trouble is not None) or self._known is None:
            raise self._trouble or EndpointError("not asked yet")
        return found

    async def close(self) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.cancel()
            await asyncio.wait([flight])
        await self._endpoints.close()

    def _age(self) -> float:
        return self._clock.steady() - self._known.read_at if self._known is not None else 0.0

    def _select(self, kid: str | None) -> tuple[Key, ...]:
        if self._known is None:
            return ()
        return tuple(key for key in self._known.keys if kid is None or key.kid == kid)

    async def _read_again(self) -> None:
        """Ask the issuer, all who wait together; not if that was done a moment ago."""
        if self._flight is None or self._flight.done():
            now = self._clock.steady()
            if self._asked_at is not None and now - self._asked_at < _LEAST_PAUSE:
                return
            self._asked_at = now
            self._flight = asyncio.create_task(self._read())
        # One that gives up waiting does not take the others' answer with it, and `close` breaks off no waiter.
        flight = self._flight
        await asyncio.wait([flight])
        if not flight.cancelled():
            flight.result()

    async def _read(self) -> None:
        try:
            address = self._jwks or await self._discover()
            keys = (await self._endpoints.get(address)).get("keys")
            if not isinstance(keys, list):
                raise EndpointError(f"{address}: the answer has no keys")
        except EndpointError as error:
            self._trouble = error
            if self._age() > _LONGEST_USE:
                self._known = None
            return
        usable = tuple(Key(jwk) for jwk in keys[:_MOST_KEYS] if _is_for_signatures(jwk))
        self._known = _KeySet(usable, self._clock.steady())
        self._trouble = None

    async def _discover(self) -> str:
        """The address of the keys, by OpenID Connect Discovery or RFC 8414."""
        for address in metadata_addresses(self._issuer):
            try:
                metadata = await self._endpoints.get(address)
            except EndpointError as error:
                if 400 <= error.status < 500:
                    continue
                raise
            # RFC 8414 §3.3: or another issuer's keys would be taken for this one's.
            if metadata.get("issuer") != self._issuer:
                raise EndpointError(f"{address}: it is about the issuer '{metadata.get('issuer')}'")
            found = metadata.get("jwks_uri")
            try:
                check_address("jwks_uri", str(found))
            except ValueError as error:
                raise EndpointError(f"{address}: {error}") from None
            return str(found)
        raise EndpointError(f"{self._issuer}: it has no metadata; its keys have to be told by 'jwks'")


def metadata_addresses(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may be: OpenID Connect Discovery §4, then RFC 8414 §3.1."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    return tuple(
        urlunsplit((parts.scheme, parts.netloc, where, "", ""))
        for where in (f"{path}/.well-known/openid-configuration", f"/.well-known/oauth-authorization-server{path}")
    )
