"""The logins of a virtual server: which SASL mechanisms a client is offered, and how one begins.

Offered is what the settings and the listener allow, what TLS and the client make safe, and what somebody could use
here and now. Order matters to clients that take the first name they know: what shows no password stands before what
does, and LOGIN before PLAIN, since clients that know LOGIN alone are older than those that look for PLAIN. GSSAPI
and NTLM stand after SCRAM: a client that has only a password, and takes the first, is to have one that works.
smtplib, swaks, curl, .NET, Postfix and other clients of Cyrus SASL go by an order of their own, whatever ours is.

What a mechanism needs that few configurations have is imported when there is such a setting.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mailroot.clock import Clock
from mailroot.events import Bus
from mailroot.mail.reply import Reply
from mailroot.policy.auth.accounts import AccountFile
from mailroot.policy.auth.base import Channel, Exchange, PasswordSource
from mailroot.policy.auth.certificate import ClientCertificates
from mailroot.policy.auth.exchanges import (
    ExternalExchange,
    LoginExchange,
    Passwords,
    PlainExchange,
    ScramExchange,
    anybody,
)
from mailroot.policy.auth.settings import AuthenticationSettings
from mailroot.policy.listeners import ListenerRules, LoginKind, RequireTls
from mailroot.smtp.answers import AUTH_NEEDS_TLS, AUTH_UNKNOWN

if TYPE_CHECKING:
    from mailroot.policy.auth.ldap import Directory
    from mailroot.policy.auth.negotiate import Integrated
    from mailroot.policy.auth.oauth import Tokens

_SCRAM, _SCRAM_PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"

_GIVES_SECRET_AWAY = frozenset({"LOGIN", "PLAIN", "OAUTHBEARER", "XOAUTH2"})


class Logins:
    """The Authentication dialog at work."""

    def __init__(
        self,
        settings: AuthenticationSettings,
        clock: Clock,
        *,
        fqdn: str,
        bus: Bus | None = None,
        server: str = "",
    ) -> None:
        """Reads the accounts file and the certificates. `bus` hears what becomes of a changed accounts file, for
        the virtual server named `server`. Raises ValueError for what cannot work."""
        self._settings = settings
        self.fqdn = fqdn
        self.accounts = AccountFile(settings.accounts, bus=bus, server=server)
        self._certificates = ClientCertificates(settings.client_certificates, settings.client_ca)
        self._directory = _directory(settings)
        self._passwords = Passwords(self._sources())
        self._tokens = _tokens(settings, clock)
        self._integrated = _integrated(settings, self.accounts)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is set but cannot be used, in words for an administrator; it is not offered."""
        found = (self._integrated.problem if self._integrated is not None else "", self.accounts.trouble)
        return tuple(filter(None, found))

    @property
    def wants_certificate(self) -> bool:
        """Whether clients are to be asked for a certificate."""
        return bool(self._certificates)

    def client_anchors(self) -> tuple[Path, ...]:
        """The PEM files whose certificates TLS is to trust from clients: the CA, and pinned certificates, which may
        be anybody's (X509_V_FLAG_PARTIAL_CHAIN)."""
        return self._certificates.anchors

    def offered(self, channel: Channel, rules: ListenerRules) -> tuple[str, ...]:
        """The mechanisms for EHLO, in their order."""
        working = self._working(channel, rules)
        return tuple(name for name in working if _is_safe(name, channel, rules) and _is_usual(name, channel))

    def begin(
        self,
        mechanism: str,
        channel: Channel,
        rules: ListenerRules,
        may_try: Callable[[str], bool] = anybody,
    ) -> Exchange | Reply:
        """A login by a mechanism, in upper case; or the refusal of one that does not work here. `may_try` is asked
        about a name that comes together with its password, before that is looked at."""
        working = self._working(channel, rules)
        if mechanism not in working:
            return AUTH_UNKNOWN
        if not _is_safe(mechanism, channel, rules):
            return AUTH_NEEDS_TLS
        match mechanism:
            case "PLAIN":
                return PlainExchange(self._passwords, may_try)
            case "LOGIN":
                return LoginExchange(self._passwords)
            case "SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS":
                return ScramExchange(
                    self.accounts,
                    channel,
                    plus=mechanism == _SCRAM_PLUS,
                    plus_offered=_SCRAM_PLUS in working and _is_usual(_SCRAM_PLUS, channel),
                )
            case "EXTERNAL":
                user = self.certificate_user(channel.certificate)
                return AUTH_UNKNOWN if user is None else ExternalExchange(user)
            case "GSSAPI" | "NTLM":
                assert self._integrated is not None
                return self._integrated.begin(mechanism, channel)
            case _:
                assert self._tokens is not None
                return self._tokens.begin(mechanism, channel)

    def certificate_user(self, der: bytes | None) -> str | None:
        """Whose client certificate it is; None for nobody's, or of an account that is disabled."""
        if der is None or not self._certificates:
            return None
        name = self._certificates.account(der)
        account = self.accounts.find(name) if name is not None else None
        if account is None:
            return name
        return None if account.disabled else account.name

    async def close(self) -> None:
        """Let go of threads and connections. Logins that are going on are answered as unavailable."""
        self.accounts.close()
        if self._tokens is not None:
            await self._tokens.close()
        if self._directory is not None:
            await self._directory.close()

    def _working(self, channel: Channel, rules: ListenerRules) -> list[str]:
        """What could be used here if it were safe, in the order in which it is offered."""
        names: list[str] = []
        shown = channel.certificate if channel.tls and rules.offers(LoginKind.CERTIFICATE) else None
        if self.certificate_user(shown) is not None:
            names.append("EXTERNAL")
        if self._settings.scram and rules.offers(LoginKind.SCRAM) and self.accounts.has_scram:
            names += [_SCRAM_PLUS, _SCRAM] if channel.tls and channel.bindings else [_SCRAM]
        if self._integrated is not None and rules.offers(LoginKind.INTEGRATED):
            names += self._integrated.mechanisms
        if self._tokens is not None and rules.offers(LoginKind.OAUTH):
            names += ["OAUTHBEARER", "XOAUTH2"]
        if rules.offers(LoginKind.BASIC) and self._passwords.has_accounts:
            names += ["LOGIN", "PLAIN"]
        return names

    def _sources(self) -> Sequence[PasswordSource]:
        if not self._settings.basic:
            return ()
        sources: list[PasswordSource] = [self.accounts]
        if self._directory is not None:
            sources.append(self._directory)
        if self._settings.windows is not None:
            from mailroot.policy.auth.windows import WindowsAccounts

            sources.append(WindowsAccounts(self._settings.windows))
        return sources


