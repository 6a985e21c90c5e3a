"""Logins with access tokens: XOAUTH2 and OAUTHBEARER (RFC 7628).

How a token gets from the client to us, and what the client hears. Whether it is good is said by its issuer: by the
keys the issuer publishes (signed_tokens), or when asked (introspection). A token is in no log, error or repr.
"""

import ssl
from typing import Protocol, assert_never

from mailroot.clock import Clock
from mailroot.policy.auth.account_file import account_key
from mailroot.policy.auth.base import Challenge, Channel, Denied, Granted, Malformed, Step, Unavailable, Verdict
from mailroot.policy.auth.claims import ScopeMissing, Wanted
from mailroot.policy.auth.settings import OAuthSettings
from mailroot.smtp.sasl.base import SaslError
from mailroot.smtp.sasl.oauth import (
    OAUTHBEARER,
    XOAUTH2,
    Bearer,
    Failure,
    read_oauthbearer,
    read_xoauth2,
    write_failure,
)

MECHANISMS = (XOAUTH2, OAUTHBEARER)


class TokenCheck(Protocol):
    """A way to find out whose token it is."""

    async def check(self, token: str) -> Verdict:
        """Granted to the token's own user. Denied and Unavailable say why, in words for the log."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...


class Tokens:
    """The logins with tokens of one virtual server. Asks nobody before the first of them."""

    __slots__ = ("_check", "_configuration", "_scope")

    def __init__(self, settings: OAuthSettings, clock: Clock) -> None:
        """Raises ValueError for settings that cannot work, saying what would be right."""
        self._check = _token_check(settings, clock)
        self._scope = settings.scope
        self._configuration = _configuration(settings)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The SASL names."""
        return MECHANISMS

    def begin(self, mechanism: str, channel: Channel) -> "TokenExchange":
        """A login with one of `mechanisms`. The channel does not matter: a token is not bound to one."""
        if mechanism not in MECHANISMS:
            raise ValueError(f"{mechanism} is not a login with tokens")
        return TokenExchange(mechanism, self._check, self._scope, self._configuration)

    async def close(self) -> None:
        """End what is under way; the logins that wait for it hear that they cannot be decided."""
        await self._check.close()


class TokenExchange:
    """One login: the token, and where it is refused the reason and the client's answer to that."""

    __slots__ = ("_check", "_configuration", "_mechanism", "_refused", "_scope", "_user")

    def __init__(self, mechanism: str, check: TokenCheck, scope: str, configuration: str) -> None:
        self._mechanism = mechanism
        self._check = check
        self._scope = scope
        self._configuration = configuration
        self._user = ""
        self._refused: Denied | None = None

    def __repr__(self) -> str:
        return f"TokenExchange({self._mechanism}, user={self._user!r})"

    @property
    def user(self) -> str:
        return self._user

    async def step(self, response: bytes | None) -> Step:
        if self._refused is not None:
            # RFC 7628 §3.2.3: the client has heard why. Whatever it says to that, the login has failed.
            return self._refused
        if response is None:
            return Challenge(b"")
        try:
            bearer = read_xoauth2(response) if self._mechanism == XOAUTH2 else read_oauthbearer(response)
        except SaslError as error:
            return Malformed(str(error))
        self._user = bearer.user
        verdict = await self._verdict(bearer)
        match verdict:
            case Granted() | Unavailable():
                return verdict
            case Denied():
                self._refused = verdict
                return Challenge(write_failure(self._mechanism, self._failure(verdict)), verdict)
            case _:
                assert_never(verdict)

    async def _verdict(self, bearer: Bearer) -> Verdict:
        if not bearer.token:
            # RFC 7628 §4.3: the client wants to know which issuer and scope would do.
            return Denied("no token", bearer.user)
        verdict = await self._check.check(bearer.token)
        match verdict:
            case Granted(user) if bearer.user and account_key(bearer.user) != account_key(user):
                return Denied(f"the token is that of {user}", bearer.user)
            case ScopeMissing(reason):
                return ScopeMissing(reason, bearer.user)
            case Denied(reason, user):
                return Denied(reason, bearer.user or user)
        return verdict

    def _failure(self, denied: Denied) -> Failure:
        if self._mechanism == OAUTHBEARER:
            status = "insufficient_scope" if isinstance(denied, ScopeMissing) else "invalid_token"
            return Failure(status, scope=self._scope, configuration=self._configuration)
        status = "403" if isinstance(denied, ScopeMissing) else "401"
        return Failure(status, schemes="bearer", scope=self._scope)


def _token_check(settings: OAuthSettings, clock: Clock) -> TokenCheck:
    _check_settings(settings)
    # Here and not above: who has no logins with tokens does not pay for them.
    from mailroot.net.https import Endpoints, check_address

    for name in ("issuer", "jwks", "introspection"):
        if address := getattr(settings, name):
            check_address(f"oauth.{name}", address)
    endpoints = Endpoints(_context(settings))
    wanted = Wanted(settings.issuer, settings.audience, settings.scope, (settings.user_claim,), complete=True)
    if settings.introspection:
        from mailroot.policy.auth.introspection import Introspection

        # RFC 7662 §2.2: an answer may have few claims, and says who it is as `username`.
        claims = (settings.user_claim, "username", "sub")
        wanted = Wanted(settings.issuer, settings.audience, settings.scope, claims, complete=False)
        login = settings.client_id, settings.client_secret
        return Introspection(settings.introspection, *login, wanted, endpoints, clock)
    from mailroot.policy.auth.signed_tokens import IssuerKeys, SignedTokens

    return SignedTokens(wanted, IssuerKeys(settings.issuer, settings.jwks, endpoints, clock), clock)


def _check_settings(settings: OAuthSettings) -> None:
    if not settings.issuer and not settings.introspection:
        raise ValueError(
            "oauth: nobody can say whether a token is good; right would be 'issuer', whose keys check signed "
            "tokens, or 'introspection', the address that is asked about each"
        )
    if not settings.audience and not (settings.introspection and settings.scope):
        raise ValueError(
            "oauth: any token of this issuer would do, whatever it was made for; right would be 'audience', the "
            "name that tokens for this relay have in their 'aud'"
        )
    if settings.introspection and not (settings.client_id and settings.client_secret):
        raise ValueError(
            "oauth: an introspection endpoint answers only those it knows; right would be 'client_id' and "
            "'client_secret' beside 'introspection'"
        )
    if not settings.introspection and (settings.client_id or settings.client_secret):
        raise ValueError("oauth: 'client_id' and 'client_secret' are for 'introspection', which is not set")
    if not settings.user_claim:
        raise ValueError("oauth: 'user_claim' is empty; right would be the claim that names the account")


def _configuration(settings: OAuthSettings) -> str:
    """Where a client finds out how to get a token: RFC 7628 §3.2.2."""
    return f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration" if settings.issuer else ""


def _context(settings: OAuthSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca)
    except OSError as error:
        raise ValueError(f"oauth.ca: {settings.ca} cannot be used ({error}); right would be a PEM file") from None
