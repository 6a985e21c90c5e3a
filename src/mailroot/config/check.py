"""What settings mean, each by itself and together: addresses, names, files, and pairs that contradict each other.

A value has its type here already. What is wrong is told at the place it is written; what is allowed but probably
not meant is a warning.
"""

import errno
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from mailroot.config.check_access import check_access
from mailroot.config.check_listeners import check_listeners, collide, listening_places
from mailroot.config.check_permissions import check_permissions
from mailroot.config.model import ServiceSettings, VirtualServerSettings
from mailroot.config.quantities import format_duration, format_size
from mailroot.config.tree import Findings, Node, find, is_written
from mailroot.deliver.bounce import ReportSettings
from mailroot.deliver.route import SmartHost
from mailroot.deliver.security import OutboundSecurity, TlsPolicy, tls_context
from mailroot.mail.address import domain_key
from mailroot.mail.mailboxes import mailboxes
from mailroot.net.dns import Resolver
from mailroot.net.listener import Endpoint
from mailroot.policy.domains import read_domain, read_pattern
from mailroot.smtp.grammar import parse_mailbox


@dataclass(frozen=True, slots=True)
class Checked:
    """A virtual server's settings, and the tables they were read from."""

    settings: VirtualServerSettings
    node: Node


class Check:
    """Looks at settings, and tells `findings` what it sees."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    # The process

    def service(self, settings: ServiceSettings, node: Node) -> None:
        """The section [service]."""
        if not _is_loopback(settings.api.address):
            self._findings.error(
                find(node, "api", "address"),
                f"{settings.api.address!r} is no loopback address, and the API answers this computer alone; right "
                "would be '127.0.0.1' or '::1'",
            )
        for path, *names in ((settings.log.file, "log", "file"), (settings.api.token_file, "api", "token_file")):
            if path is not None and self._is_folder(node, names, path):
                self._findings.error(find(node, *names), f"{path} is a folder; right would be a file in it")

    # One virtual server

    def virtual_server(self, checked: Checked) -> None:
        """All of its sections."""
        settings, node = checked.settings, checked.node
        check_listeners(settings, node, self._findings)
        check_access(settings, node, self._findings)
        check_permissions(settings, node, self._findings)
        self._messages(settings, node)
        self._reports(settings.reports, node)
        self._delivery(settings, node)
        self._domains(settings, node)
        self._folders(settings, node)

    def _is_folder(self, node: Node, names: Sequence[str | int], path: Path) -> bool | None:
        """Whether it is a folder or something else; None: there is nothing, or it cannot be known."""
        try:
            return stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            self._findings.warn(find(node, *names), f"{path} cannot be looked at by this account")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self._findings.error(find(node, *names), f"{path} cannot be used: {reason}")
        return None

    def _messages(self, settings: VirtualServerSettings, node: Node) -> None:
        messages = settings.messages
        if messages.max_session_size and messages.max_session_size < messages.max_message_size:
            key = "max_session_size"
            if not is_written(node, "messages", key):
                key = "max_message_size"
            self._findings.error(
                find(node, "messages", key),
                f"a session of at most {format_size(messages.max_session_size)} (max_session_size) cannot take a "
                f"message of {format_size(messages.max_message_size)} (max_message_size); right would be "
                f'max_session_size = "{format_size(5 * messages.max_message_size)}"',
            )

    def _reports(self, reports: ReportSettings, node: Node) -> None:
        for name, text in (("copy_to", reports.copy_to), ("postmaster", reports.postmaster)):
            if text:
                self._findings.attempt(find(node, "reports", name), _mailbox, text)

    def _delivery(self, settings: VirtualServerSettings, node: Node) -> None:
        delivery, findings = settings.delivery, self._findings
        advanced, connections = delivery.advanced, delivery.outbound_connections
        section = ("delivery", "advanced")
        for n, host in enumerate(advanced.smart_host):
            self._smart_host(node, (*section, "smart_host", n), host, connections.port)
        for name, domain in (("masquerade_domain", advanced.masquerade_domain), ("fqdn", advanced.fqdn)):
            if domain:
                self._findings.attempt(find(node, *section, name), read_domain, domain)
        for n, server in enumerate(advanced.dns_servers):
            self._findings.attempt(find(node, *section, "dns_servers", n), Resolver, (server,))
        if advanced.direct_first and not advanced.smart_host:
            findings.warn(find(node, *section, "direct_first"), "has no effect without a smart_host")
        self._connections(settings, node)
        self._security(delivery.outbound_security, node, ("delivery", "outbound_security"))
        self._retries(settings, node)

    def _smart_host(self, node: Node, names: Sequence[str | int], host: str, port: int) -> None:
        self._findings.attempt(find(node, *names), SmartHost.read, host, port)

    def _connections(self, settings: VirtualServerSettings, node: Node) -> None:
        connections, findings = settings.delivery.outbound_connections, self._findings
        section = ("delivery", "outbound_connections")
        if connections.source_address:
            try:
                ip_address(connections.source_address)
            except ValueError:
                findings.error(
                    find(node, *section, "source_address"),
                    f"{connections.source_address!r} is no IP address; right would be an address of this computer, "
                    "as '192.0.2.10'",
                )
        most, each = connections.max_connections, connections.max_connections_per_domain
        if each > most and is_written(node, *section, "max_connections_per_domain"):
            findings.error(
                find(node, *section, "max_connections_per_domain"),
                f"{each} connections for one domain are more than {most} (max_connections) for all together; right "
                f"would be at most {most}",
            )

    def _security(self, security: OutboundSecurity, node: Node, section: Sequence[str | int]) -> None:
        findings = self._findings
        if security.username and not security.password and not is_written(node, *section, "password"):
            findings.error(
                find(node, *section, "username"),
                'has no password beside it; right would be password = { file = "NAME" }',
            )
        if security.password and not security.username:
            findings.error(
                find(node, *section, "password"), 'has no username beside it; right would be username = "NAME"'
            )
        if security.username and not security.login_in_the_clear:
            if security.tls is TlsPolicy.NONE:
                findings.error(
                    find(node, *section, "tls"),
                    "'none' means that the password would be sent in the clear, which login_in_the_clear does not "
                    'allow; right would be tls = "required"',
                )
            elif security.tls is TlsPolicy.OPPORTUNISTIC:
                findings.warn(
                    find(node, *section, "tls"),
                    "'opportunistic' gives the password to whoever answers, with any certificate; "
                    'better would be tls = "required"',
                )
        if security.ca_file is not None:
            try:
                tls_context(security)
                with security.ca_file.open("rb"):
                    pass
            except OSError as error:
                # OpenSSL's errors have numbers of their own.
                of_system = error.strerror if error.errno in errno.errorcode else None
                reason = of_system.lower() if of_system else "there is no certificate in it"
                findings.error(
                    find(node, *section, "ca_file"),
                    f"{security.ca_file} cannot be used: {reason}; right would be a PEM file of certificates",
                )

    def _retries(self, settings: VirtualServerSettings, node: Node) -> None:
        retries = settings.delivery.retries
        for prefix, notice, end in (
            ("", retries.delay_notification, retries.expiration),
            ("local_", retries.local_delay_notification, retries.local_expiration),
        ):
            key = f"{prefix}delay_notification"
            if notice >= end and is_written(node, "delivery", "retries", key):
                self._findings.error(
                    find(node, "delivery", "retries", key),
                    f"{format_duration(notice)} is never reached, a message being given up after "
                    f"{format_duration(end)} ({prefix}expiration); right would be less than that, or 0 for never",
                )

    def _domains(self, settings: VirtualServerSettings, node: Node) -> None:
        domains, findings = settings.domains, self._findings
        if domains.default:
            self._findings.attempt(find(node, "domains", "default"), read_domain, domains.default)
        for n, alias in enumerate(domains.aliases):
            self._findings.attempt(find(node, "domains", "aliases", n), read_pattern, alias)
        seen: set[str] = set()
        local = {domain_key(name) for name in (domains.default or settings.general.fqdn, *domains.aliases)}
        for n, remote in enumerate(domains.remote):
            where: tuple[str | int, ...] = ("domains", "remote", n)
            key = domain_key(remote.name.strip())
            if self._findings.attempt(find(node, *where, "name"), read_pattern, remote.name):
                if key in seen:
                    findings.error(find(node, *where, "name"), f"{remote.name!r} is there twice; once is right")
                if key in local:
                    findings.error(
                        find(node, *where, "name"),
                        f"{remote.name!r} is a local domain, too; right would be one of the two",
                    )
                seen.add(key)
            port = remote.port or settings.delivery.outbound_connections.port
            for m, host in enumerate(remote.smart_host or ()):
                self._smart_host(node, (*where, "smart_host", m), host, port)
            if remote.outbound_security is not None:
                self._security(remote.outbound_security, node, (*where, "outbound_security"))

    def _folders(self, settings: VirtualServerSettings, node: Node) -> None:
        for names, folder in _folders_of(settings):
            if self._is_folder(node, names, folder) is False:
                self._findings.error(find(node, *names), f"{folder} is a file; right would be a folder")
        root = settings.general.mailroot
        taken = {root / "Pickup": "the Pickup folder", root / "Queue": "the Queue folder"}
        for names, folder in _folders_of(settings)[1:]:
            if folder in taken:
                self._findings.error(
                    find(node, *names), f"{folder} is {taken[folder]}; right would be a folder of its own"
                )
            taken[folder] = f"[{'.'.join(names[:-1])}] {names[-1]}"

    # All of them together

    def together(self, all_checked: Sequence[Checked], service: ServiceSettings) -> None:
        """What may not be the same in two virtual servers: addresses and folders."""
        taken: list[tuple[Endpoint, str]] = []
        if _is_loopback(service.api.address):
            address = "127.0.0.1" if service.api.address == "localhost" else service.api.address.strip("[]")
            taken.append((Endpoint(address, service.api.port), "the API (service.api)"))
        folders: dict[Path, str] = {}
        for checked in all_checked:
            settings, node = checked.settings, checked.node
            owner = f"virtual server {settings.name!r}"
            own: list[tuple[Endpoint, str]] = []
            for listening in listening_places(settings.general):
                places = listening.endpoints
                other = next((who for one in places for there, who in taken if collide(one, there)), None)
                if other is not None:
                    self._findings.error(
                        find(node, *listening.names),
                        f"{listening.text!r} is taken by {other}; right would be another port, or an address of "
                        "its own",
                    )
                own += [(endpoint, owner) for endpoint in places]
            taken += own
            self._own_mailroot(checked, owner, folders)
        for checked in all_checked:
            self._outside_of_others(checked, all_checked)

    def _own_mailroot(self, checked: Checked, owner: str, taken: dict[Path, str]) -> None:
        """Drop and Badmail may be shared, names in them being unique; Pickup and the queue are of one server."""
        settings = checked.settings
        folder = settings.general.mailroot
        if folder in taken:
            self._findings.error(
                find(checked.node, "general", "mailroot"),
                f"{folder} belongs to {taken[folder]} already; right would be a folder of its own, as "
                f'"{folder.name}/{settings.name}"',
            )
        taken.setdefault(folder, owner)

    def _outside_of_others(self, checked: Checked, all_checked: Sequence[Checked]) -> None:
        """No folder lies in another server's Queue; and what is put into its Pickup is sent."""
        for other in all_checked:
            if other is checked:
                continue
            root, owner = other.settings.general.mailroot, f"of virtual server {other.settings.name!r}"
            for names, folder in _folders_of(checked.settings):
                where = find(checked.node, *names)
                if root / "Queue" in (folder, *folder.parents):
                    self._findings.error(
                        where, f"{folder} lies in the Queue folder {owner}; right would be a folder of its own"
                    )
                elif root / "Pickup" == folder:
                    self._findings.warn(where, f"{folder} is the Pickup folder {owner}, which sends what is in it")


def _folders_of(settings: VirtualServerSettings) -> list[tuple[tuple[str, ...], Path]]:
    """The folders that can be set, and where."""
    found: list[tuple[tuple[str, ...], Path]] = [(("general", "mailroot"), settings.general.mailroot)]
    if settings.domains.drop.folder is not None:
        found.append((("domains", "drop", "folder"), settings.domains.drop.folder))
    if settings.reports.badmail is not None:
        found.append((("reports", "badmail"), settings.reports.badmail))
    return found


def _mailbox(text: str) -> None:
    """Raises ValueError for what is not one address, with or without display name and domain."""
    found = mailboxes(text.encode())
    if len(found) > 1:
        raise ValueError(f"{text!r} are {len(found)} addresses; right would be one, perhaps that of a group")
    parse_mailbox(found[0] if found else text, "example.com")


def _is_loopback(address: str) -> bool:
    if address.lower() == "localhost":
        return True
    try:
        return ip_address(address.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