def _directory(settings: AuthenticationSettings) -> "Directory | None":
    if settings.ldap is None:
        return None
    if settings.windows is not None:
        # Neither tells an unknown user from a wrong password, so the second would never be asked.
        raise ValueError("authentication: has both 'ldap' and 'windows'; right would be one of the two")
    from mailroot.policy.auth.ldap import Directory

    return Directory(settings.ldap)


def _tokens(settings: AuthenticationSettings, clock: Clock) -> "Tokens | None":
    if settings.oauth is None:
        return None
    from mailroot.policy.auth.oauth import Tokens

    return Tokens(settings.oauth, clock)


def _integrated(settings: AuthenticationSettings, accounts: AccountFile) -> "Integrated | None":
    if not (settings.integrated.kerberos or settings.integrated.ntlm):
        return None
    from mailroot.policy.auth.negotiate import Integrated

    return Integrated(settings.integrated, accounts)


def _is_usual(name: str, channel: Channel) -> bool:
    """Whether a client that knows the mechanism can be expected to get through with it. For -PLUS under TLS 1.3
    clients take tls-exporter (RFC 9266), which Python does not have, and fail instead of going on without it; who
    asks for it with tls-server-end-point may have it."""
    return name != _SCRAM_PLUS or any(binding == "tls-unique" for binding, _ in channel.bindings)


def _is_safe(name: str, channel: Channel, rules: ListenerRules) -> bool:
    """Whether TLS is there where the listener wants it for this login. A loopback client's password does not leave
    the computer."""
    if channel.tls:
        return True
    match rules.require_tls:
        case RequireTls.NO:
            return True
        case RequireTls.PASSWORDS:
            return name not in _GIVES_SECRET_AWAY or channel.client.is_loopback
        case RequireTls.LOGIN | RequireTls.MAIL:
            return False
