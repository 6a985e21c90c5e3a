"""Ways to get an access token that every issuer knows: client credentials (RFC 6749 §4.4), a stored login's refresh
token (§6), and a login by code that makes one (RFC 8628).

Imported only where tokens are configured.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Ending, Fault, Token, TokenTrouble, shown
from mailroot.deliver.credentials.claims import seconds
from mailroot.deliver.credentials.endpoint import Issued, TokenEndpoint, read_issued
from mailroot.deliver.credentials.store import LoginStore, StoredLogin, StoreError
from mailroot.net.https import check_address

_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER = 5.0
_LONGEST_INTERVAL = 60.0
_LONGEST_CODE = 1800.0


class ClientCredentials:
    """A program's own token: no mailbox has to say yes."""

    __slots__ = ("_endpoint", "_form")

    def __init__(self, endpoint: TokenEndpoint, form: Mapping[str, str]) -> None:
        """`form`: what is asked for, as scope and resource."""
        self._endpoint = endpoint
        self._form = {"grant_type": "client_credentials", **form}

    async def fetch(self) -> Token:
        return (await self._endpoint.ask(self._form)).token

    def stamp(self) -> object:
        return self._endpoint.client.stamp()


class StoredGrant:
    """Tokens by the refresh token of a stored login, or of the settings. A rolled one is safe on disk before the
    access token that came with it is given away."""

    __slots__ = ("_clock", "_endpoint", "_first", "_form", "_name", "_store", "_unsaved")

    def __init__(
        self,
        endpoint: TokenEndpoint,
        store: LoginStore,
        name: str,
        clock: Clock,
        *,
        form: Mapping[str, str],
        first: str = "",
    ) -> None:
        """`form`: what is asked for again each time, as scope. `first`: the refresh token of the settings; a login
        that descends from another one is left alone."""
        self._endpoint = endpoint
        self._store = store
        self._name = name
        self._clock = clock
        self._form = dict(form)
        self._first = first
        self._unsaved: tuple[str, StoredLogin, Token] | None = None

    async def fetch(self) -> Token:
        try:
            async with self._store.turn(self._name):
                return await self._refresh(await asyncio.to_thread(self._store.read, self._name))
        except StoreError as error:
            raise TokenTrouble(
                f"The stored login cannot be used: {error}", fault=Fault.OURS, code="store", retry=error.passing
            ) from None

    def stamp(self) -> object:
        return self._store.stamp(self._name), self._endpoint.client.stamp()

    def endings(self) -> tuple[Ending, ...]:
        """When the stored login ends, if that is known. Reads files."""
        try:
            stored = self._store.read(self._name)
        except StoreError:
            return ()  # who needs it will say so
        if stored is None or stored.ends is None:
            return ()
        return (Ending(f"stored login of route {self._name}", stored.ends),)

    async def _refresh(self, stored: StoredLogin | None) -> Token:
        login = self._login(stored)
        if self._unsaved is not None:
            used, unsaved, token = self._unsaved
            if used == login.refresh_token:
                # It was rolled, and could not be written down: without that, the next one would not work.
                await asyncio.to_thread(self._store.write, self._name, unsaved)
                self._unsaved = None
                if (token.obtained + token.expires) / 2 > self._clock.now():
                    return token
                login = unsaved
            self._unsaved = None
        form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token, **self._form}
        issued = await self._endpoint.ask(form)
        rolled = issued.refresh_token and issued.refresh_token != login.refresh_token
        if rolled or issued.refresh_ends != login.ends:
            renewed = replace(
                login,
                refresh_token=issued.refresh_token or login.refresh_token,
                kept=issued.token.obtained,
                ends=issued.refresh_ends,
            )
            self._unsaved = (login.refresh_token, renewed, issued.token)
            await asyncio.to_thread(self._store.write, self._name, renewed)
            self._unsaved = None
        return issued.token

    def _login(self, stored: StoredLogin | None) -> StoredLogin:
        """The one to use: the stored one, if it is for this endpoint and client, else that of the settings."""
        endpoint, client = self._endpoint.address, self._endpoint.client.id
        origin = hashlib.sha256(self._first.encode()).hexdigest() if self._first else ""
        # A refresh token is sent nowhere but to who gave it, whatever the settings say now.
        if (
            stored is not None
            and (stored.endpoint, stored.client) == (endpoint, client)
            and (not origin or stored.origin == origin)
        ):
            return stored
        if self._first:
            return StoredLogin(self._first, endpoint, client, origin=origin)
        why = (
            "Nobody has logged in yet."
            if stored is None
            else "The settings are for another endpoint or client than those somebody logged in with."
        )
        raise TokenTrouble(
            f"{why} Do it with `mailroot route login {self._name}`.",
            fault=Fault.OURS,
            code="login_required",
            retry=False,
        )


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A login that waits for somebody: to enter `user_code` at `address`, or to open `complete_address` ("" if
    there is none), until `expires`, by the clock's `steady`. `interval`: seconds between questions."""

    user_code: str
    address: str
    complete_address: str
    expires: float
    interval: float
    device_code: str = field(repr=False)


