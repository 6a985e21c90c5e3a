"""The Outbound Connections dialog: how many connections there may be, and keeping them for the next message."""

from dataclasses import dataclass
from typing import Annotated

from mailroot.units import MINUTE, Doc, Duration, Port, Range


@dataclass(frozen=True, slots=True)
class OutboundConnections:
    """The Outbound Connections dialog."""

    max_connections: Annotated[
        int, Range(least=1), Doc("Limit number of connections to, all domains together.")
    ] = 1000
    max_connections_per_domain: Annotated[
        int, Range(least=1), Doc("Limit number of connections per domain to (a smart host counts as one domain).")
    ] = 100
    max_messages_per_connection: Annotated[
        int, Range(least=0), Doc("Limit number of messages per connection to; 0: no limit.")
    ] = 20
    timeout: Annotated[Duration, Range(least=1), Doc("Give up on a next hop that is silent for this long.")] = (
        10 * MINUTE
    )
    connect_timeout: Annotated[Duration, Range(least=1), Doc("Give up on a connection not made by then.")] = 30.0
    keep_idle: Annotated[Duration, Doc("Keep an idle connection for the next message for this long.")] = 5.0
    port: Annotated[Port, Doc("TCP port of smart hosts and mail exchangers.")] = 25
    source_address: Annotated[str, Doc("Local address to connect from; empty: the system chooses.")] = ""
