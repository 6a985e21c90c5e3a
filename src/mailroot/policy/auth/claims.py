"""What an access token says about itself, held against what is wanted here.

The claims of a signed token (RFC 7519, RFC 9068) and those of an introspection's answer (RFC 7662 §2.2) have the
same names and the same meaning. Whether the claims can be believed is settled before.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from mailroot.policy.auth.base import Denied, Granted

LEEWAY = 30.0
"""Seconds by which the issuer's clock and ours may differ."""

_LONGEST_USER = 320


@dataclass(frozen=True, slots=True)
class ScopeMissing(Denied):
    """The token is good, but not for this: it was not given the scope that is wanted here."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a token must say. `issuer`, `audience`, `scope`: "" where it is not looked at. `user_claims`: the names
    of the claims that tell the account; the first that is there does. `complete`: whether iss and exp have to be
    there; else they only must not be wrong."""

    issuer: str
    audience: str
    scope: str
    user_claims: tuple[str, ...]
    complete: bool


def judge(claims: Mapping[str, object], wanted: Wanted, now: float) -> Granted | Denied:
    """Whose token it is, or what is wrong with it; `now` in seconds since the epoch."""
    user = _user(claims, wanted)
    wrong = _wrong(claims, wanted, now)
    if wrong:
        return Denied(wrong, user)
    # RFC 7800: the token is of use to the holder of a key only, and these mechanisms cannot show that key.
    if "cnf" in claims:
        return Denied("the token is bound to a key, which a login with XOAUTH2 or OAUTHBEARER cannot show", user)
    if wanted.scope and wanted.scope not in _scopes(claims):
        return ScopeMissing(f"the token does not have the scope or role '{wanted.scope}'", user)
    if not user:
        return Denied(f"the token does not say who its user is ({' or '.join(wanted.user_claims)})")
    return Granted(user)


def expiry(claims: Mapping[str, object]) -> float | None:
    """When the token ends, seconds since the epoch; None where it does not say."""
    return _number(claims.get("exp"))


def _wrong(claims: Mapping[str, object], wanted: Wanted, now: float) -> str:
    issuer, audience = claims.get("iss"), claims.get("aud")
    if wanted.issuer and (issuer is not None or wanted.complete) and issuer != wanted.issuer:
        return "the token is of another issuer"
    if wanted.audience and wanted.audience not in (audience if isinstance(audience, list) else [audience]):
        return f"the token is not for the audience '{wanted.audience}'"
    for name in ("exp", "nbf"):
        if name in claims and _number(claims[name]) is None:
            return f"the token's '{name}' is not a time"
    ends, begins = expiry(claims), _number(claims.get("nbf"))
    if ends is None and wanted.complete:
        return "the token does not say when it ends"
    if ends is not None and ends + LEEWAY <= now:
        return "the token has expired"
    if begins is not None and begins - LEEWAY > now:
        return "the token is not valid yet"
    return ""


def _scopes(claims: Mapping[str, object]) -> set[str]:
    """`scope` (RFC 8693 §4.2) is words in one text; Microsoft says `scp`, and `roles` for programs."""
    found: set[str] = set()
    for name in ("scope", "scp", "roles"):
        match claims.get(name):
            case str(words):
                found.update(words.split(" "))
            case list(words):
                found.update(word for word in words if isinstance(word, str))
    return found


def _user(claims: Mapping[str, object], wanted: Wanted) -> str:
    for name in wanted.user_claims:
        user = claims.get(name)
        if user is not None:
            return user if isinstance(user, str) and _is_name(user) else ""
    return ""


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_USER and not any(unicodedata.category(one)[0] == "C" for one in text)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # JSON has no infinity, Python's reader of it does; and an integer may be too large for a float.
    return float(value) if -1e15 < value < 1e15 else None
