"""The bans in force on some virtual servers, and their end before their time."""

from collections.abc import Iterable
from dataclasses import dataclass

from mailroot.operations.servers import NotFound, VirtualServer
from mailroot.policy.guard import BanKind


@dataclass(frozen=True, slots=True)
class BanStatus:
    """One ban. `who` is an IPv4 address, an IPv6 network, or an account's name as whoever failed had it; `until` in
    seconds since the epoch."""

    server: str
    who: str
    kind: BanKind
    failures: int
    until: float


def bans_of(servers: Iterable[VirtualServer]) -> list[BanStatus]:
    """All bans in force, the one that ends first in front."""
    found = [
        BanStatus(server.name, ban.who, ban.kind, ban.failures, ban.until)
        for server in servers
        for ban in server.guard.bans()
    ]
    return sorted(found, key=lambda ban: ban.until)


def lift_ban(who: str, servers: Iterable[VirtualServer]) -> int:
    """Lift the bans of an address, network or account; on how many servers there was one. Raises NotFound."""
    lifted = sum([server.guard.lift(who) for server in servers])
    if not lifted:
        raise NotFound(f"{who!r} is not banned; the ban may be over. `mailroot ban list` shows them")
    return lifted


def lift_bans(servers: Iterable[VirtualServer]) -> int:
    """Lift all bans; how many."""
    return sum(server.guard.lift(ban.who) for server in servers for ban in server.guard.bans())
