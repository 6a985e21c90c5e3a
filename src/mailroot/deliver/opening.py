"""Opens connections: the hosts of a route in order, leaving alone for a moment those that were just found dead.

That moment doubles each time, and meanwhile everybody is told what the host said, or did not say, the last time.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from mailroot.deliver.connection import Connection, Fault, Manner, Trouble
from mailroot.deliver.destination import Destination
from mailroot.deliver.hosts import Host, Hosts, NoHosts
from mailroot.deliver.route import ToHosts
from mailroot.deliver.security import TlsPolicy
from mailroot.mail.reply import Reply

_FIRST_PAUSE = 2.0
LONGEST_PAUSE = 30.0
"""Seconds for which a host is left alone after it could not be connected to, at most."""
_CLEAR_FOR = 3600.0
"""Seconds for which we remember that a host's TLS does not work."""
_REMEMBERED = 10_000

NO_OTHER = Trouble(Reply(451, "4.4.1", "No other host to try"), "")

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

Open = Callable[..., Awaitable[Connection | Trouble]]
"""What `connection.open_connection` is."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """A host that could not be connected to: until when it is left alone, and what to say meanwhile."""

    until: float
    length: float
    trouble: Trouble


class Opening:
    """Opens the connections of one pool. The settings say how, `now` gives the loop's time."""

    def __init__(
        self,
        hosts: Hosts,
        open_connection: Open,
        now: Callable[[], float],
        manner: Callable[[ToHosts], Manner],
    ) -> None:
        """`manner` may raise OSError for a CA file that cannot be read."""
        self._hosts = hosts
        self._open_connection = open_connection
        self._now = now
        self._manner = manner
        self._pauses: dict[Host, _Pause] = {}
        self._clear: dict[tuple[str, Host], float] = {}

    async def open(self, destination: Destination, tried: frozenset[Host]) -> Connection | Trouble | NoHosts:
        """A connection to the first host that answers and is not in `tried`; or what the last one said."""
        route = destination.route
        try:
            manner = self._manner(route)
        except OSError as error:
            text = f"The file of certificate authorities {route.security.ca_file} cannot be used: {error}"
            return Trouble(Reply(451, "4.3.5", text), "", Fault.LOGIN)
        found = await self._hosts.find(route)
        if isinstance(found, NoHosts):
            return found
        destination.hosts = found
        trouble = NO_OTHER
        for host in found:
            if host in tried:
                continue
            pause = self._pauses.get(host)
            if pause is not None and self._now() < pause.until:
                trouble = pause.trouble
                continue
            result = await self._try(route, host, manner)
            if isinstance(result, Connection):
                self._pauses.pop(host, None)
                return result
            if result.fault is Fault.LOGIN:
                return result
            if not destination.is_alive(host):
                # One that is alive only wants no more connections.
                self._leave_alone(host, result)
            trouble = result
        return trouble

    async def _try(self, route: ToHosts, host: Host, manner: Manner) -> Connection | Trouble:
        known = (route.name, host)
        clear = self._clear.get(known, 0.0) > self._now()
        result = await self._open_connection(host, manner, clear=clear)
        opportunistic = manner.security.tls is TlsPolicy.OPPORTUNISTIC
        if isinstance(result, Trouble) and result.fault is Fault.TLS and opportunistic:
            # RFC 7435 §3: if TLS does not work, the clear is what there was to be had anyway.
            _forget_one(self._clear)
            self._clear[known] = self._now() + _CLEAR_FOR
            result = await self._open_connection(host, manner, clear=True)
        return result

    def ask_again(self) -> None:
        """Leave no host alone any longer: somebody says that it is worth a try."""
        self._pauses.clear()
        self._clear.clear()

    def _leave_alone(self, host: Host, trouble: Trouble) -> None:
        before = self._pauses.get(host)
        now = self._now()
        if before is None:
            _forget_one(self._pauses)
            self._pauses[host] = _Pause(now + _FIRST_PAUSE, _FIRST_PAUSE, trouble)
        elif before.until <= now:
            length = min(2 * before.length, LONGEST_PAUSE)
            self._pauses[host] = _Pause(now + length, length, trouble)


def _forget_one(known: dict[_Key, _Value]) -> None:
    """Make room for one more."""
    if len(known) >= _REMEMBERED:
        del known[next(iter(known))]