class DeviceLogin:
    """A login by code: somebody says yes in a browser, anywhere, and the refresh token is stored."""

    __slots__ = ("_address", "_clock", "_endpoint", "_form", "_name", "_store")

    def __init__(
        self,
        address: str,
        endpoint: TokenEndpoint,
        store: LoginStore,
        name: str,
        clock: Clock,
        *,
        form: Mapping[str, str],
    ) -> None:
        """`address`: the device authorization endpoint. `form`: what is asked for, as scope."""
        self._address = address
        self._endpoint = endpoint
        self._store = store
        self._name = name
        self._clock = clock
        self._form = dict(form)

    async def begin(self) -> DeviceCode:
        """Ask for a code. Raises TokenTrouble."""
        began = self._clock.steady()
        said = await self._endpoint.post(self._address, self._form)
        code, user_code = said.get("device_code"), shown(said.get("user_code"))
        # Microsoft and Google say verification_url in their older forms.
        address = shown(said.get("verification_uri") or said.get("verification_url"))
        complete = shown(said.get("verification_uri_complete"))
        if not isinstance(code, str) or not code or not user_code or not address:
            raise self._trouble("answers, but gives no code", "unusable")
        for one in filter(None, (address, complete)):
            try:
                check_address("verification_uri", one)
            except ValueError:
                raise self._trouble("answers with an address that nobody should open", "unusable") from None
        life = seconds(said.get("expires_in"))
        interval = seconds(said.get("interval"))
        return DeviceCode(
            user_code,
            address,
            complete,
            began + min(life or _LONGEST_CODE, _LONGEST_CODE),
            # RFC 8628 §3.2: five seconds where it is not told.
            min(max(1.0, 5.0 if interval is None else interval), _LONGEST_INTERVAL),
            code,
        )

    async def finish(self, code: DeviceCode) -> Token:
        """Wait until somebody said yes, and store the login. Raises TokenTrouble, also where nobody did in time."""
        interval = code.interval
        form = {"grant_type": _DEVICE_GRANT, "device_code": code.device_code}
        while True:
            await self._clock.sleep(interval)
            if self._clock.steady() >= code.expires:
                raise TokenTrouble(
                    "Nobody entered the code in time. Begin the login again.",
                    fault=Fault.OURS,
                    code="expired_token",
                    retry=False,
                )
            began = self._clock.now()
            try:
                issued = read_issued(
                    await self._endpoint.post(self._endpoint.address, form), began, self._endpoint.address
                )
            except TokenTrouble as trouble:
                interval = _next_interval(trouble, interval)
                continue
            await self._keep(issued)
            return issued.token

    async def _keep(self, issued: Issued) -> None:
        if not issued.refresh_token:
            raise self._trouble(
                "gives no refresh token, so the login could not be kept; the scope needs offline_access",
                "unusable",
            )
        token = issued.token
        login = StoredLogin(
            issued.refresh_token,
            self._endpoint.address,
            self._endpoint.client.id,
            token.user,
            token.obtained,
            issued.refresh_ends,
        )
        try:
            async with self._store.turn(self._name):
                await asyncio.to_thread(self._store.write, self._name, login)
        except StoreError as error:
            raise TokenTrouble(
                f"The login cannot be stored: {error}", fault=Fault.OURS, code="store", retry=error.passing
            ) from None

    def _trouble(self, what: str, code: str) -> TokenTrouble:
        return TokenTrouble(f"{self._address} {what}.", fault=Fault.THEIRS, code=code, retry=False)


def _next_interval(trouble: TokenTrouble, interval: float) -> float:
    """How long to wait before the next question; raises the trouble where there is to be none (RFC 8628 §3.5)."""
    if trouble.code == "authorization_pending" or trouble.code == "AADSTS70016":
        return interval
    if trouble.code == "throttled":
        return min(interval + max(_SLOWER, trouble.wait or 0.0), _LONGEST_INTERVAL)
    if trouble.retry:
        # RFC 8628 §3.5: after a lost connection, twice as long.
        return min(interval * 2, _LONGEST_INTERVAL)
    raise trouble
