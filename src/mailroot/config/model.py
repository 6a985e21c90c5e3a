"""The whole configuration as one value: the settings of every room, in the sections of the old property sheet.

In the file, a top-level section ([general], [access], [messages], [limits], [delivery], [domains]) holds for every
virtual server; [virtual_server.NAME.general] and so on override it for one. Without any [virtual_server.…]
there is one, named "default". [service] is about the process as a whole.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from mailroot.deliver.bounce import ReportSettings
from mailroot.deliver.drop import DropSettings
from mailroot.deliver.pool import OutboundConnections
from mailroot.deliver.route import AdvancedDelivery, RemoteDomain
from mailroot.deliver.schedule import ScheduleSettings
from mailroot.deliver.security import OutboundSecurity
from mailroot.observe.log import LogSettings
from mailroot.policy.access import AccessSettings
from mailroot.policy.limits import LimitSettings, MessageSettings
from mailroot.receive.listeners import GeneralSettings
from mailroot.units import DAY, Doc, Duration
from mailroot.web.api import ApiSettings


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The process as a whole."""

    api: Annotated[ApiSettings, Doc("The loopback API that the command line talks to.")] = field(
        default_factory=ApiSettings
    )
    log: Annotated[LogSettings, Doc("The log.")] = field(default_factory=LogSettings)


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """The Delivery tab and its three dialogs."""

    retries: Annotated[ScheduleSettings, Doc("Retry intervals, delay notification, expiration.")] = field(
        default_factory=ScheduleSettings
    )
    outbound_security: Annotated[OutboundSecurity, Doc("The Outbound Security dialog.")] = field(
        default_factory=OutboundSecurity
    )
    outbound_connections: Annotated[OutboundConnections, Doc("The Outbound Connections dialog.")] = field(
        default_factory=OutboundConnections
    )
    advanced: Annotated[AdvancedDelivery, Doc("The Advanced Delivery dialog.")] = field(
        default_factory=AdvancedDelivery
    )


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """What is kept of a message when it is finished."""

    keep: Annotated[Duration, Doc("A finished message keeps its record, without its body, for this long.")] = (
        30 * DAY
    )


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """The Domains list."""

    default: Annotated[
        str, Doc("Default local domain, appended to addresses without one. Empty: the FQDN.", example="example.com")
    ] = ""
    aliases: Annotated[
        tuple[str, ...],
        Doc("Alias local domains; their mail goes to the Drop folder too.", example='["example.org"]'),
    ] = ()
    drop: Annotated[DropSettings, Doc("The Drop folder.")] = field(default_factory=DropSettings)
    remote: Annotated[tuple[RemoteDomain, ...], Doc("Remote domains with a route of their own.")] = ()


@dataclass(frozen=True, slots=True)
class VirtualServerSettings:
    """One virtual server: the tabs of its property sheet."""

    name: str
    general: GeneralSettings = field(default_factory=GeneralSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    messages: MessageSettings = field(default_factory=MessageSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    reports: ReportSettings = field(default_factory=ReportSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    domains: DomainSettings = field(default_factory=DomainSettings)
    history: HistorySettings = field(default_factory=HistorySettings)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything. `file` is where it was read from, None for the embedded defaults; `warnings` are for people."""

    service: ServiceSettings
    virtual_servers: tuple[VirtualServerSettings, ...]
    file: Path | None = None
    warnings: tuple[str, ...] = ()
