"""The Access tab: connection control and relay restrictions.

A list holds single addresses, networks and domain names. It is read once; a look-up costs one dictionary access
per prefix length that occurs in it, so a thousand single addresses are as quick as one. A domain name means the
client whose verified reverse DNS name it is, and every name below it; a client without such a name is on no
domain's list. Whoever builds the Visit looks the name up, and only where `Access.needs_name` says so.

Relay is decided by where the message goes and where the client is, in this order: a local domain is never a
relay question; a remote domain may be open to everybody; else the list decides. The sender address plays no part.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated

from mailroot.mail.address import Address
from mailroot.mail.reply import Reply
from mailroot.policy.domains import DomainPatterns, LocalDomains, read_domain
from mailroot.policy.visit import Accept, Decision, Hangup, IPAddress, Refuse, Visit
from mailroot.units import Doc


class Mode(StrEnum):
    """The two modes of the old dialogs."""

    ONLY = "only the list"
    EXCEPT = "all except the list"


@dataclass(frozen=True, slots=True)
class AccessList:
    """Single addresses, networks and domain names, and what being on the list means."""

    mode: Annotated[Mode, Doc("'only the list' or 'all except the list'.")]
    list: Annotated[
        tuple[str, ...],
        Doc(
            "Single addresses ('10.0.0.5', '::1'), networks ('10.0.0.0/8', '10.0.0.0/255.0.0.0') and domain names "
            "('example.com' and all below it; needs a reverse look-up of each client).",
            example='["127.0.0.1", "::1", "10.1.0.0/16"]',
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """The Access tab."""

    connection: Annotated[AccessList, Doc("Connection control: who may connect at all.")] = field(
        default_factory=lambda: AccessList(Mode.EXCEPT)
    )
    relay: Annotated[
        AccessList,
        Doc("Relay restrictions: who may send to domains that are not local. The sender address plays no part."),
    ] = field(default_factory=lambda: AccessList(Mode.ONLY, ("127.0.0.1", "::1")))
    reverse_dns: Annotated[
        bool,
        Doc("Look each client's name up; a name that does not fit its HELO is marked 'unverified' in Received."),
    ] = False


@dataclass(frozen=True, slots=True)
class Network:
    """A network of a list, or a single address as the smallest one: its first `prefix` bits, as a number."""

    version: int
    prefix: int
    bits: int


def read_entry(text: str) -> Network | str:
    """One entry of a list: a network, or a domain name in compared form. Raises ValueError, which says what
    would be right."""
    entry = text.strip()
    if "%" in entry:
        raise ValueError(f"{text!r}: leave the zone away; right would be {entry.partition('%')[0]!r}")
    if "/" in entry:
        return _read_network(entry)
    try:
        address = unmapped(ip_address(entry))
    except ValueError:
        return _read_name(entry)
    return Network(address.version, address.max_prefixlen, int(address))


def _read_network(entry: str) -> Network:
    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(
            f"{entry!r} is not a network; right would be '10.0.0.0/8', '10.0.0.0/255.0.0.0' or '2001:db8::/32'"
        ) from None
    first = entry.partition("/")[0].strip()
    if int(ip_address(first)) != int(network.network_address):
        raise ValueError(
            f"{entry!r} is an address within a network, not the network's own; right would be '{network}' for the "
            f"network, or {first!r} for the single address"
        )
    version, prefix, number = network.version, network.prefixlen, int(network.network_address)
    if version == 6 and prefix >= 96 and number >> 32 == 0xFFFF:
        # RFC 4291 §2.5.5.2: IPv4-mapped; such a client is known to us by its IPv4 address.
        version, prefix, number = 4, prefix - 96, number & 0xFFFFFFFF
    width = 32 if version == 4 else 128
    return Network(version, prefix, number >> (width - prefix))


def _read_name(entry: str) -> str:
    if entry.startswith("*."):
        raise ValueError(
            f"{entry!r}: right would be {entry[2:]!r}, which stands for itself and every name below it"
        )
    if entry.startswith("["):
        raise ValueError(
            f"{entry!r}: an address stands here without brackets; right would be {entry.strip('[]')!r}"
        )
    if not entry.isdecimal():
        with suppress(ValueError):
            return read_domain(entry)
    raise ValueError(
        f"{entry!r} is no address, network or domain name; right would be '10.0.0.5', '::1', '10.0.0.0/8', "
        f"'10.0.0.0/255.0.0.0' or 'example.com'"
    )


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv4-mapped IPv6 address stands for (RFC 4291 §2.5.5.2); any other as it is."""
    if isinstance(address, IPv6Address) and (mapped := address.ipv4_mapped) is not None:
        return mapped
    return address


