"""XOAUTH2 (Google's, used by Microsoft too) and OAUTHBEARER (RFC 7628): access tokens as logins, both sides.

What the octets mean, no more: whether a token is good is told by whoever asks. A refusal has two steps in both: the
server sends JSON that says why, the client answers it with what the mechanism wants there, and only then the login
has failed. Errors never show the token.
"""

import json
import re
from dataclasses import dataclass, field
from typing import ClassVar

from mailroot.smtp.sasl.base import SaslError

XOAUTH2 = "XOAUTH2"
OAUTHBEARER = "OAUTHBEARER"

_END = b"\x01"
# RFC 6750 §2.1: b64token.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_KEY = re.compile(r"[A-Za-z]+")
# RFC 5801 §4: a comma and an equals sign in a name.
_CODED = re.compile(r"=(2C|3D|.{0,2})", re.DOTALL | re.IGNORECASE)
_MOST_OF_A_FAILURE = 4096


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a client says of itself: whom it wants to be ("": whoever the token belongs to; OAUTHBEARER only), and
    its access token ("": OAUTHBEARER's question what would be accepted here)."""

    user: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a token was refused, as the server says it (RFC 7628 §3.2.2): `status` is an OAuth error or an HTTP
    status, `scope` what a token needs, `configuration` the address of the issuer's metadata; "" if not told."""

    status: str = ""
    schemes: str = ""
    scope: str = ""
    configuration: str = ""


# The server's side


def read_xoauth2(octets: bytes) -> Bearer:
    """`user=NAME ^A auth=Bearer TOKEN ^A ^A`. Raises SaslError."""
    pairs = _pairs(octets)
    user = pairs.get("user", "")
    if not user:
        raise SaslError("XOAUTH2 without a user")
    token = _token(pairs)
    if not token:
        raise SaslError("XOAUTH2 without a token")
    return Bearer(user, token)


def read_oauthbearer(octets: bytes) -> Bearer:
    """A GS2 header (RFC 5801 §4), then key-value pairs (RFC 7628 §3.1). Raises SaslError."""
    head, end, rest = octets.partition(_END)
    if not end:
        raise SaslError("OAUTHBEARER without key-value pairs")
    flag, _, name = _text(head).partition(",")
    # "p=" asks for channel binding, which this mechanism has not; "y" says that the client could have done it.
    if flag not in ("n", "y"):
        raise SaslError("OAUTHBEARER with channel binding, which it has not")
    if not name.endswith(",") or name.count(",") != 1:
        raise SaslError("OAUTHBEARER without a GS2 header")
    name = name[:-1]
    if name and not name.startswith("a="):
        raise SaslError("OAUTHBEARER without a GS2 header")
    return Bearer(_CODED.sub(_decoded, name[2:]), _token(_pairs(rest)))


def write_failure(mechanism: str, failure: Failure) -> bytes:
    """The challenge that says why: RFC 7628 §3.2.2 for OAUTHBEARER, Google's form for XOAUTH2."""
    names = {"status": failure.status, "schemes": failure.schemes, "scope": failure.scope}
    if mechanism == OAUTHBEARER:
        names = {
            "status": failure.status,
            "scope": failure.scope,
            "openid-configuration": failure.configuration,
        }
    return json.dumps({name: value for name, value in names.items() if value}, separators=(",", ":")).encode()


# The client's side


def write_xoauth2(user: str, token: str) -> bytes:
    """The client's only message, before base64."""
    return f"user={user}\x01auth=Bearer {token}\x01\x01".encode()


def write_oauthbearer(user: str, token: str, host: str = "", port: int = 0) -> bytes:
    """The client's only message; `host` and `port` are those it connected to, if it wants to say so."""
    name = user.replace("=", "=3D").replace(",", "=2C")
    where = (f"host={host}\x01" if host else "") + (f"port={port}\x01" if port else "")
    return f"n,{f'a={name}' if name else ''},\x01{where}auth=Bearer {token}\x01\x01".encode()


def read_failure(challenge: bytes) -> Failure | None:
    """The refusal in a server's challenge; None where it is anything else."""
    if len(challenge) > _MOST_OF_A_FAILURE:
        return None
    try:
        said = json.loads(challenge)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    words = {str(name).lower(): str(value) for name, value in said.items() if isinstance(value, str | int)}
    return Failure(
        words.get("status", ""),
        words.get("schemes", ""),
        words.get("scope", ""),
        words.get("openid-configuration", ""),
    )


class XOAuth2:
    """A client's login with an access token, as Google and Microsoft want it."""

    __slots__ = ("_octets", "failure")
    name: ClassVar[str] = XOAUTH2
    proven = True

    def __init__(self, username: str, token: str) -> None:
        self._octets = write_xoauth2(username, token)
        self.failure: Failure | None = None
        """Why the server refuses the token, once it said so."""

    def initial(self) -> bytes:
        return self._octets

    def respond(self, challenge: bytes) -> bytes:
        if not challenge:
            return self._octets  # the server did not take an initial response
        # The token is sent once: whatever else a server asks, it is not for the token. The answer to a refusal is
        # an empty line, and only then comes the server's reply.
        self.failure = read_failure(challenge) or self.failure
        return b""


class OAuthBearer:
    """A client's login with an access token (RFC 7628)."""

    __slots__ = ("_octets", "failure")
    name: ClassVar[str] = OAUTHBEARER
    proven = True

    def __init__(self, username: str, token: str, *, host: str = "", port: int = 0) -> None:
        self._octets = write_oauthbearer(username, token, host, port)
        self.failure: Failure | None = None
        """Why the server refuses the token, once it said so."""

    def initial(self) -> bytes:
        return self._octets

    def respond(self, challenge: bytes) -> bytes:
        if not challenge:
            return self._octets
        self.failure = read_failure(challenge) or self.failure
        return _END  # RFC 7628 §3.2.3


# Reading


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise SaslError("a login with a token is not UTF-8") from None


def _pairs(octets: bytes) -> dict[str, str]:
    """`key=value ^A` as often as there are, then `^A`."""
    if not octets.endswith(_END + _END):
        raise SaslError("a login with a token ends with two octets 0x01")
    pairs: dict[str, str] = {}
    for pair in _text(octets[:-2]).split("\x01"):
        key, equals, value = pair.partition("=")
        key = key.lower()
        if not equals or not _KEY.fullmatch(key) or key in pairs:
            raise SaslError("a login with a token is pairs of a key and a value, each key once")
        if any(character < " " and character not in "\t\r\n" for character in value):
            raise SaslError("a login with a token has a control character in a value")
        pairs[key] = value
    return pairs


def _token(pairs: dict[str, str]) -> str:
    """The token of `auth=Bearer TOKEN`; "" for an empty `auth=` (RFC 7628 §4.3)."""
    auth = pairs.get("auth")
    if auth is None:
        raise SaslError("a login with a token says auth=Bearer and the token")
    if not auth:
        return ""
    scheme, _, token = auth.partition(" ")
    if scheme.lower() != "bearer":
        raise SaslError("a login with a token says auth=Bearer and the token")
    token = token.strip(" ")
    if not _TOKEN.fullmatch(token):
        raise SaslError("the token is not in the form of a bearer token")
    return token


def _decoded(match: re.Match[str]) -> str:
    match match[1].upper():
        case "2C":
            return ","
        case "3D":
            return "="
        case _:
            raise SaslError("OAUTHBEARER with a stray equals sign in the name")
