"""How a route logs in with tokens, as the configuration says it. Names are those of the issuers' own pages."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from mailroot.deliver.credentials.mailboxes import MailboxRule
from mailroot.deliver.credentials.password import PasswordLogin
from mailroot.net.tls import CertificateFile
from mailroot.units import Doc, SecretText


class Flow(StrEnum):
    """How a Microsoft token is got."""

    APPLICATION = "application"
    DEVICE_CODE = "device_code"
    MANAGED_IDENTITY = "managed_identity"


class Cloud(StrEnum):
    """Microsoft's clouds."""

    GLOBAL = "global"
    US_GOV = "us-gov"
    US_DOD = "us-dod"
    CHINA = "china"


class OAuthGrant(StrEnum):
    """How a token of another issuer is got."""

    CLIENT_CREDENTIALS = "client_credentials"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - not a secret
    DEVICE_CODE = "device_code"


class SecretIn(StrEnum):
    """Where a client's secret is sent."""

    HEADER = "header"
    FORM = "form"


@dataclass(frozen=True, slots=True)
class MicrosoftLogin:
    """Microsoft 365: access tokens of Microsoft Entra."""

    flow: Annotated[
        Flow,
        Doc(
            "'application' (client credentials: the program's own right, with a secret or a certificate), "
            "'device_code' (an account logs in once, by `mailroot route login`), 'managed_identity' (in Azure, or "
            "with Azure Arc: no secret at all)."
        ),
    ] = Flow.APPLICATION
    tenant: Annotated[
        str,
        Doc(
            "Directory (tenant) ID, or a domain of the tenant; not for managed_identity.",
            example="8f6e0f3c-0a4e-4c5b-9a55-7f2a3d1e5b10",
        ),
    ] = ""
    client_id: Annotated[
        str,
        Doc(
            "Application (client) ID of the app registration; with managed_identity that of a user-assigned "
            "identity, empty for the system's.",
            example="2d4d3d8e-2be3-4bef-9f87-7875a61c29de",
        ),
    ] = ""
    client_secret: Annotated[
        SecretText, Doc("The value of a client secret (not its ID).", example='{ file = "microsoft.secret" }')
    ] = field(default="", repr=False)
    secret_ends: Annotated[
        str, Doc("The day on which the client secret ends: it is announced weeks before.", example="2027-05-01")
    ] = ""
    certificate: Annotated[
        CertificateFile | None,
        Doc("A certificate in place of the secret; its public part is uploaded to the app registration."),
    ] = field(default=None, repr=False)
    cloud: Annotated[Cloud, Doc("The cloud that the tenant is in: 'global', 'us-gov', 'us-dod' or 'china'.")] = (
        Cloud.GLOBAL
    )
    authority: Annotated[
        str,
        Doc(
            "Address of the sign-in service, if it is that of no cloud above.", example="https://login.example.com"
        ),
    ] = ""
    scope: Annotated[
        str,
        Doc(
            "What the token is for, if it is not what the cloud has for SMTP.",
            example="https://outlook.office365.com/.default",
        ),
    ] = ""
    mailbox: Annotated[
        str,
        Doc(
            "Log in as this mailbox. Empty: as the sender's; needed with device_code.", example="relay@example.com"
        ),
    ] = ""
    mailboxes: Annotated[
        tuple[MailboxRule, ...], Doc("Which mailbox for which senders; the first rule that fits, else `mailbox`.")
    ] = ()
    ca: Annotated[
        Path | None, Doc("PEM file of a further CA to trust, as of a proxy that looks inside.", example="proxy.pem")
    ] = None


