"""The parts of a virtual server that follow from its settings alone: no disk, no socket, nothing that runs.

So a configuration is known to be whole before anything of it is applied; `virtual_server` sets the parts to work.
"""

import contextlib
import errno
import os
from dataclasses import dataclass

from mailroot.config.model import VirtualServerSettings
from mailroot.deliver.hosts import Hosts, Itself
from mailroot.deliver.route import Router
from mailroot.deliver.schedule import Schedule
from mailroot.net.certificates import Certificates
from mailroot.net.dns import Resolver
from mailroot.net.listener import parse_listen
from mailroot.operations import Folders
from mailroot.policy.access import Access
from mailroot.policy.auth.logins import Logins
from mailroot.policy.domains import LocalDomains
from mailroot.policy.networks import ClientList
from mailroot.policy.permissions import Permissions
from mailroot.system import make_private


@dataclass(frozen=True, slots=True)
class Plan:
    """One virtual server, thought out but not begun."""

    settings: VirtualServerSettings
    fqdn: str
    folders: Folders
    local: LocalDomains
    access: Access
    permissions: Permissions
    xclient: ClientList
    resolver: Resolver
    router: Router
    hosts: Hosts
    schedule: Schedule

    @classmethod
    def of(cls, settings: VirtualServerSettings, computer: str) -> "Plan":
        """`computer` is this computer's own name, for whom none is configured. Raises ValueError for settings that
        do not fit together."""
        fqdn = settings.general.fqdn or computer
        delivery, domains = settings.delivery, settings.domains
        local = LocalDomains(domains.default or fqdn, domains.aliases)
        open_domains = tuple(remote.name for remote in domains.remote if remote.allow_relay)
        router = Router(
            delivery.advanced,
            domains.remote,
            local,
            delivery.outbound_security,
            delivery.outbound_connections.port,
        )
        resolver = Resolver(delivery.advanced.dns_servers)
        general = settings.general
        addresses = (*general.listen, *(listener.address for listener in general.listeners))
        endpoints = [endpoint for text in addresses for endpoint in parse_listen(text)]
        itself = Itself(
            {fqdn, delivery.advanced.fqdn or fqdn}, [(endpoint.address, endpoint.port) for endpoint in endpoints]
        )
        root = settings.general.mailroot.absolute()
        return cls(
            settings,
            fqdn,
            Folders(
                root,
                root / "Pickup",
                root / "Queue",
                domains.drop.folder or root / "Drop",
                settings.reports.badmail or root / "Badmail",
            ),
            local,
            Access(settings.access, local, open_domains),
            Permissions(settings.access.permissions, local),
            ClientList(settings.access.xclient),
            resolver,
            router,
            Hosts(resolver, itself, source=delivery.outbound_connections.source_address),
            Schedule(delivery.retries),
        )

    def certificates(self, logins: Logins) -> Certificates | None:
        """What TLS is served with, read now; None: not offered. Raises CertificateError."""
        files = self.settings.general.certificates
        return Certificates(files, client_anchors=logins.client_anchors()) if files else None


def make_folders(folders: Folders) -> None:
    """What is made is for this service's account alone: there is mail in it, and whoever may write to Pickup may
    send anywhere. Whom an administrator gives a right to it later keeps it; none to the queue. Raises OSError."""
    for folder in (folders.pickup, folders.drop, folders.badmail, folders.queue):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                make_private(folder)
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            raise OSError(
                error.errno, f"cannot make the folder {folder}: {(error.strerror or str(error)).lower()}"
            ) from None
    make_private(folders.queue)
