"""Whither? Which route a recipient's domain takes: Drop, a smart host, or the domain's own mail exchangers."""

from dataclasses import dataclass
from typing import Annotated

from mailroot.deliver.security import OutboundSecurity
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
        str, Doc("Replaces a local domain in the sender address (MAIL FROM) of outgoing mail.")
    ] = ""
    fqdn: Annotated[str, Doc("Name said in EHLO to next hops; empty: the one of the General tab.")] = ""
    dns_servers: Annotated[
        tuple[str, ...],
        Doc("DNS servers to ask, 'address' or 'address:port'; empty: the system's.", example='["127.0.0.1:53"]'),
    ] = ()


@dataclass(frozen=True, slots=True)
class RemoteDomain:
    """A remote domain of the Domains list: a route and security of its own."""

    name: Annotated[str, Doc("'example.com', or '*.example.com' for all domains below it.")]
    allow_relay: Annotated[bool, Doc("Allow incoming mail to be relayed to this domain, by everybody.")] = False
    send_helo: Annotated[bool, Doc("Send HELO instead of EHLO.")] = False
    smart_host: Annotated[
        tuple[str, ...] | None,
        Doc("Forward all mail for it to these hosts; []: use DNS; not set: as for all other domains."),
    ] = None
    port: Annotated[Port | None, Doc("TCP port, if another than the one of the Delivery tab.")] = None
    outbound_security: Annotated[
        OutboundSecurity | None, Doc("Its own outbound security; not set: the one of the Delivery tab.")
    ] = None
