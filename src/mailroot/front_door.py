"""The front door of a virtual server: what its sessions go by, and what of that outlives a change of its settings.

The guard's counts do, and so do logins and certificates whose settings stay as they are; the rest is made anew from
the plan. Sessions that are open keep the terms they came under.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mailroot.clock import Clock
from mailroot.events import Bus, ConfigurationWarning
from mailroot.net.certificates import Certificates, Refused
from mailroot.net.tls import CertificateError
from mailroot.plan import Plan
from mailroot.policy.auth.logins import Logins
from mailroot.policy.auth.settings import AuthenticationSettings
from mailroot.policy.disk import DiskWatch
from mailroot.policy.guard import Guard
from mailroot.policy.limits import Quota
from mailroot.queue.base import Queue
from mailroot.receive.certificate_watch import CertificateWatch
from mailroot.receive.intake import Intake
from mailroot.receive.sessions import Sessions
from mailroot.receive.terms import Terms
from mailroot.units import DAY


@dataclass(frozen=True, slots=True)
class Proofs:
    """How clients and we prove who we are: read from files, so it may fail, and is made before it is needed."""

    plan: Plan
    logins: Logins
    certificates: Certificates | None


class FrontDoor:
    """One virtual server's."""

    def __init__(self, plan: Plan, bus: Bus, clock: Clock) -> None:
        """Raises ValueError for limits that cannot be."""
        settings = plan.settings
        self._bus = bus
        self._clock = clock
        self._server = settings.name
        self._proofs: Proofs | None = None
        self._reminded = False
        self.sessions = Sessions()
        self.guard = Guard(settings.limits, bus, clock, server=settings.name)
        self.disk = DiskWatch(plan.folders.queue, settings.limits.min_free_disk, bus, clock, server=settings.name)

    @property
    def proofs(self) -> Proofs | None:
        """What is in use now; None while the virtual server is stopped."""
        return self._proofs

    @property
    def certificates(self) -> Certificates | None:
        """What TLS is served with now; None: there is none."""
        return self._proofs.certificates if self._proofs is not None else None

    async def read(self, plan: Plan) -> Proofs:
        """Make ready what a plan needs of files, or take over what there is. Raises ValueError, CertificateError;
        then nothing has changed. What is not used then is to be `dropped`."""
        old = self._proofs
        wanted, general = plan.settings.access.authentication, plan.settings.general
        same = old is not None and old.plan.settings.access.authentication == wanted and old.plan.fqdn == plan.fqdn
        # What could not be used, a keytab perhaps, may have been put right.
        if old is not None and same and not old.logins.problems and not _reads_once(wanted):
            logins = old.logins
            if old.plan.settings.general.certificates == general.certificates and old.certificates is not None:
                for result in old.certificates.refresh():
                    if isinstance(result, Refused):
                        raise CertificateError(f"{result.file}: {result.reason}")
                return Proofs(plan, logins, old.certificates)
        else:
            logins = Logins(wanted, self._clock, fqdn=plan.fqdn, bus=self._bus, server=self._server)
        try:
            return Proofs(plan, logins, plan.certificates(logins))
        except BaseException:
            if old is None or logins is not old.logins:
                await logins.close()
            raise

    async def drop(self, proofs: Proofs) -> None:
        """These are not needed after all."""
        if self._proofs is None or proofs.logins is not self._proofs.logins:
            await proofs.logins.close()

    async def remember(self, plan: Plan, queue: Queue) -> None:
        """After a start: what came in the last 24 hours counts for the limits of a day. Raises QueueError."""
        limits, permissions = plan.settings.limits, plan.settings.access.permissions
        quotas = (limits.address, limits.network, limits.account, *(entry.quota for entry in permissions))
        if self._reminded or not any(map(_is_daily, quotas)):
            return
        self._reminded = True
        self.guard.remember(await queue.arrivals(self._clock.now() - DAY), plan.permissions.of)

    def terms(self, plan: Plan, proofs: Proofs, intake: Intake) -> Terms:
        """What sessions go by from now on."""
        settings, limits = plan.settings, plan.settings.limits
        self._proofs = proofs
        self.guard.change(limits)
        self.disk.change(limits.min_free_disk)
        for problem in proofs.logins.problems:
            self._bus.publish(ConfigurationWarning(self._server, problem))
        return Terms(
            server=self._server,
            fqdn=plan.fqdn,
            default_domain=plan.local.default,
            idle_timeout=settings.general.connection_timeout,
            messages=settings.messages,
            limits=limits,
            access=plan.access,
            permissions=plan.permissions,
            logins=proofs.logins,
            guard=self.guard,
            intake=intake,
            bus=self._bus,
            clock=self._clock,
            anonymous=settings.access.authentication.anonymous,
            login_timeout=settings.access.authentication.timeout,
            certificates=proofs.certificates,
            xclient=plan.xclient,
            disk=self.disk,
            lookup=plan.resolver.name,
            reverse_dns=settings.access.reverse_dns,
        )

    def jobs(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What goes on in the background, each with its name, as long as the last terms hold."""
        jobs: list[tuple[str, Callable[[], Awaitable[None]]]] = [("disk space", self.disk.run)]
        if self.certificates is not None:
            watch = CertificateWatch(self.certificates, self._bus, self._clock, server=self._server)
            jobs.append(("certificates", watch.run))
        return jobs

    async def retire(self, proofs: Proofs) -> None:
        """Close logins that no session needs any more, once that is so."""
        await self.sessions.done_with(proofs.logins)
        await self.drop(proofs)

    async def close(self) -> None:
        """The virtual server has stopped."""
        proofs, self._proofs = self._proofs, None
        if proofs is not None:
            await proofs.logins.close()


def _reads_once(settings: AuthenticationSettings) -> bool:
    """Whether logins go by files that are read when they are made and not looked at again: authorities, and client
    certificates. A reload is how an administrator says that these have changed."""
    others = (settings.ldap, settings.oauth)
    return bool(settings.client_certificates) or any(other is not None and other.ca is not None for other in others)


def _is_daily(quota: Quota | None) -> bool:
    return quota is not None and bool(quota.messages_per_day or quota.recipients_per_day)
