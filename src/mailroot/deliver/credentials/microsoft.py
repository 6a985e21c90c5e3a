"""Tokens of Microsoft Entra for Exchange Online and Graph, in all of Microsoft's clouds.

Imported only where a route logs in so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Ending, Grant
from mailroot.deliver.credentials.clients import CertificateClient, Client, PublicClient, SecretClient
from mailroot.deliver.credentials.ending import ending_of
from mailroot.deliver.credentials.endpoint import TokenEndpoint
from mailroot.deliver.credentials.managed_identity import ManagedIdentity
from mailroot.deliver.credentials.oauth2 import ClientCredentials, DeviceLogin, StoredGrant
from mailroot.deliver.credentials.settings import Cloud, Flow, MicrosoftLogin
from mailroot.deliver.credentials.store import LoginStore
from mailroot.net.https import Endpoints, check_address

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,253}")
_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_OF_NOBODY = frozenset({"common", "organizations", "consumers"})
# Entra takes PS256 and RS256 with x5t#S256; Microsoft's own libraries use the former.
_ALGORITHM = "PS256"


class Purpose(StrEnum):
    """What a token is for."""

    SMTP = "smtp"
    GRAPH = "graph"


@dataclass(frozen=True, slots=True)
class _Places:
    """A cloud's sign-in service, and what tokens for SMTP and Graph are for. A login by code wants the resource
    under another name in the global cloud."""

    authority: str
    exchange: str
    exchange_delegated: str
    graph: str


PLACES = {
    Cloud.GLOBAL: _Places(
        "https://login.microsoftonline.com",
        "https://outlook.office365.com",
        "https://outlook.office.com",
        "https://graph.microsoft.com",
    ),
    Cloud.US_GOV: _Places(
        "https://login.microsoftonline.us",
        "https://outlook.office365.us",
        "https://outlook.office365.us",
        "https://graph.microsoft.us",
    ),
    Cloud.US_DOD: _Places(
        "https://login.microsoftonline.us",
        "https://outlook.office365.us",
        "https://outlook.office365.us",
        "https://dod-graph.microsoft.us",
    ),
    Cloud.CHINA: _Places(
        "https://login.partner.microsoftonline.cn",
        "https://partner.outlook.cn",
        "https://partner.outlook.cn",
        "https://microsoftgraph.chinacloudapi.cn",
    ),
}


class Microsoft:
    """The settings of a login, read: where tokens are asked for, and what for."""

    def __init__(
        self,
        settings: MicrosoftLogin,
        name: str,
        endpoints: Endpoints,
        store: LoginStore,
        clock: Clock,
        environment: Mapping[str, str],
        purpose: Purpose = Purpose.SMTP,
    ) -> None:
        """`name`: the route's, which stored logins go by. Raises ValueError for settings that cannot work, saying
        what would be right."""
        _check(settings)
        self._settings = settings
        self._name = name
        self._store = store
        self._clock = clock
        places = PLACES[settings.cloud]
        self._scope = settings.scope or _scope(settings.flow, purpose, places)
        self._endpoint: TokenEndpoint | None = None
        self._device_address = ""
        self.grant: Grant
        if settings.flow is Flow.MANAGED_IDENTITY:
            resource = self._scope.removesuffix("/.default")
            self.grant = ManagedIdentity(resource, settings.client_id, endpoints, clock, environment)
            return
        base = f"{(settings.authority or places.authority).rstrip('/')}/{settings.tenant}/oauth2/v2.0"
        self._endpoint = TokenEndpoint(f"{base}/token", _client(settings, clock), endpoints, clock)
        self._device_address = f"{base}/devicecode"
        form = {"scope": self._scope}
        if settings.flow is Flow.APPLICATION:
            self.grant = ClientCredentials(self._endpoint, form)
        else:
            self.grant = StoredGrant(self._endpoint, store, name, clock, form=form)

    def endings(self) -> tuple[Ending, ...]:
        """When what proves who we are ends. Reads files."""
        client = self._endpoint.client.endings() if self._endpoint is not None else ()
        return client + (self.grant.endings() if isinstance(self.grant, StoredGrant) else ())

    def device_login(self) -> DeviceLogin | None:
        """A login by code, where the settings want one."""
        if self._endpoint is None or self._settings.flow is not Flow.DEVICE_CODE:
            return None
        return DeviceLogin(
            self._device_address, self._endpoint, self._store, self._name, self._clock, form={"scope": self._scope}
        )


def _scope(flow: Flow, purpose: Purpose, places: _Places) -> str:
    match flow, purpose:
        case Flow.DEVICE_CODE, Purpose.SMTP:
            return f"{places.exchange_delegated}/SMTP.Send offline_access"
        case Flow.DEVICE_CODE, Purpose.GRAPH:
            return f"{places.graph}/Mail.Send offline_access"
        case _, Purpose.GRAPH:
            return f"{places.graph}/.default"
    return f"{places.exchange}/.default"


def _client(settings: MicrosoftLogin, clock: Clock) -> Client:
    if settings.certificate is not None:
        return CertificateClient(settings.client_id, settings.certificate, clock, rsa_algorithm=_ALGORITHM)
    if settings.client_secret:
        what = f"client secret of app {settings.client_id}"
        ending = ending_of("microsoft: secret_ends", settings.secret_ends, what)
        return SecretClient(settings.client_id, settings.client_secret, ending=ending)
    return PublicClient(settings.client_id)


def _check(settings: MicrosoftLogin) -> None:
    if settings.flow is Flow.MANAGED_IDENTITY:
        if settings.client_secret or settings.certificate is not None:
            raise ValueError("microsoft: managed_identity has no secret; leave client_secret and certificate out")
        if settings.client_id and not _CLIENT_ID.fullmatch(settings.client_id):
            raise ValueError(f"microsoft: client_id: '{settings.client_id}' is not an Application (client) ID")
        return
    if not _TENANT.fullmatch(settings.tenant):
        raise ValueError(
            f"microsoft: tenant: '{settings.tenant}' is not a tenant; right would be the Directory (tenant) ID of "
            "the app registration, or a domain as in 'contoso.onmicrosoft.com'"
        )
    if not _CLIENT_ID.fullmatch(settings.client_id):
        raise ValueError(
            f"microsoft: client_id: '{settings.client_id}' is not an Application (client) ID; right would be the "
            "one on the app registration's overview"
        )
    if settings.authority:
        check_address("microsoft: authority", settings.authority)
    if settings.client_secret and settings.certificate is not None:
        raise ValueError("microsoft: client_secret and certificate are both set; one of them is enough")
    if settings.secret_ends and not settings.client_secret:
        raise ValueError("microsoft: secret_ends is for client_secret, which is not set")
    match settings.flow:
        case Flow.APPLICATION:
            if settings.tenant.lower() in _OF_NOBODY:
                raise ValueError(
                    f"microsoft: tenant: '{settings.tenant}' is for logins of people; right would be the Directory "
                    "(tenant) ID"
                )
            if not settings.client_secret and settings.certificate is None:
                raise ValueError("microsoft: an application needs client_secret or certificate")
        case Flow.DEVICE_CODE:
            if not settings.mailbox:
                raise ValueError(
                    "microsoft: mailbox: with device_code it is needed; right would be the account that logs in, "
                    "or a mailbox it may send as"
                )
