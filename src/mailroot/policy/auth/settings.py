"""The Authentication dialog: which logins there are, and where accounts are kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from mailroot.units import MINUTE, Doc, Duration, Range, SecretText


@dataclass(frozen=True, slots=True)
class IntegratedSettings:
    """Integrated Windows Authentication: GSSAPI (Negotiate, Kerberos) and NTLM.

    On Windows the accounts are the machine's and its domain's. Elsewhere Kerberos needs a keytab, and NTLM knows
    the accounts of the accounts file that are allowed to use it.
    """

    kerberos: Annotated[bool, Doc("Offer GSSAPI: Negotiate and Kerberos.")] = False
    ntlm: Annotated[
        bool,
        Doc("Offer NTLM, also within Negotiate. It is weak: only for programs that know nothing better."),
    ] = False
    keytab: Annotated[
        Path | None,
        Doc(
            "Keytab with the key of SMTPSVC/NAME and smtp/NAME, where NAME is what clients call this computer; not "
            "used on Windows. Not set: the system's own.",
            example="mailroot.keytab",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class WindowsSettings:
    """Windows accounts for Basic authentication; on Windows only."""

    domain: Annotated[
        str, Doc("Default domain for user names without one. Empty: this computer's own accounts.", example="CORP")
    ] = ""


@dataclass(frozen=True, slots=True)
class LdapSettings:
    """A directory that checks passwords of Basic authentication by a bind."""

    url: Annotated[str, Doc("ldaps://HOST[:PORT], or ldap:// with STARTTLS.", example="ldaps://dc.example.com")]
    bind_as: Annotated[
        str,
        Doc(
            "Whom to bind as; {user} stands for the name that was given. A DN, or with Active Directory a name "
            "as in '{user}@corp.example.com'.",
            example="uid={user},ou=people,dc=example,dc=com",
        ),
    ]
    ca: Annotated[
        Path | None,
        Doc("PEM file with the CA of the directory's certificate, if not a public one.", example="authorities.pem"),
    ] = None
    group: Annotated[
        str, Doc("DN of a group an account must be a member of. Empty: any account.", example="cn=smtp,dc=example")
    ] = ""
    starttls: Annotated[bool, Doc("With ldap://: switch to TLS first. Off only where the way is safe.")] = True
    timeout: Annotated[Duration, Range(least=1), Doc("Wait for the directory no longer than this.")] = 10.0


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """Logins with access tokens: XOAUTH2 and OAUTHBEARER. Tokens are checked by the issuer's keys (JWKS), or by
    asking its introspection endpoint (RFC 7662)."""

    issuer: Annotated[
        str,
        Doc("The `iss` of tokens; its keys are found by its metadata.", example="https://login.example.com/tenant"),
    ] = ""
    audience: Annotated[str, Doc("What a token's `aud` must contain.", example="api://mailroot")] = ""
    scope: Annotated[str, Doc("A scope or role that a token must have. Empty: none.", example="SMTP.Send")] = ""
    user_claim: Annotated[str, Doc("The claim that names the account.")] = "preferred_username"
    jwks: Annotated[
        str, Doc("Address of the keys, where the metadata does not tell.", example="https://login.example.com/keys")
    ] = ""
    introspection: Annotated[
        str, Doc("Ask this endpoint about each token instead.", example="https://login.example.com/introspect")
    ] = ""
    client_id: Annotated[str, Doc("Who we are to the introspection endpoint.", example="mailroot")] = ""
    client_secret: Annotated[SecretText, Doc("Our secret there.", example='{ file = "introspection.secret" }')] = ""
    ca: Annotated[
        Path | None,
        Doc("PEM file with the CA of these endpoints, if not a public one.", example="authorities.pem"),
    ] = None


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client certificate that is the login of an account. One of the three says which certificate."""

    account: Annotated[str, Doc("Whom a client with this certificate is.", example="printer7")]
    file: Annotated[
        Path | None, Doc("PEM file of the certificate itself; it may be self-signed.", example="printer7.pem")
    ] = None
    fingerprint: Annotated[
        str,
        Doc(
            "Its SHA-256 fingerprint, if `client_ca` signed it: 64 hexadecimal digits, with or without colons.",
            example="3F:9C:...",
            alternative=True,
        ),
    ] = ""
    name: Annotated[
        str,
        Doc(
            "A name in it (DNS name or address of its subjectAltName, else common name), if `client_ca` signed it.",
            example="printer7.example.com",
            alternative=True,
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class AuthenticationSettings:
    """The Authentication dialog."""

    anonymous: Annotated[bool, Doc("Anonymous access: mail is taken without a login.")] = True
    basic: Annotated[
        bool,
        Doc("Basic authentication: LOGIN and PLAIN. Offered where there are accounts and the listener allows it."),
    ] = True
    scram: Annotated[
        bool,
        Doc(
            "SCRAM-SHA-256, for accounts of the accounts file. Many programs choose it where it is offered: off "
            "where their accounts are in a directory or in Windows."
        ),
    ] = True
    accounts: Annotated[Path, Doc("The accounts file; `mailroot user` keeps it.")] = Path("accounts.json")
    integrated: Annotated[IntegratedSettings, Doc("Integrated Windows Authentication.")] = field(
        default_factory=IntegratedSettings
    )
    windows: Annotated[
        WindowsSettings | None,
        Doc("Windows accounts for Basic authentication: on Windows, and not together with `ldap`."),
    ] = None
    ldap: Annotated[LdapSettings | None, Doc("A directory for Basic authentication.")] = None
    oauth: Annotated[OAuthSettings | None, Doc("Logins with OAuth2 access tokens.")] = None
    client_ca: Annotated[
        Path | None, Doc("PEM file with the CA of client certificates.", example="clients-ca.pem")
    ] = None
    client_certificates: Annotated[
        tuple[ClientCertificate, ...], Doc("Client certificates as logins. Asked for only where there are any.")
    ] = ()
    timeout: Annotated[Duration, Range(least=1), Doc("A login that takes longer is broken off.")] = 2 * MINUTE
