"""Tokens of a Google service account that may act for the mailboxes of a Workspace (domain-wide delegation).

One token for each mailbox, got with a signed grant (RFC 7523 §2.1) that names it. Imported only where a route logs
in so.
"""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Ending, Fault, Token, TokenSource, TokenTrouble
from mailroot.deliver.credentials.clients import PublicClient, signed_grant
from mailroot.deliver.credentials.endpoint import TokenEndpoint
from mailroot.deliver.credentials.fetch import Patience, TokenKeeper
from mailroot.deliver.credentials.settings import GoogleLogin
from mailroot.net.https import Endpoints, check_address

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_GRANT_LIFE = 3600
"""Google wants no more, and gives tokens of an hour."""
_LARGEST_FILE = 64 * 1024
_MOST_MAILBOXES = 1000


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """What a service account's key file says."""

    account: str
    key_id: str
    token_endpoint: str
    key: Any = field(repr=False)


def read_service_key(path: Path) -> ServiceKey:
    """Raises ValueError, which names the file and shows nothing of it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as file:
            octets = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        content = json.loads(octets.decode("utf-8-sig")) if len(octets) <= _LARGEST_FILE else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("type") != "service_account":
        raise ValueError(
            f"{path}: is not the key of a service account; right would be the JSON file that Google gives"
        )
    told = [content.get(name) for name in ("client_email", "private_key_id", "token_uri", "private_key")]
    if not all(isinstance(one, str) and one for one in told):
        raise ValueError(f"{path}: lacks client_email, private_key_id, token_uri or private_key")
    account, key_id, endpoint, pem = map(str, told)
    check_address(f"{path}: token_uri", endpoint)
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{path}: its private_key cannot be understood") from None
    return ServiceKey(account, key_id, endpoint, key)


class ServiceAccount:
    """The tokens of a service account, for each mailbox its own."""

    __slots__ = ("_clock", "_common", "_endpoints", "_keepers", "_settings")

    def __init__(self, settings: GoogleLogin, endpoints: Endpoints, clock: Clock) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._clock = clock
        self._common = Patience(clock)
        self._keepers: OrderedDict[str, TokenKeeper] = OrderedDict()

    def source(self, mailbox: str) -> TokenSource:
        key = mailbox.lower()
        keeper = self._keepers.get(key)
        if keeper is None:
            keeper = TokenKeeper(_ForMailbox(self, mailbox), self._clock, common=self._common)
            self._keepers[key] = keeper
            if len(self._keepers) > _MOST_MAILBOXES:
                # Whoever still waits for it keeps it; nothing of it has to be stored.
                self._keepers.popitem(last=False)
        self._keepers.move_to_end(key)
        return keeper

    async def fetch(self, mailbox: str) -> Token:
        """Ask for a mailbox's token. Raises TokenTrouble."""
        try:
            assertion, endpoint = await asyncio.to_thread(self._assertion, mailbox)
        except ValueError as error:
            raise TokenTrouble(
                f"The service account's key cannot be used: {error}", fault=Fault.OURS, code="key_file", retry=False
            ) from None
        asked = TokenEndpoint(endpoint, _Nobody(""), self._endpoints, self._clock)
        try:
            return (await asked.ask({"grant_type": _GRANT, "assertion": assertion})).token
        except TokenTrouble as trouble:
            # Google says the same of a delegation that is missing and of a mailbox in another Workspace. Where
            # others get their tokens, it is the latter.
            if trouble.code == "unauthorized_client" and self._serves_others(mailbox):
                raise trouble.again(trouble.wait, mailbox=True) from None
            raise

    def stamp(self) -> object:
        """Changes with the key file."""
        try:
            return self._settings.key_file.stat().st_mtime_ns
        except OSError:
            return None

    def endings(self) -> tuple[Ending, ...]:
        """Google's keys end only if somebody says so."""
        return ()

    def forgive(self) -> None:
        for keeper in self._keepers.values():
            keeper.forgive()

    async def close(self) -> None:
        await asyncio.gather(*(keeper.close() for keeper in self._keepers.values()))
        await self._endpoints.close()

    def _serves_others(self, mailbox: str) -> bool:
        return any(keeper.held is not None for name, keeper in self._keepers.items() if name != mailbox.lower())

    def _assertion(self, mailbox: str) -> tuple[str, str]:
        key = read_service_key(self._settings.key_file)
        now = int(self._clock.now())
        claims = {
            "iss": key.account,
            "sub": mailbox,
            "scope": self._settings.scope,
            "aud": key.token_endpoint,
            "iat": now,
            "exp": now + _GRANT_LIFE,
        }
        return signed_grant(claims, key.key, key.key_id), key.token_endpoint


class _ForMailbox:
    """The Grant of one mailbox."""

    __slots__ = ("_account", "_mailbox")

    def __init__(self, account: ServiceAccount, mailbox: str) -> None:
        self._account = account
        self._mailbox = mailbox

    async def fetch(self) -> Token:
        return await self._account.fetch(self._mailbox)

    def stamp(self) -> object:
        return self._account.stamp()


class _Nobody(PublicClient):
    """The assertion itself says who asks."""

    async def sign(self, form: dict[str, str], audience: str) -> None:
        """Nothing to add."""
