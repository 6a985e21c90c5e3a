"""Which machines? From a route to the addresses to try, in order (RFC 5321 §5.1, RFC 7505).

Asks DNS and nothing else; what a missing name means for the message is said here, as a reply.
"""

import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from mailroot.deliver.route import ToHosts, literal_address
from mailroot.mail.address import domain_key
from mailroot.mail.reply import Reply
from mailroot.net.dns import DnsError, Exchanger, LookupFailed, NoSuchName

MAX_HOSTS = 10
"""Addresses tried for one message in one attempt."""


@dataclass(frozen=True, slots=True)
class Host:
    """One address of a next hop. `name` is "" for one configured or written as an address."""

    name: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.name} [{self.address}]:{self.port}" if self.name else f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class NoHosts:
    """There is nowhere to go, and `reply` says why: 5yz for ever, 4yz for now. `final`: nor may a smart host
    be asked instead (the domain takes no mail at all)."""

    reply: Reply
    final: bool = False


class Lookups(Protocol):
    """What is asked of DNS; `net.dns.Resolver` answers it. Both raise DnsError."""

    async def mx(self, domain: str) -> tuple[Exchanger, ...]: ...

    async def addresses(self, host: str, *, of_system: bool = False) -> tuple[str, ...]: ...


class Itself:
    """Which hosts are this server, so that mail is not handed in a circle.

    `names` are the names it goes by (FQDN), `listeners` the (address, port) it listens on; an address of
    "0.0.0.0", "::" or "*" stands for all addresses of this computer.
    """

    def __init__(self, names: Iterable[str] = (), listeners: Iterable[tuple[str, int]] = ()) -> None:
        self._names = frozenset(domain_key(name) for name in names)
        self._listeners = frozenset(listeners)
        self._ports = frozenset(port for host, port in self._listeners if host in ("0.0.0.0", "::", "*"))

    def is_named(self, name: str) -> bool:
        return name in self._names

    def listens_on(self, address: str, port: int) -> bool:
        return (address, port) in self._listeners or (port in self._ports and _is_of_this_computer(address))


def _is_of_this_computer(address: str) -> bool:
    """Only an address of our own can be bound to; no list of interfaces says it as surely on every system."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class Hosts:
    """Finds the hosts of a route. `shuffle` puts equals in a random order; tests give another."""

    def __init__(
        self,
        lookups: Lookups,
        itself: Itself,
        *,
        source: str = "",
        shuffle: Callable[[list[Exchanger]], None] = random.shuffle,
    ) -> None:
        self._lookups = lookups
        self._itself = itself
        self._source = source
        self._shuffle = shuffle

    async def find(self, route: ToHosts) -> tuple[Host, ...] | NoHosts:
        """The addresses to try, best first, at most MAX_HOSTS and at least one."""
        if route.smart_hosts:
            found = await self._smart_hosts(route)
        elif route.domain.startswith("["):
            found = self._literal(route)
        else:
            found = await self._exchangers(route)
        if isinstance(found, NoHosts):
            return found
        usable = [host for host in found if not self._source or (":" in host.address) == (":" in self._source)]
        if not usable:
            kind = "IPv6" if ":" in self._source else "IPv4"
            return NoHosts(Reply(451, "4.4.4", f"No {kind} address to reach from source address {self._source}"))
        return tuple(usable[:MAX_HOSTS])

    async def _smart_hosts(self, route: ToHosts) -> list[Host] | NoHosts:
        """A smart host is configuration: whatever is wrong with it can be put right, so nothing fails for good."""
        found: list[Host] = []
        trouble = Reply(451, "4.4.4", "No smart host")
        for smart_host in route.smart_hosts:
            if smart_host.is_address:
                hosts = [Host("", smart_host.name, smart_host.port)]
            else:
                try:
                    addresses = await self._lookups.addresses(smart_host.name, of_system=True)
                except DnsError as error:
                    trouble = Reply(451, "4.4.3", f"Smart host {smart_host}: {error}")
                    continue
                if not addresses:
                    trouble = Reply(451, "4.4.3", f"Smart host {smart_host}: the name has no address")
                hosts = [Host(smart_host.name, address, smart_host.port) for address in addresses]
            if any(self._itself.listens_on(host.address, host.port) for host in hosts):
                text = f"Smart host {smart_host} is this server itself; mail would go in a circle"
                trouble = Reply(451, "4.4.6", text)
                continue
            found += hosts
        return found or NoHosts(trouble)

    def _literal(self, route: ToHosts) -> list[Host] | NoHosts:
        address = literal_address(route.domain)
        if address is None:
            return NoHosts(Reply(550, "5.1.2", f"{route.domain} is not an address that can be connected to"))
        if self._itself.listens_on(address, route.port):
            return NoHosts(_loop(route.domain))
        return [Host("", address, route.port)]

    async def _exchangers(self, route: ToHosts) -> list[Host] | NoHosts:
        domain = route.domain
        try:
            records = await self._lookups.mx(domain)
        except NoSuchName:
            return NoHosts(Reply(550, "5.1.2", f"Domain {domain} does not exist"))
        except LookupFailed as error:
            return NoHosts(Reply(451, "4.4.3", str(error)))
        if [record.host for record in records] == [""]:
            # RFC 7505 §3: a null MX says that the domain takes no mail.
            return NoHosts(Reply(556, "5.1.10", f"Domain {domain} does not accept mail (null MX)"), final=True)
        implicit = not records
        # RFC 5321 §5.1: a domain without MX is its own exchanger.
        exchangers = [record for record in records if record.host] or [Exchanger(0, domain)]
        found: list[Host] = []
        failure: LookupFailed | None = None
        for _, group in groupby(sorted(exchangers, key=_preference), _preference):
            equals = list(group)
            self._shuffle(equals)
            level: list[Host] = []
            for exchanger in equals:
                try:
                    addresses = await self._lookups.addresses(exchanger.host)
                except NoSuchName:
                    continue
                except LookupFailed as error:
                    failure = error
                    continue
                level += [Host(exchanger.host, address, route.port) for address in addresses]
            ours = any(self._itself.listens_on(host.address, host.port) for host in level)
            if ours or any(self._itself.is_named(exchanger.host) for exchanger in equals):
                # RFC 5321 §5.1: where we are in the list ourselves, only better exchangers may be asked.
                if found or failure:
                    break
                return NoHosts(_loop(domain))
            found += level
            if len(found) >= MAX_HOSTS:
                break
        if found:
            return found
        if failure is not None:
            return NoHosts(Reply(451, "4.4.3", str(failure)))
        if implicit:
            return NoHosts(Reply(550, "5.1.2", f"Domain {domain} has neither a mail exchanger nor an address"))
        return NoHosts(Reply(550, "5.4.4", f"No mail exchanger of {domain} has an address"))


def _preference(exchanger: Exchanger) -> int:
    return exchanger.preference


def _loop(domain: str) -> Reply:
    return Reply(
        550,
        "5.4.6",
        f"Mail for {domain} loops back to this server, which does not have it as a local domain and has no other "
        "route for it",
    )
