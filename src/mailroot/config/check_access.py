"""What the Access tab means: lists of clients, and which logins can work for whom.

Directories and token issuers are not asked; their settings are judged by what they say.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from mailroot.clock import SystemClock
from mailroot.config.check_listeners import A_CERTIFICATE, Listening, listening_places
from mailroot.config.model import VirtualServerSettings
from mailroot.config.tree import Findings, Node, find, is_written
from mailroot.policy.access import AccessList, AccessSettings, Mode
from mailroot.policy.auth.account_file import Accounts, read_accounts
from mailroot.policy.auth.certificate import ClientCertificates
from mailroot.policy.guard import read_exempt
from mailroot.policy.listeners import ListenerRules, LoginKind, RequireTls, TlsMode
from mailroot.policy.networks import Network, read_entry

_AUTHENTICATION = ("access", "authentication")
_GIVE_SECRET_AWAY = frozenset({LoginKind.BASIC, LoginKind.OAUTH})

_SETTING = re.compile(r"(?:authentication\.)?(ldap|oauth|windows)(?:\.(\w+))?: ")
"""How the parts of authentication begin what they say about their settings."""

_CERTIFICATE_ENTRY = re.compile(r"client_certificates\[\d+\](?: \(.*?\))?:? ")


def check_access(settings: VirtualServerSettings, node: Node, findings: Findings) -> None:
    """The sections [access] and [limits], but for the permissions."""
    access = settings.access
    for name, entries in (("connection", access.connection), ("relay", access.relay)):
        for n, entry in enumerate(entries.list):
            findings.attempt(find(node, "access", name, "list", n), read_entry, entry)
    for name, trusted in (("proxies", access.proxies), ("xclient", access.xclient)):
        for n, entry in enumerate(trusted):
            findings.attempt(find(node, "access", name, n), _read_trusted, entry)
            if _is_everything(entry):
                findings.warn(
                    find(node, "access", name, n),
                    f"{entry!r} lets everybody who can connect say who they are, and so what they may do",
                )
    for n, entry in enumerate(settings.limits.exempt):
        findings.attempt(find(node, "limits", "exempt", n), _read_exempt, entry)
    logins = settings.limits.logins
    if logins.ban > logins.longest_ban:
        key = "ban" if is_written(node, "limits", "logins", "ban") else "longest_ban"
        findings.error(
            find(node, "limits", "logins", key),
            'the first ban (ban) is longer than any may be (longest_ban); right would be less, as ban = "5 min"',
        )
    _Authentication(settings, node, findings).check()
    _open_relay(access, settings, node, findings)


def _open_relay(access: AccessSettings, settings: VirtualServerSettings, node: Node, findings: Findings) -> None:
    if not access.authentication.anonymous or not _is_for_nearly_all(access.relay):
        return
    if access.connection.mode is Mode.ONLY and not _is_for_nearly_all(access.connection):
        return
    if any(place.is_reachable and not place.rules.require_login for place in listening_places(settings.general)):
        findings.warn(
            find(node, "access", "relay", "mode" if access.relay.mode is Mode.EXCEPT else "list"),
            f"{'everybody' if not access.relay.list or access.relay.mode is Mode.ONLY else 'all but the list'} "
            "who can connect may relay to everywhere without a login: an open relay is found and abused within "
            "hours, unless a firewall keeps strangers away",
        )


class _Authentication:
    """The section [access.authentication], and what the listeners make of it."""

    def __init__(self, settings: VirtualServerSettings, node: Node, findings: Findings) -> None:
        self._settings = settings.access.authentication
        self._general = settings.general
        self._places = listening_places(settings.general)
        self._node = node
        self._findings = findings
        self._accounts = Accounts()

    def check(self) -> None:
        self._read_accounts()
        self._directories()
        self._tokens()
        self._integrated()
        self._certificates()
        self._logins_of_listeners()
        for place in self._places:
            if place.endpoints:
                self._who_can_log_in(place)

    def _where(self, *names: str | int) -> tuple[str | int, ...]:
        return find(self._node, *_AUTHENTICATION, *names)

    def _try(self, section: str, make: Callable[[], object]) -> bool:
        """Make a part; what is wrong is told at the setting it names, or at the section."""
        try:
            make()
            return True
        except ValueError as error:
            text = str(error)
            named = _SETTING.match(text)
            key = named[2] if named else None
            where = self._where(section, *([key] if key else []))
            self._findings.error(where, text[named.end() if named else 0 :], table=not key)
            return False

    def _read_accounts(self) -> None:
        path = self._settings.accounts
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            pass  # Reading it says what is the matter.
        try:
            self._accounts = read_accounts(path)
        except ValueError as error:
            self._findings.error(self._where("accounts"), str(error))

    def _directories(self) -> None:
        settings = self._settings
        if settings.ldap is not None:
            from mailroot.policy.auth.ldap import Directory, read_url

            ldap = settings.ldap
            works = self._try("ldap", lambda: Directory(ldap))
            if works and not (read_url(ldap).secure or ldap.starttls or _is_loopback(read_url(ldap).host)):
                self._findings.warn(
                    self._where("ldap", "starttls"),
                    "passwords go to the directory in the clear, for everybody on the way to read",
                )
        if settings.windows is not None:
            from mailroot.policy.auth.windows import WindowsAccounts

            windows = settings.windows
            self._try("windows", lambda: WindowsAccounts(windows))
        both = settings.ldap is not None and settings.windows is not None
        if both:
            self._findings.error(
                self._where("windows"),
                "and [access.authentication.ldap] exclude each other: neither can say that a user is unknown "
                "to it, so the other would never be asked; right would be one of the two",
                table=True,
            )
        if not settings.basic:
            for name in ("ldap", "windows"):
                if getattr(settings, name) is not None:
                    self._findings.warn(
                        self._where(name),
                        "has no effect: it is for Basic authentication, and basic = false",
                        table=True,
                    )

    def _tokens(self) -> None:
        oauth = self._settings.oauth
        if oauth is None:
            return
        from mailroot.policy.auth.oauth import Tokens

        self._try("oauth", lambda: Tokens(oauth, SystemClock()))
        if oauth.introspection and oauth.jwks:
            self._findings.warn(self._where("oauth", "jwks"), "has no effect: tokens are checked by introspection")

    def _integrated(self) -> None:
        integrated, where = self._settings.integrated, self._where("integrated", "keytab")
        if integrated.keytab is None:
            return
        if os.name == "nt":
            self._findings.warn(where, "has no effect on Windows, which has its keys itself")
        elif not integrated.kerberos:
            self._findings.warn(where, "has no effect without kerberos = true")
        else:
            self._readable(where, integrated.keytab)

    def _readable(self, where: tuple[str | int, ...], path: Path) -> None:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            self._findings.error(where, f"{path}: cannot be read: {(error.strerror or str(error)).lower()}")

    def _certificates(self) -> None:
        settings = self._settings
        ca = settings.client_ca
        entries = settings.client_certificates
        if ca is not None:
            if not self._findings.attempt(self._where("client_ca"), _read_authorities, ca):
                ca = None
            elif not entries:
                self._findings.warn(self._where("client_ca"), "has no effect: there are no client_certificates")
        for n, entry in enumerate(entries):
            if settings.client_ca is not None and ca is None and entry.file is None:
                continue  # of the CA it has been told
            try:
                ClientCertificates((entry,), ca)
            except ValueError as error:
                text = _CERTIFICATE_ENTRY.sub("", str(error), count=1)
                key = next((key for key in ("file", "fingerprint") if getattr(entry, key)), "name")
                if text.startswith(("needs one", "names no")):
                    self._findings.error(self._where("client_certificates", n), text, table=True)
                else:
                    self._findings.error(self._where("client_certificates", n, key), text)
        if entries and not self._general.certificates:
            self._findings.warn(
                self._where("client_certificates"),
                "have no effect: without [[general.certificates]] there is no TLS, in which clients show theirs",
            )

    # What the listeners make of it

    def _kinds(self) -> set[LoginKind]:
        """The kinds of login that somebody could use."""
        settings = self._settings
        enabled = [account for account in self._accounts if not account.disabled]
        kinds = set()
        if settings.basic and (enabled or settings.ldap is not None or settings.windows is not None):
            kinds.add(LoginKind.BASIC)
        if settings.scram and any(account.scram is not None for account in enabled):
            kinds.add(LoginKind.SCRAM)
        if settings.integrated.kerberos or (
            settings.integrated.ntlm
            and (os.name == "nt" or any(account.nt_hash is not None for account in enabled))
        ):
            kinds.add(LoginKind.INTEGRATED)
        if settings.oauth is not None:
            kinds.add(LoginKind.OAUTH)
        if settings.client_certificates and self._general.certificates:
            kinds.add(LoginKind.CERTIFICATE)
        return kinds

    def _who_can_log_in(self, place: Listening) -> None:
        findings, rules = self._findings, place.rules
        where = find(self._node, *place.names)
        working = _on(rules, self._kinds(), bool(self._general.certificates))
        if rules.require_login or not self._settings.anonymous:
            reason = "" if rules.require_login else " (anonymous = false)"
            if not working:
                settings = self._settings
                right = (
                    "an account (`mailroot user add NAME`), or another kind of login, and a certificate for TLS"
                    if settings.basic or settings.scram
                    else "basic = true, or another kind of login, in [access.authentication]"
                )
                findings.warn(
                    where,
                    f"{place.text!r} wants a login{reason}, and there is none that could work: right would be "
                    f"{right}",
                )
            elif place.is_reachable and working <= _only_from_here(rules, bool(self._general.certificates)):
                findings.warn(
                    where,
                    f"{place.text!r} wants a login{reason}, and passwords are taken with TLS only, except from "
                    f"this computer itself; right would be {A_CERTIFICATE}",
                )
        in_the_clear = rules.require_tls is RequireTls.NO and LoginKind.BASIC in working
        if in_the_clear and place.is_reachable and rules.tls is not TlsMode.IMPLICIT:
            findings.warn(
                where,
                f"{place.text!r} takes passwords without TLS: everybody on the way can read them. Better would be "
                'logins = [] there, or require_tls = "passwords"',
            )

    def _logins_of_listeners(self) -> None:
        """Kinds that a listener names, and that are not set up at all."""
        settings = self._settings
        set_up = {
            LoginKind.BASIC: settings.basic,
            LoginKind.SCRAM: settings.scram,
            LoginKind.INTEGRATED: settings.integrated.kerberos or settings.integrated.ntlm,
            LoginKind.OAUTH: settings.oauth is not None,
            LoginKind.CERTIFICATE: bool(settings.client_certificates),
        }
        for n, listener in enumerate(self._general.listeners):
            for m, kind in enumerate(listener.logins or ()):
                if not set_up[kind]:
                    self._findings.warn(
                        find(self._node, "general", "listeners", n, "logins", m),
                        f"'{kind}' is not offered: it is not set up in [access.authentication]",
                    )


def _on(rules: ListenerRules, kinds: set[LoginKind], has_certificates: bool) -> set[LoginKind]:
    """Those of the kinds that a listener offers to somebody."""
    offered = {kind for kind in kinds if rules.logins is None or kind in rules.logins}
    if rules.tls is TlsMode.OFF or not has_certificates:
        offered.discard(LoginKind.CERTIFICATE)
        if rules.require_tls in (RequireTls.LOGIN, RequireTls.MAIL):
            return set()
    return offered


def _only_from_here(rules: ListenerRules, has_certificates: bool) -> frozenset[LoginKind]:
    """The kinds that are offered to this computer's own programs alone, since there is no TLS for others."""
    no_tls = rules.tls is TlsMode.OFF or not has_certificates
    return _GIVE_SECRET_AWAY if no_tls and rules.require_tls is RequireTls.PASSWORDS else frozenset()


def _read_authorities(path: Path) -> None:
    try:
        ClientCertificates((), path)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("client_ca: ")) from None


def _read_trusted(entry: str) -> None:
    if not isinstance(read_entry(entry), Network):
        raise ValueError(  # noqa: TRY004
            f"{entry!r} is a name, which anybody can give his address; right would be an address or network, as "
            "'10.0.0.2'"
        )


def _read_exempt(entry: str) -> None:
    read_exempt((entry,))


def _is_for_nearly_all(access: AccessList) -> bool:
    """Whether strangers pass: a list of exceptions is never long enough."""
    named = any(map(_is_everything, access.list))
    return named if access.mode is Mode.ONLY else not named


def _is_everything(entry: str) -> bool:
    try:
        read = read_entry(entry)
    except ValueError:
        return False
    return isinstance(read, Network) and read.prefix == 0


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
