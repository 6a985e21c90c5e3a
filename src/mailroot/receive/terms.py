"""What all sessions of a virtual server go by."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mailroot.clock import Clock
from mailroot.events import Bus
from mailroot.net.certificates import Certificates
from mailroot.policy.access import Access
from mailroot.policy.auth.logins import Logins
from mailroot.policy.disk import DiskWatch
from mailroot.policy.guard import Guard
from mailroot.policy.limits import BareLineEnds, LimitSettings, MessageSettings
from mailroot.policy.listeners import ListenerRules, Profile, TlsMode
from mailroot.policy.networks import ClientList
from mailroot.policy.permissions import Permissions
from mailroot.receive.intake import Intake
from mailroot.smtp.extensions import ServerOffer

Lookup = Callable[[str], Awaitable[str | None]]
"""The name of an IP address: its reverse DNS name if that leads back to the address, else None."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all sessions of a virtual server go by. `server` is its name, times are seconds.

    `anonymous`: mail is taken without a login. `certificates` None: no TLS. `xclient`: who may use XCLIENT.
    `lookup` is asked where `access.needs_name`. `reverse_dns`: a client whose name does not fit its HELO is marked
    in Received. `disk` None: free space is not watched.
    """

    server: str
    fqdn: str
    default_domain: str
    idle_timeout: float
    messages: MessageSettings
    limits: LimitSettings
    access: Access
    permissions: Permissions
    logins: Logins
    guard: Guard
    intake: Intake
    bus: Bus
    clock: Clock
    anonymous: bool = True
    login_timeout: float = 120.0
    certificates: Certificates | None = None
    xclient: ClientList | None = None
    disk: DiskWatch | None = None
    lookup: Lookup | None = None
    reverse_dns: bool = False

    def offer(self, rules: ListenerRules) -> ServerOffer:
        """What a client of a listener is offered."""
        repair = rules.repair if rules.repair is not None else self.messages.bare_line_ends is BareLineEnds.REPAIR
        return ServerOffer(
            self.default_domain,
            self.messages.max_message_size,
            self.certificates is not None and rules.tls is TlsMode.STARTTLS,
            repair,
            rules.strict,
            rules.profile is Profile.OLD_DEVICES,
        )
