"""What an access token says about itself (RFC 9068, and Microsoft's names), read without trusting it.

Good for telling people what they set up and when a token ends; nothing is decided by it that matters to anybody
else.
"""

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any

_MOST_CLAIMS = 16 * 1024
_LONGEST_CLAIM = 200
_MOST_SCOPES = 50


def read_claims(value: str) -> Mapping[str, Any]:
    """The claims of a signed token; none for one that only its issuer understands."""
    parts = value.split(".")
    if len(parts) != 3 or len(parts[1]) > _MOST_CLAIMS:
        return {}
    try:
        said = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def text(claims: Mapping[str, Any], *names: str) -> str:
    """The first of these claims that is a text; of a list its first."""
    for name in names:
        found = claims.get(name)
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, str) and found.isprintable():
            return found[:_LONGEST_CLAIM]
    return ""


def words(claims: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """All words of these claims: `scope` is one text, `roles` a list."""
    found: list[str] = []
    for name in names:
        said = claims.get(name)
        several = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        found += [one[:_LONGEST_CLAIM] for one in several if isinstance(one, str) and one.isprintable()]
    return tuple(dict.fromkeys(found))[:_MOST_SCOPES]


def seconds(value: object) -> float | None:
    """A number of seconds, also where it is written as text, as Azure's endpoints do; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return float(value)
