"""The listeners of a virtual server as an administrator sees them: what holds at each for whoever connects now."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from mailroot.operations.servers import VirtualServer
from mailroot.policy.auth.base import Channel
from mailroot.policy.listeners import ListenerRules, Profile, RequireTls, TlsMode

_SOMEBODY = ip_address("192.0.2.1")  # RFC 5737: nobody's, and no loopback


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """A listener. `address` is with the port really bound. `tls` is "off" also where there is no certificate; then
    `certificate_ends` is None, otherwise it is when the first of the certificates in use ends. `mechanisms` are
    those that a client is offered, over TLS where that can be had; where the listener is not for this computer
    alone, a client from elsewhere. `login`: "none" where nobody can log in."""

    address: str
    profile: Profile
    tls: TlsMode
    min_tls: str
    require_tls: RequireTls
    login: Literal["required", "offered", "none"]
    mechanisms: tuple[str, ...]
    proxy_protocol: bool
    certificate_ends: float | None


def listeners_of(server: VirtualServer) -> tuple[ListenerStatus, ...]:
    """Where it accepts connections now, in its order."""
    rules = server.rules
    ends = None
    if server.certificates is not None:
        ends = min((certificate.ends for certificate in server.certificates.shown()), default=None)
    return tuple(
        _status(server, address, rules.get(address, ListenerRules()), ends) for address in server.listeners
    )


def _status(server: VirtualServer, address: str, rules: ListenerRules, ends: float | None) -> ListenerStatus:
    tls = rules.tls if server.offers_tls else TlsMode.OFF
    here = ip_address(address.rpartition(":")[0].strip("[]").partition("%")[0])
    client = here if here.is_loopback else _SOMEBODY
    mechanisms = tuple(server.mechanisms(Channel(client, server.fqdn, tls is not TlsMode.OFF), rules))
    login: Literal["required", "offered", "none"] = "offered" if mechanisms else "none"
    if rules.require_login or not server.anonymous:
        login = "required"
    return ListenerStatus(
        address=address,
        profile=rules.profile,
        tls=tls,
        min_tls=rules.min_tls.value,
        require_tls=rules.require_tls,
        login=login,
        mechanisms=mechanisms,
        proxy_protocol=rules.proxy_protocol,
        certificate_ends=ends if tls is not TlsMode.OFF else None,
    )
