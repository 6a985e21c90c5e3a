"""Whither? Which route a recipient's domain takes: Drop, a smart host, or the domain's own mail exchangers.

Plain decisions over the configuration; no look-ups, so `mailroot explain` asks the same question.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Annotated, ClassVar

from mailroot.deliver.security import OutboundSecurity
from mailroot.mail.address import Address
from mailroot.policy.domains import DomainPatterns, LocalDomains, read_domain, read_pattern
from mailroot.units import Doc, Port


@dataclass(frozen=True, slots=True)
class AdvancedDelivery:
    """The Advanced Delivery dialog."""

    smart_host: Annotated[
        tuple[str, ...],
        Doc(
            "Smart hosts, tried in this order: 'name', '[address]' or 'name:port'. Empty: deliver to the mail "
            "exchangers of each recipient's domain.",
            example='["smtp.example.com:587"]',
        ),
    ] = ()
    direct_first: Annotated[bool, Doc("Attempt direct delivery before sending to smart host.")] = False
    masquerade_domain: Annotated[
        str,
        Doc("Replaces a local domain in the sender address (MAIL FROM) of outgoing mail.", example="example.com"),
    ] = ""
    fqdn: Annotated[
        str, Doc("Name said in EHLO to next hops; empty: the one of the General tab.", example="mail.example.com")
    ] = ""
    dns_servers: Annotated[
        tuple[str, ...],
        Doc("DNS servers to ask, 'address' or 'address:port'; empty: the system's.", example='["127.0.0.1:53"]'),
    ] = ()


@dataclass(frozen=True, slots=True)
class RemoteDomain:
    """A remote domain of the Domains list: a route and security of its own."""

    name: Annotated[
        str, Doc("'example.com', or '*.example.com' for all domains below it.", example="*.example.net")
    ]
    allow_relay: Annotated[bool, Doc("Allow incoming mail to be relayed to this domain, by everybody.")] = False
    send_helo: Annotated[bool, Doc("Send HELO instead of EHLO.")] = False
    smart_host: Annotated[
        tuple[str, ...] | None,
        Doc(
            "Forward all mail for it to these hosts; []: use DNS; not set: as for all other domains.",
            example='["[192.0.2.25]", "relay.example.net:2525"]',
        ),
    ] = None
    port: Annotated[Port | None, Doc("TCP port, if another than the one of the Delivery tab.", example="587")] = (
        None
    )
    outbound_security: Annotated[
        OutboundSecurity | None, Doc("Its own outbound security; not set: the one of the Delivery tab.")
    ] = None


@dataclass(frozen=True, slots=True)
class SmartHost:
    """A next hop by name or address (then `is_address`), and its port."""

    name: str
    port: int
    is_address: bool

    @classmethod
    def read(cls, text: str, port: int) -> "SmartHost":
        """'name', '[address]', 'name:port', '[address]:port'; `port` where none is given. Raises ValueError."""
        text = text.strip()
        host, mark, number = text.rpartition(":")
        if text.startswith("["):
            inner, bracket, rest = text[1:].partition("]")
            host, mark, number = inner.removeprefix("IPv6:"), rest[:1], rest[1:]
            if not bracket or mark not in ("", ":"):
                raise ValueError(f"{text!r} is not a smart host; right would be '[192.0.2.1]' or '[192.0.2.1]:587'")
        elif not mark or ":" in host:
            # No port; or an IPv6 address without its brackets.
            host, mark, number = text, "", ""
        if mark:
            if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 65535):
                raise ValueError(
                    f"{text!r}: the port must be a number from 1 to 65535, as in 'smtp.example.com:587'"
                )
            port = int(number)
        try:
            return cls(str(ip_address(host)), port, True)
        except ValueError:
            if text.startswith("[") or ":" in host:
                raise ValueError(
                    f"{text!r}: {host!r} is not an IP address; a name stands without brackets: 'smtp.example.com'"
                ) from None
        return cls(read_domain(host), port, False)

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if self.is_address else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class ToDrop:
    """Into the Drop folder. `rule` says why."""

    name: ClassVar[str] = "Drop folder"
    rule: str

    def describe(self) -> str:
        return f"{self.rule}: into the Drop folder"


@dataclass(frozen=True, slots=True)
class ToHosts:
    """To another server. `name` is unique per destination: routes with the same name share connections.

    `smart_hosts` in order; empty: the mail exchangers of `domain` (a `domain_key`, or an address literal).
    `fallback` is taken by what this route could not deliver now.
    """

    name: str
    rule: str
    domain: str
    smart_hosts: tuple[SmartHost, ...]
    port: int
    security: OutboundSecurity
    send_helo: bool = False
    fallback: "ToHosts | None" = None

    def describe(self) -> str:
        """In words for `mailroot explain`, without secrets."""
        if self.smart_hosts:
            hosts = "to smart host " + ", else ".join(map(str, self.smart_hosts))
        elif self.domain.startswith("["):
            hosts = f"to {self.domain}:{self.port}"
        else:
            hosts = f"to the mail exchangers of {self.domain}, port {self.port}"
        words = f"{self.rule}: {hosts} ({self.security.describe()}{', HELO' if self.send_helo else ''})"
        if self.fallback is not None:
            words += "; if that fails for now, to smart host " + ", else ".join(map(str, self.fallback.smart_hosts))
        return words


Route = ToDrop | ToHosts


class Router:
    """Decides the route of each recipient, and the sender address that goes out.

    Raises ValueError, with a text for the administrator, for a smart host or domain that cannot be read.
    """

    _REMEMBERED = 4096

    def __init__(
        self,
        advanced: AdvancedDelivery,
        remote: tuple[RemoteDomain, ...],
        local: LocalDomains,
        security: OutboundSecurity,
        port: int,
    ) -> None:
        """`security` and `port` are those of the Delivery tab, for routes without their own."""
        self._advanced = advanced
        self._local = local
        self._security = security
        self._port = port
        self._smart_hosts = tuple(SmartHost.read(text, port) for text in advanced.smart_host)
        self._masquerade = read_domain(advanced.masquerade_domain) if advanced.masquerade_domain else ""
        self._patterns = DomainPatterns(tuple(entry.name for entry in remote))
        self._remote = {read_pattern(entry.name): entry for entry in remote}
        self._smart_host_route = self._through(self._smart_hosts, "all remote domains", port, security, False)
        # A route is asked for per recipient, and most mail goes to few domains.
        self._known: dict[str, Route] = {}
        for entry in remote:
            for text in entry.smart_host or ():
                SmartHost.read(text, entry.port or port)

    def route(self, recipient: Address) -> Route:
        """Where this recipient's mail goes."""
        domain = recipient.domain
        route = self._known.get(domain)
        if route is None:
            route = self._decide(recipient.domain_key)
            if len(self._known) >= self._REMEMBERED:
                self._known.clear()
            self._known[domain] = route
        return route

    def sender(self, sender: Address | None) -> Address | None:
        """The sender as the next hop sees it: a local domain gives way to the masquerade domain."""
        if sender is None or not self._masquerade or not self._local.is_local(sender.domain_key):
            return sender
        return Address(sender.local, self._masquerade)

    def _decide(self, domain: str) -> Route:
        if self._local.is_local(domain):
            return ToDrop(f"{domain} is a local domain")
        pattern = self._patterns.find(domain)
        if pattern is None:
            return self._default(domain, "all remote domains", self._port, self._security, False)
        entry = self._remote[pattern]
        rule = f"remote domain {pattern}"
        port = entry.port or self._port
        security = entry.outbound_security or self._security
        if entry.smart_host is None:
            return self._default(domain, rule, port, security, entry.send_helo)
        if not entry.smart_host:
            return self._direct(domain, rule, port, security, entry.send_helo)
        hosts = tuple(SmartHost.read(text, port) for text in entry.smart_host)
        return self._through(hosts, rule, port, security, entry.send_helo)

    def _default(self, domain: str, rule: str, port: int, security: OutboundSecurity, send_helo: bool) -> ToHosts:
        """As for all other domains, but perhaps with a port and security of its own."""
        if not self._smart_hosts:
            return self._direct(domain, rule, port, security, send_helo)
        if self._advanced.direct_first:
            return self._direct(domain, rule, port, security, send_helo, self._smart_host_route)
        if rule == self._smart_host_route.rule:
            return self._smart_host_route
        hosts = tuple(SmartHost.read(text, port) for text in self._advanced.smart_host)
        return self._through(hosts, rule, port, security, send_helo)

    @staticmethod
    def _direct(
        domain: str,
        rule: str,
        port: int,
        security: OutboundSecurity,
        send_helo: bool,
        fallback: ToHosts | None = None,
    ) -> ToHosts:
        return ToHosts(domain, rule, domain, (), port, security, send_helo, fallback)

    @staticmethod
    def _through(
        hosts: tuple[SmartHost, ...], rule: str, port: int, security: OutboundSecurity, send_helo: bool
    ) -> ToHosts:
        name = "smart host " + ", ".join(map(str, hosts))
        if rule != "all remote domains":
            name += f" ({rule})"
        return ToHosts(name, rule, "", hosts, port, security, send_helo)


def literal_address(domain: str) -> str | None:
    """The IP address of an address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3); None if it
    holds none that we can connect to."""
    inner = domain.strip("[]")
    try:
        if inner.lower().startswith("ipv6:"):
            return str(IPv6Address(inner[5:]))
        return str(ip_address(inner))
    except ValueError:
        return None