@dataclass(frozen=True, slots=True)
class GoogleLogin:
    """Google Workspace: a service account with domain-wide delegation."""

    key_file: Annotated[
        Path, Doc("The service account's key, the JSON file as Google gives it.", example="service-account.json")
    ]
    scope: Annotated[str, Doc("What the token is for.")] = "https://mail.google.com/"
    mailbox: Annotated[str, Doc("Log in as this mailbox. Empty: as the sender's.", example="relay@example.com")] = (
        ""
    )
    mailboxes: Annotated[
        tuple[MailboxRule, ...], Doc("Which mailbox for which senders; the first rule that fits, else `mailbox`.")
    ] = ()
    ca: Annotated[
        Path | None, Doc("PEM file of a further CA to trust, as of a proxy that looks inside.", example="proxy.pem")
    ] = None


@dataclass(frozen=True, slots=True)
class OAuthLogin:
    """Access tokens of any OAuth2 issuer."""

    token_endpoint: Annotated[
        str, Doc("Address of the token endpoint.", example="https://login.example.com/oauth2/token")
    ]
    client_id: Annotated[str, Doc("Who we are there.", example="mailroot")]
    grant: Annotated[
        OAuthGrant,
        Doc(
            "'client_credentials' (the program's own right), 'refresh_token' (one that was got elsewhere), "
            "'device_code' (somebody logs in once, by `mailroot route login`)."
        ),
    ] = OAuthGrant.CLIENT_CREDENTIALS
    client_secret: Annotated[SecretText, Doc("Our secret there.", example='{ file = "issuer.secret" }')] = field(
        default="", repr=False
    )
    secret_ends: Annotated[
        str, Doc("The day on which the client secret ends: it is announced weeks before.", example="2027-05-01")
    ] = ""
    secret_in: Annotated[
        SecretIn,
        Doc("'header' (Basic authentication, as RFC 6749 wants it) or 'form' (client_secret in the form)."),
    ] = SecretIn.HEADER
    certificate: Annotated[
        CertificateFile | None, Doc("A certificate in place of the secret: requests are signed (private_key_jwt).")
    ] = field(default=None, repr=False)
    key_id: Annotated[
        str,
        Doc("The `kid` by which the issuer knows the certificate's key, if it wants one.", example="mailroot-1"),
    ] = ""
    assertion_audience: Annotated[
        str,
        Doc("Whom signed requests are for. Empty: the token endpoint.", example="https://login.example.com"),
    ] = ""
    device_endpoint: Annotated[
        str,
        Doc("With device_code: where codes are given.", example="https://login.example.com/oauth2/device"),
    ] = ""
    refresh_token: Annotated[
        SecretText,
        Doc(
            "With refresh_token: the first one; those that follow it are stored.",
            example='{ file = "refresh.token" }',
        ),
    ] = field(default="", repr=False)
    scope: Annotated[str, Doc("What the token is for, in the issuer's words.", example="SMTP.Send")] = ""
    resource: Annotated[
        str,
        Doc("What the token is for, where the issuer wants it so (RFC 8707).", example="https://mail.example.com"),
    ] = ""
    audience: Annotated[
        str, Doc("What the token is for, where the issuer calls it so.", example="https://mail.example.com")
    ] = ""
    mailbox: Annotated[str, Doc("Log in as this mailbox. Empty: as the sender's.", example="relay@example.com")] = (
        ""
    )
    mailboxes: Annotated[
        tuple[MailboxRule, ...], Doc("Which mailbox for which senders; the first rule that fits, else `mailbox`.")
    ] = ()
    ca: Annotated[
        Path | None, Doc("PEM file of a further CA to trust, if not a public one.", example="authorities.pem")
    ] = None


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """How a route logs in: one of these. None of them: it does not."""

    password: Annotated[PasswordLogin | None, Doc("Basic authentication.")] = None
    microsoft: Annotated[MicrosoftLogin | None, Doc("Microsoft 365, with OAuth2.")] = None
    google: Annotated[GoogleLogin | None, Doc("Google Workspace, with OAuth2.")] = None
    oauth: Annotated[OAuthLogin | None, Doc("Any other issuer of OAuth2 tokens.")] = None
