"""A route's login, from its settings: what else there is in this room is imported here, and only if it is used."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Credentials, Ending
from mailroot.deliver.credentials.ending import ending_of
from mailroot.deliver.credentials.mailboxes import Mailboxes
from mailroot.deliver.credentials.password import PasswordCredentials, PasswordLogin
from mailroot.deliver.credentials.settings import (
    GoogleLogin,
    LoginSettings,
    MicrosoftLogin,
    OAuthGrant,
    OAuthLogin,
    SecretIn,
)
from mailroot.smtp.sasl.oauth import OAUTHBEARER, XOAUTH2

if TYPE_CHECKING:
    from mailroot.deliver.credentials.bearer import OneForAll
    from mailroot.deliver.credentials.clients import Client
    from mailroot.deliver.credentials.endpoint import TokenEndpoint
    from mailroot.deliver.credentials.microsoft import Purpose
    from mailroot.deliver.credentials.oauth2 import DeviceLogin
    from mailroot.deliver.credentials.store import LoginStore
    from mailroot.net.https import Endpoints


def open_login(
    settings: LoginSettings,
    name: str,
    store: "LoginStore",
    clock: Clock,
    environment: Mapping[str, str] = os.environ,
) -> Credentials | None:
    """The credentials of the route `name`; None: it does not log in. Nobody is asked yet. Raises ValueError, naming
    the setting, for settings that cannot work."""
    match _chosen(settings):
        case None:
            return None
        case MicrosoftLogin() as chosen:
            return _microsoft(chosen, name, store, clock, environment)
        case GoogleLogin() as chosen:
            return _google(chosen, clock)
        case OAuthLogin() as chosen:
            return _oauth(chosen, name, store, clock)
        case password:
            return PasswordCredentials(password)


def device_login(
    settings: LoginSettings, name: str, store: "LoginStore", clock: Clock
) -> "tuple[DeviceLogin, Endpoints] | None":
    """The login by code that the route `name` wants, and what has to be closed after it; None: it wants none.
    Raises ValueError as `open_login` does."""
    match _chosen(settings):
        case MicrosoftLogin() as chosen:
            from mailroot.deliver.credentials.microsoft import Microsoft

            endpoints = _endpoints("microsoft", chosen.ca)
            login = Microsoft(chosen, name, endpoints, store, clock, {}).device_login()
            return None if login is None else (login, endpoints)
        case OAuthLogin(grant=OAuthGrant.DEVICE_CODE) as chosen:
            from mailroot.deliver.credentials.oauth2 import DeviceLogin

            endpoints = _endpoints("oauth", chosen.ca)
            endpoint = _oauth_endpoint(chosen, endpoints, clock)
            form = _oauth_form(chosen)
            return DeviceLogin(chosen.device_endpoint, endpoint, store, name, clock, form=form), endpoints
    return None


def microsoft_tokens(
    settings: MicrosoftLogin,
    name: str,
    store: "LoginStore",
    clock: Clock,
    purpose: "Purpose",
    environment: Mapping[str, str] = os.environ,
) -> "OneForAll":
    """Tokens for the purpose that is told, as Graph. Raises ValueError as `open_login` does."""
    from mailroot.deliver.credentials.bearer import OneForAll
    from mailroot.deliver.credentials.fetch import TokenKeeper
    from mailroot.deliver.credentials.microsoft import Microsoft

    endpoints = _endpoints("microsoft", settings.ca)
    read = Microsoft(settings, name, endpoints, store, clock, environment, purpose)
    return OneForAll(TokenKeeper(read.grant, clock), endpoints, read.endings)


def _chosen(settings: LoginSettings) -> PasswordLogin | MicrosoftLogin | GoogleLogin | OAuthLogin | None:
    ways = (settings.password, settings.microsoft, settings.google, settings.oauth)
    chosen = [way for way in ways if way is not None]
    if len(chosen) > 1:
        raise ValueError(
            "login: more than one way is set; right would be one of password, microsoft, google, oauth"
        )
    return chosen[0] if chosen else None


def _microsoft(
    settings: MicrosoftLogin, name: str, store: "LoginStore", clock: Clock, environment: Mapping[str, str]
) -> Credentials:
    from mailroot.deliver.credentials.bearer import TokenCredentials
    from mailroot.deliver.credentials.microsoft import Purpose

    mailboxes = Mailboxes("microsoft: mailboxes", settings.mailboxes, settings.mailbox)
    return TokenCredentials(microsoft_tokens(settings, name, store, clock, Purpose.SMTP, environment), mailboxes)


def _google(settings: GoogleLogin, clock: Clock) -> Credentials:
    from mailroot.deliver.credentials.bearer import TokenCredentials
    from mailroot.deliver.credentials.google import ServiceAccount

    if not settings.scope:
        raise ValueError("google: scope: is empty; right would be 'https://mail.google.com/'")
    mailboxes = Mailboxes("google: mailboxes", settings.mailboxes, settings.mailbox)
    return TokenCredentials(ServiceAccount(settings, _endpoints("google", settings.ca), clock), mailboxes)


def _oauth(settings: OAuthLogin, name: str, store: "LoginStore", clock: Clock) -> Credentials:
    from mailroot.deliver.credentials.base import Grant
    from mailroot.deliver.credentials.bearer import OneForAll, TokenCredentials
    from mailroot.deliver.credentials.fetch import TokenKeeper
    from mailroot.deliver.credentials.oauth2 import ClientCredentials, StoredGrant

    endpoints = _endpoints("oauth", settings.ca)
    endpoint = _oauth_endpoint(settings, endpoints, clock)
    form = _oauth_form(settings)
    grant: Grant
    if settings.grant is OAuthGrant.CLIENT_CREDENTIALS:
        grant = ClientCredentials(endpoint, form)
        endings = endpoint.client.endings
    else:
        stored = grant = StoredGrant(endpoint, store, name, clock, form=form, first=settings.refresh_token)

        def endings() -> tuple[Ending, ...]:
            return endpoint.client.endings() + stored.endings()

    mailboxes = Mailboxes("oauth: mailboxes", settings.mailboxes, settings.mailbox)
    # The mechanism of the standard first, where it is not Microsoft's or Google's host that is logged in to.
    return TokenCredentials(
        OneForAll(TokenKeeper(grant, clock), endpoints, endings), mailboxes, (OAUTHBEARER, XOAUTH2)
    )


def _oauth_endpoint(settings: OAuthLogin, endpoints: "Endpoints", clock: Clock) -> "TokenEndpoint":
    from mailroot.deliver.credentials.endpoint import TokenEndpoint

    _check_oauth(settings)
    return TokenEndpoint(settings.token_endpoint, _oauth_client(settings, clock), endpoints, clock)


def _oauth_client(settings: OAuthLogin, clock: Clock) -> "Client":
    from mailroot.deliver.credentials.clients import CertificateClient, PublicClient, SecretClient

    if settings.certificate is not None:
        return CertificateClient(
            settings.client_id,
            settings.certificate,
            clock,
            key_id=settings.key_id,
            audience=settings.assertion_audience,
        )
    if settings.client_secret:
        ending = ending_of("oauth: secret_ends", settings.secret_ends, f"client secret of {settings.client_id}")
        basic = settings.secret_in is SecretIn.HEADER
        return SecretClient(settings.client_id, settings.client_secret, basic=basic, ending=ending)
    return PublicClient(settings.client_id)


def _oauth_form(settings: OAuthLogin) -> dict[str, str]:
    asked = {"scope": settings.scope, "resource": settings.resource, "audience": settings.audience}
    return {name: value for name, value in asked.items() if value}


def _check_oauth(settings: OAuthLogin) -> None:
    from mailroot.net.https import check_address

    check_address("oauth: token_endpoint", settings.token_endpoint)
    if not settings.client_id:
        raise ValueError("oauth: client_id: is empty; right would be the name that the issuer knows us by")
    if settings.client_secret and settings.certificate is not None:
        raise ValueError("oauth: client_secret and certificate are both set; one of them is enough")
    if settings.secret_ends and not settings.client_secret:
        raise ValueError("oauth: secret_ends is for client_secret, which is not set")
    if settings.certificate is None and (settings.key_id or settings.assertion_audience):
        raise ValueError("oauth: key_id and assertion_audience are for certificate, which is not set")
    is_device, is_refresh = (settings.grant is one for one in (OAuthGrant.DEVICE_CODE, OAuthGrant.REFRESH_TOKEN))
    if is_device != bool(settings.device_endpoint):
        raise ValueError("oauth: device_endpoint belongs to grant = 'device_code', and that needs it")
    if is_device:
        check_address("oauth: device_endpoint", settings.device_endpoint)
    if is_refresh != bool(settings.refresh_token):
        raise ValueError("oauth: refresh_token belongs to grant = 'refresh_token', and that needs it")
    if not (is_device or is_refresh) and not settings.client_secret and settings.certificate is None:
        raise ValueError("oauth: client_credentials needs client_secret or certificate")


def _endpoints(setting: str, ca: Path | None) -> "Endpoints":
    from mailroot.net.https import Endpoints

    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except OSError as error:
            raise ValueError(f"{setting}: ca: {ca} cannot be used ({error}); right would be a PEM file") from None
    return Endpoints(context)
