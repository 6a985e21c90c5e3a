"""DNS look-ups: mail exchangers, addresses, names; remembered for as long as they hold, each asked once at a time.

dnspython does the asking and is imported with the first question only, since a relay with a smart host may never
ask one. Says what is known and what is not; what follows from that is the caller's business.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver
    from dns.resolver import Answer

_LIFETIME = 20.0
"""Seconds until a look-up counts as failed, all servers and repetitions included."""
_REMEMBERED = 10_000
_LONGEST = 3600.0
_SHORTEST = 5.0
_AFTER_FAILURE = 10.0
"""Seconds for which a failed look-up is not asked again."""
_AFTER_ABSENCE = 60.0
"""Seconds for which we believe that a name does not exist, or that the system's resolver said so."""


class DnsError(Exception):
    """No answer to build on; the text is for people."""


class NoSuchName(DnsError):
    """The name does not exist (NXDOMAIN), or could not exist."""


class LookupFailed(DnsError):
    """Nobody knows at present: time-out, SERVFAIL, no DNS server."""


@dataclass(frozen=True, slots=True)
class Exchanger:
    """An MX record. `host` is lower case without final dot; "" for the root, which says "no mail" (RFC 7505)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class _Known:
    """An answer, or the reason there is none, and until when it holds (monotonic seconds)."""

    value: tuple[Any, ...]
    error: DnsError | None
    until: float


class Resolver:
    """Asks `servers` ('address' or 'address:port'), or the system's where there are none.

    Raises ValueError for a server that is no address.
    """

    def __init__(self, servers: tuple[str, ...] = ()) -> None:
        self._servers = tuple(_read_server(text) for text in servers)
        self._dns: DnsResolver | None = None
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._asked: dict[tuple[str, str], asyncio.Task[_Known]] = {}

    async def mx(self, domain: str) -> tuple[Exchanger, ...]:
        """The MX records of a domain (ASCII), as they came; empty if it has none. Raises DnsError."""
        return await self._ask(("MX", domain.lower()), self._mx)

    async def addresses(self, host: str, *, of_system: bool = False) -> tuple[str, ...]:
        """IPv4 and IPv6 addresses of a host; empty if it has none. Raises DnsError.

        By DNS, IPv4 first. `of_system`: as every program on this computer would resolve the name (hosts file,
        local network), unless DNS servers are given.
        """
        host = host.lower()
        if of_system and not self._servers:
            return await self._ask(("system", host), self._of_system)
        return await self._ask(("A", host), self._addresses)

    async def name(self, ip: str) -> str | None:
        """The name of an address, lower case, if that name also leads back to it; None if not, or not known."""
        try:
            names = await self._ask(("PTR", ip), self._ptr)
            for name in names[:5]:
                if ip_address(ip) in map(ip_address, await self.addresses(name)):
                    return str(name)
        except DnsError:
            pass
        return None

    async def close(self) -> None:
        """Forget what is being asked."""
        asked = list(self._asked.values())
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    async def _ask(
        self, question: tuple[str, str], how: Callable[[str], Awaitable[tuple[tuple[Any, ...], float]]]
    ) -> tuple[Any, ...]:
        known = self._known.get(question)
        if known is None or known.until <= time.monotonic():
            task = self._asked.get(question)
            if task is None:
                task = self._asked[question] = asyncio.create_task(self._find(question, how))
                task.add_done_callback(lambda _: self._asked.pop(question, None))
            # Many may wait for one answer; that one of them is cancelled does not concern the others.
            known = await asyncio.shield(task)
        else:
            self._known.move_to_end(question)
        if known.error is not None:
            # A fresh one each time: an exception collects the traceback of every raise.
            raise type(known.error)(str(known.error))
        return known.value

    async def _find(
        self, question: tuple[str, str], how: Callable[[str], Awaitable[tuple[tuple[Any, ...], float]]]
    ) -> _Known:
        value: tuple[Any, ...] = ()
        error: DnsError | None = None
        try:
            async with asyncio.timeout(_LIFETIME + 5):
                value, seconds = await how(question[1])
        except NoSuchName as absent:
            error, seconds = absent, _AFTER_ABSENCE
        except LookupFailed as failed:
            error, seconds = failed, _AFTER_FAILURE
        except TimeoutError:
            error, seconds = LookupFailed(f"no answer from DNS for {question[1]}"), _AFTER_FAILURE
        known = _Known(value, error, time.monotonic() + min(max(seconds, _SHORTEST), _LONGEST))
        self._known[question] = known
        self._known.move_to_end(question)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known

    # Each gives the value and how many seconds it holds.

    async def _mx(self, domain: str) -> tuple[tuple[Exchanger, ...], float]:
        answer = await self._resolve(domain, "MX")
        found = tuple(
            Exchanger(record.preference, record.exchange.to_text(omit_final_dot=True).lower().rstrip("."))
            for record in answer.rrset or ()
        )
        return found, _seconds(answer)

    async def _addresses(self, host: str) -> tuple[tuple[str, ...], float]:
        if host == "localhost":
            # RFC 6761 §6.3: never asked of DNS.
            return ("127.0.0.1", "::1"), _LONGEST
        found = await asyncio.gather(self._resolve(host, "A"), self._resolve(host, "AAAA"), return_exceptions=True)
        addresses: list[str] = []
        seconds = _LONGEST
        for answer in found:
            if not isinstance(answer, BaseException):
                addresses += [record.address for record in answer.rrset or ()]
                seconds = min(seconds, _seconds(answer))
        failures = [answer for answer in found if isinstance(answer, BaseException)]
        if failures and (not addresses or not isinstance(failures[0], DnsError)):
            raise next((failure for failure in failures if not isinstance(failure, NoSuchName)), failures[0])
        return tuple(addresses), seconds

    async def _ptr(self, ip: str) -> tuple[tuple[str, ...], float]:
        answer = await self._resolve(ip_address(ip).reverse_pointer, "PTR")
        names = tuple(record.target.to_text(omit_final_dot=True).lower() for record in answer.rrset or ())
        return names, _seconds(answer)

    async def _of_system(self, host: str) -> tuple[tuple[str, ...], float]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            absent = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            text = f"the name {host} cannot be resolved: {error.args[-1]}"
            raise NoSuchName(text) if absent else LookupFailed(text) from error
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found)), _AFTER_ABSENCE

    async def _resolve(self, name: str, kind: str) -> Answer:
        """Raises NoSuchName, LookupFailed; an answer without records has `rrset` None."""
        from dns.exception import DNSException
        from dns.name import EmptyLabel, LabelTooLong, NameTooLong
        from dns.resolver import NXDOMAIN

        try:
            resolver = self._dns or self._new_resolver()
            return await resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except (NXDOMAIN, EmptyLabel, LabelTooLong, NameTooLong) as error:
            raise NoSuchName(f"the name {name} does not exist") from error
        except (DNSException, OSError) as error:
            raise LookupFailed(f"DNS could not be asked for {name} ({kind}): {error}") from error

    def _new_resolver(self) -> DnsResolver:
        from dns.asyncresolver import Resolver as DnsResolver
        from dns.nameserver import Do53Nameserver

        resolver = DnsResolver(configure=not self._servers)
        if self._servers:
            resolver.nameservers = [Do53Nameserver(address, port) for address, port in self._servers]
        resolver.lifetime = _LIFETIME
        self._dns = resolver
        return resolver


def _seconds(answer: Answer) -> float:
    return answer.expiration - time.time()


def _read_server(text: str) -> tuple[str, int]:
    """'192.0.2.1', '192.0.2.1:53', '2001:db8::1', '[2001:db8::1]:53'. Raises ValueError."""
    host, port = text.strip(), "53"
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":") or "53"
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        number = int(port)
        if not 1 <= number <= 65535:
            raise ValueError(port)
        return str(ip_address(host)), number
    except ValueError:
        raise ValueError(
            f"{text!r} is not the address of a DNS server; right would be '192.0.2.53' or '192.0.2.53:5353'"
        ) from None
