"""A token endpoint (RFC 6749 §3.2): asked with a form, it answers with a token or says why not.

Answers are a stranger's: bounded, read strictly, and what they say reaches people without our secrets. Imported
only where tokens are configured.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Fault, Token, TokenTrouble, shown
from mailroot.deliver.credentials.claims import read_claims, seconds, text, words
from mailroot.deliver.credentials.clients import Client
from mailroot.deliver.credentials.explanation import explain
from mailroot.net.https import Answer, EndpointError, Endpoints
from mailroot.units import DAY, HOUR, MINUTE

_LONGEST_TOKEN = 16 * 1024
_UNTOLD_LIFE = 30 * MINUTE
"""Of a token of which nobody says when it ends."""
_SHORTEST_LIFE = 10.0
_LONGEST_LIFE = 7 * DAY
_LONGEST_WAIT = HOUR
# RFC 6750 §2.1: b64token. What is anything else would break out of a login.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


@dataclass(frozen=True, slots=True)
class Issued:
    """What a token endpoint gave: the token, and with it a refresh token ("" without) that ends at `refresh_ends`,
    seconds since the epoch, None if that is not told."""

    token: Token
    refresh_token: str = field(default="", repr=False)
    refresh_ends: float | None = None


class TokenEndpoint:
    """One address, and who we are there."""

    __slots__ = ("_clock", "_endpoints", "address", "client")

    def __init__(self, address: str, client: Client, endpoints: Endpoints, clock: Clock) -> None:
        self.address = address
        self.client = client
        self._endpoints = endpoints
        self._clock = clock

    async def ask(self, form: Mapping[str, str]) -> Issued:
        """Ask for a token. Raises TokenTrouble."""
        began = self._clock.now()
        return read_issued(await self.post(self.address, form), began, self.address)

    async def post(self, address: str, form: Mapping[str, str]) -> dict[str, Any]:
        """What a good answer says: this endpoint's, or another's of the same issuer. Raises TokenTrouble."""
        filled = dict(form)
        login = await self.client.sign(filled, self.address)
        # What was sent may come back, but for the words that are no secret.
        sent = [value for name, value in filled.items() if name in _SECRET_FIELDS]
        try:
            answer = await self._endpoints.ask("POST", address, form=filled, login=login)
        except EndpointError as error:
            raise unreachable(error) from None
        return accepted(answer, address, self._clock.now(), (*sent, *self.client.secrets))


_SECRET_FIELDS = frozenset({"client_secret", "client_assertion", "refresh_token", "device_code", "assertion"})


def accepted(answer: Answer, address: str, now: float, secrets: tuple[str, ...]) -> dict[str, Any]:
    """What the answer says, if it is a good one. Raises TokenTrouble. `secrets` are not repeated from it."""
    if 300 <= answer.status < 400:
        raise TokenTrouble(
            f"{address} answers by sending us somewhere else ({answer.status}), where no secret is sent. Compare "
            "the address; or a proxy on the way wants a login.",
            fault=Fault.NETWORK,
            code="redirect",
            retry=True,
        )
    said = answer.json()
    if answer.status == 200 and said is not None:
        return said
    if answer.status == 200:
        raise TokenTrouble(
            f"{address} answers with something that is not a token. Compare the address; or something on the way "
            "answers in its place.",
            fault=Fault.NETWORK,
            code="no_json",
            retry=True,
        )
    raise _refusal(answer, said or {}, now, secrets)


def _refusal(answer: Answer, said: Mapping[str, Any], now: float, secrets: tuple[str, ...]) -> TokenTrouble:
    # App Service's managed identity has {"statusCode": …, "message": …}.
    description = shown(said.get("error_description") or said.get("message"), secrets)
    error = said.get("error")
    name = shown(error, secrets)[:60] if isinstance(error, str) else ""
    explanation = explain(name, description, answer.status)
    reason = explanation.words
    if description and explanation.code not in description:
        reason += f" It says: {name}: {description}" if name and name != description else f" It says: {description}"
    elif description:
        reason += f" ({explanation.code})"
    return TokenTrouble(
        reason,
        fault=explanation.fault,
        code=explanation.code,
        retry=explanation.retry,
        mailbox=explanation.mailbox,
        said=description,
        wait=read_retry_after(answer.retry_after, now),
    )


def unreachable(error: EndpointError) -> TokenTrouble:
    """The trouble that an EndpointError is."""
    return TokenTrouble(
        f"The token endpoint gives no usable answer: {error}",
        fault=Fault.THEIRS if error.status else Fault.NETWORK,
        code="unusable" if error.status else "unreachable",
        retry=True,
    )


def read_retry_after(value: str, now: float) -> float | None:
    """Seconds, of a number or a date (RFC 9110 §10.2.3); never more than an hour."""
    wait = seconds(value.strip())
    if wait is None and value:
        try:
            wait = max(0.0, parsedate_to_datetime(value).timestamp() - now)
        except (ValueError, OverflowError):
            return None
    return None if wait is None else min(wait, _LONGEST_WAIT)


def read_issued(said: Mapping[str, Any], began: float, address: str) -> Issued:
    """The tokens in a good answer; `began` is when it was asked for. Raises TokenTrouble."""
    value, kind = said.get("access_token"), said.get("token_type", "Bearer")
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TOKEN or not _TOKEN.fullmatch(value):
        raise _useless(address, "it gives no access token that can be used")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise _useless(address, "its token is not one for bearers, and no mail server takes another")
    refresh = said.get("refresh_token", "")
    if not isinstance(refresh, str) or len(refresh) > _LONGEST_TOKEN:
        raise _useless(address, "it gives a refresh token that cannot be used")
    claims = read_claims(value)
    life = _life(said, claims, began)
    if life < _SHORTEST_LIFE:
        raise _useless(address, "its token ends at once; perhaps the clock of this computer is wrong")
    refresh_life = seconds(said.get("refresh_token_expires_in", said.get("refresh_expires_in")))
    return Issued(
        Token(
            value,
            began,
            began + life,
            # RFC 6749 §5.1: the answer may say more than the token, or less.
            scopes=words(claims, "scp", "scope") or words(said, "scope"),
            roles=words(claims, "roles"),
            audience=text(claims, "aud"),
            tenant=text(claims, "tid"),
            user=text(claims, "upn", "preferred_username", "unique_name", "email"),
            app=text(claims, "appid", "azp", "client_id"),
        ),
        refresh,
        began + refresh_life if refresh and refresh_life else None,
    )


def _life(said: Mapping[str, Any], claims: Mapping[str, Any], began: float) -> float:
    """For how many seconds from now. What is counted from now comes before what is told by their clock."""
    life = seconds(said.get("expires_in"))
    if life is None:
        ends = seconds(said.get("expires_on"))
        if ends is not None:
            life = ends - began
    if life is None:
        ends, began_there = seconds(claims.get("exp")), seconds(claims.get("iat"))
        if ends is not None:
            life = ends - (began if began_there is None else began_there)
    return _UNTOLD_LIFE if life is None else min(life, _LONGEST_LIFE)


def _useless(address: str, why: str) -> TokenTrouble:
    return TokenTrouble(f"{address} answers, but {why}.", fault=Fault.THEIRS, code="unusable", retry=True)