class _List:
    """An AccessList, read. Answers whether a client passes and why. Raises ValueError for a bad entry."""

    __slots__ = ("_mode", "_names", "_networks", "_title")

    def __init__(self, title: str, settings: AccessList) -> None:
        self._title = title
        self._mode = settings.mode
        self._names: dict[str, str] = {}
        # By version: (bits to drop from an address, {remaining bits: entry}), longest prefix first.
        networks: dict[int, dict[int, dict[int, str]]] = {4: {}, 6: {}}
        for text in settings.list:
            match read_entry(text):
                case Network(version, prefix, bits):
                    width = 32 if version == 4 else 128
                    networks[version].setdefault(width - prefix, {}).setdefault(bits, text.strip())
                case str(name):
                    self._names[name] = text.strip()
        self._networks = {version: sorted(table.items()) for version, table in networks.items()}

    @property
    def has_names(self) -> bool:
        return bool(self._names)

    def passes(self, visit: Visit) -> tuple[bool, str]:
        """Whether the client passes, and the rule in words."""
        client = unmapped(visit.client)
        entry = self._entry(client, visit.name)
        listed = entry is not None
        passes = listed is (self._mode is Mode.ONLY)
        rule = f"{self._title}: {client} is {'on' if listed else 'not on'} the list"
        if entry is not None and entry != str(client):
            rule += f" as {entry}"
        if not passes or not listed:
            rule += f" ({self._mode})"
        return passes, rule

    def _entry(self, client: IPAddress, name: str | None) -> str | None:
        number = int(client)
        for drop, table in self._networks[client.version]:
            entry = table.get(number >> drop)
            if entry is not None:
                return entry
        if name and self._names:
            rest = name.rstrip(".").lower()
            while rest:
                entry = self._names.get(rest)
                if entry is not None:
                    return entry
                rest = rest.partition(".")[2]
        return None


class Access:
    """Who may connect, and who may relay. Raises ValueError for a bad entry or domain.

    `relay_domains` are the remote domains (`example.com`, `*.example.com`) open for relay by everybody.
    `needs_name`: decisions, or the Received field, want the client's reverse DNS name in the Visit.
    """

    __slots__ = ("_connection", "_local", "_relay", "_relay_domains", "needs_name")

    def __init__(self, settings: AccessSettings, local: LocalDomains, relay_domains: tuple[str, ...]) -> None:
        self._connection = _List("connection control", settings.connection)
        self._relay = _List("relay restrictions", settings.relay)
        self._local = local
        self._relay_domains = DomainPatterns(relay_domains)
        self.needs_name: bool = settings.reverse_dns or self._connection.has_names or self._relay.has_names

    def may_connect(self, visit: Visit) -> Decision:
        """Connection control, asked before the banner."""
        passes, rule = self._connection.passes(visit)
        if passes:
            return Accept(rule)
        # RFC 5321 §3.1: 554 in place of the banner.
        client = unmapped(visit.client)
        return Hangup(rule, Reply(554, "5.7.1", f"Connections from {client} are not accepted here"))

    def may_relay(self, visit: Visit, recipient: Address) -> Decision:
        """Relay restrictions, asked for each recipient."""
        key = recipient.domain_key
        if self._local.is_local(key):
            return Accept(f"local domain: {key}")
        pattern = self._relay_domains.find(key)
        if pattern is not None:
            return Accept(f"remote domain: {pattern} is open for relay by everybody")
        passes, rule = self._relay.passes(visit)
        if passes:
            return Accept(rule)
        return Refuse(rule, Reply(550, "5.7.1", f"Unable to relay for {recipient}"))
