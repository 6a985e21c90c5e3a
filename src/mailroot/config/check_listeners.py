"""What the General tab means: names, addresses to listen on, what each listener takes, and certificates."""

import time
from dataclasses import dataclass
from ipaddress import ip_address

from mailroot.config.model import VirtualServerSettings
from mailroot.config.tree import Findings, Node, find, is_written
from mailroot.net.listener import Endpoint, parse_listen
from mailroot.net.tls import CertificateError, CertificateFile, TlsVersion
from mailroot.policy.domains import read_domain
from mailroot.policy.listeners import ListenerRules, ListenerSettings, Profile, RequireTls, TlsMode
from mailroot.receive.listeners import GeneralSettings

_WILDCARDS = ("0.0.0.0", "::")
_OLD = (TlsVersion.TLS_1_0, TlsVersion.TLS_1_1)
A_CERTIFICATE = "[[general.certificates]], which `mailroot certificate make` makes"
"""What would be right where there is none."""


@dataclass(frozen=True, slots=True)
class Listening:
    """An address to listen on: where it is written, as what, and what holds there. No endpoints: it cannot be
    read, which is told."""

    names: tuple[str | int, ...]
    text: str
    endpoints: tuple[Endpoint, ...]
    rules: ListenerRules

    @property
    def is_reachable(self) -> bool:
        """Whether others than this computer can connect there."""
        return any(not ip_address(endpoint.address).is_loopback for endpoint in self.endpoints)


def listening_places(general: GeneralSettings) -> list[Listening]:
    """All addresses, those of `listen` first."""
    plain = [
        Listening(("general", "listen", n), text, _endpoints(text), ListenerRules())
        for n, text in enumerate(general.listen)
    ]
    return plain + [
        Listening(
            ("general", "listeners", n, "address"), one.address, _endpoints(one.address), ListenerRules.of(one)
        )
        for n, one in enumerate(general.listeners)
    ]


def collide(one: Endpoint, other: Endpoint) -> bool:
    """Whether only one of the two can be listened on."""
    if one.port != other.port or not one.port or (":" in one.address) != (":" in other.address):
        return False
    return one.address == other.address or one.address in _WILDCARDS or other.address in _WILDCARDS


def check_listeners(settings: VirtualServerSettings, node: Node, findings: Findings) -> None:
    """The section [general], but for its folders."""
    general = settings.general
    fqdn, where = general.fqdn, find(node, "general", "fqdn")
    if fqdn and findings.attempt(where, read_domain, fqdn) and "." not in fqdn:
        findings.warn(
            where,
            f"{fqdn!r} is a bare name; many servers refuse mail from such a name. Right would be "
            "'relay.example.com'",
        )
    _addresses(general, node, findings)
    for n, listener in enumerate(general.listeners):
        _Listener(settings, node, findings, n, listener).check()
    for n, certificate in enumerate(general.certificates):
        _certificate(certificate, node, findings, n)
    if settings.access.proxies and not any(listener.proxy_protocol for listener in general.listeners):
        findings.warn(
            find(node, "access", "proxies"),
            "has no effect: no listener has proxy_protocol = true",
        )


def _addresses(general: GeneralSettings, node: Node, findings: Findings) -> None:
    by_default = not is_written(node, "general", "listen")
    seen: list[tuple[Endpoint, Listening]] = []
    for listening in listening_places(general):
        text, where = listening.text, find(node, *listening.names)
        if not findings.attempt(where, parse_listen, text):
            continue
        other = next((who for one in listening.endpoints for there, who in seen if collide(one, there)), None)
        if other is None:
            seen += [(endpoint, listening) for endpoint in listening.endpoints]
        elif other.names[1] == "listen" and by_default:
            findings.error(
                where,
                f"{text!r} is taken by {other.text!r} of [general] listen, which is so by default; right would be "
                "listen = [] there",
            )
        elif other.text == text:
            findings.error(where, f"{text!r} is in the list twice; once is right")
        else:
            findings.error(
                where, f"{text!r} and {other.text!r} have an address in common; right would be one of the two"
            )
    if not general.listen and not general.listeners:
        findings.warn(find(node, "general", "listen"), "is empty: nobody can hand in mail by SMTP")


class _Listener:
    """One of [[general.listeners]]."""

    def __init__(
        self, settings: VirtualServerSettings, node: Node, findings: Findings, n: int, listener: ListenerSettings
    ) -> None:
        self._access = settings.access
        self._has_certificates = bool(settings.general.certificates)
        self._listener = listener
        self._rules = ListenerRules.of(listener)
        self._node = node
        self._section = ("general", "listeners", n)
        self._findings = findings

    def _tell(self, key: str, text: str) -> None:
        self._findings.error(find(self._node, *self._section, key), text)

    def _warn(self, key: str, text: str) -> None:
        self._findings.warn(find(self._node, *self._section, key), text)

    def _is_written(self, key: str) -> bool:
        return is_written(self._node, *self._section, key)

    def check(self) -> None:
        listener, rules = self._listener, self._rules
        self._tls()
        if listener.min_tls in _OLD and rules.profile is not Profile.OLD_DEVICES:
            self._warn(
                "min_tls",
                f'TLS {listener.min_tls} is not safe any more; better would be "1.2", and for old machines a '
                'listener of their own with profile = "old devices"',
            )
        if listener.proxy_protocol and not self._access.proxies:
            self._tell(
                "proxy_protocol",
                "turns everybody away, since no proxy is known; right would be, in [access], "
                'proxies = ["10.0.0.2"]',
            )
        if rules.require_login and rules.logins == frozenset():
            self._tell("logins", "is empty, and require_login wants one; right would be to leave one of them out")

    def _tls(self) -> None:
        rules = self._rules
        if rules.tls is TlsMode.OFF:
            if rules.require_tls in (RequireTls.LOGIN, RequireTls.MAIL) and self._is_written("require_tls"):
                self._tell(
                    "require_tls",
                    f'wants TLS for {_WANTS[rules.require_tls]}, and tls = "off"; right would be '
                    'tls = "starttls" or "implicit"',
                )
            if self._is_written("min_tls"):
                self._warn("min_tls", 'has no effect with tls = "off"')
        elif not self._has_certificates:
            if rules.tls is TlsMode.IMPLICIT:
                self._tell("tls", f"'implicit' needs a certificate; right would be {A_CERTIFICATE}")
            elif rules.require_tls in (RequireTls.LOGIN, RequireTls.MAIL) and self._is_written("require_tls"):
                self._tell(
                    "require_tls",
                    f"wants TLS for {_WANTS[rules.require_tls]}, and there is no certificate for it; right would "
                    f"be {A_CERTIFICATE}",
                )


_WANTS = {RequireTls.LOGIN: "logins", RequireTls.MAIL: "mail"}


def _certificate(certificate: CertificateFile, node: Node, findings: Findings, n: int) -> None:
    from mailroot.net.certificates import Certificates

    section = ("general", "certificates", n)
    try:
        (shown,) = Certificates([certificate]).shown()
    except CertificateError as error:
        text = str(error)
        key = "key" if certificate.key is not None and text.startswith(f"{certificate.key}: ") else "file"
        findings.error(find(node, *section, key), text)
        return
    if shown.ends <= time.time():
        day = time.strftime("%Y-%m-%d", time.gmtime(shown.ends))
        findings.warn(
            find(node, *section, "file"),
            f"{certificate.file}: the certificate has ended on {day}; clients will not trust it",
        )


def _endpoints(text: str) -> tuple[Endpoint, ...]:
    try:
        return parse_listen(text)
    except ValueError:
        return ()
