"""Lists of clients: single addresses, networks and domain names, and which of them a client is on.

A list is read once; a look-up costs one dictionary access per prefix length that occurs in it, so a thousand
single addresses are as quick as one. A domain name means the client whose verified reverse DNS name it is, and
every name below it; a client without such a name is on no domain's list.
"""

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from mailroot.policy.domains import read_domain
from mailroot.policy.visit import IPAddress


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


class ClientList:
    """A list of clients, read. Raises ValueError for a bad entry."""

    __slots__ = ("_names", "_networks")

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._names: dict[str, str] = {}
        # By version: (bits to drop from an address, {remaining bits: entry}), longest prefix first.
        networks: dict[int, dict[int, dict[int, str]]] = {4: {}, 6: {}}
        for text in entries:
            match read_entry(text):
                case Network(version, prefix, bits):
                    width = 32 if version == 4 else 128
                    networks[version].setdefault(width - prefix, {}).setdefault(bits, text.strip())
                case str(name):
                    self._names[name] = text.strip()
        self._networks = {version: sorted(table.items()) for version, table in networks.items()}

    @property
    def has_names(self) -> bool:
        """Whether look-ups want the client's name."""
        return bool(self._names)

    def find(self, client: IPAddress, name: str | None = None) -> str | None:
        """The entry the client is on the list as, None if it is not. `client` is unmapped, `name` its verified
        reverse DNS name."""
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
