"""The Access tab: connection control and relay restrictions.

A list holds single addresses, networks and domain names (see `networks`). Whoever builds the Visit looks the
client's name up, and only where `Access.needs_name` says so.

Relay is decided by where the message goes and who the client is, in this order: a local domain is never a relay
question; a remote domain may be open to everybody; who logged in may relay, unless that is switched off; else the
list decides. The sender address plays no part.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from mailroot.mail.address import Address
from mailroot.mail.reply import Reply
from mailroot.policy.auth.settings import AuthenticationSettings
from mailroot.policy.domains import DomainPatterns, LocalDomains
from mailroot.policy.networks import ClientList, unmapped
from mailroot.policy.permissions import Permission
from mailroot.policy.visit import Accept, Decision, Hangup, IPAddress, Refuse, Visit
from mailroot.units import Doc


class Mode(StrEnum):
    """The two modes of the old dialogs."""

    ONLY = "only the list"
    EXCEPT = "all except the list"


@dataclass(frozen=True, slots=True)
class AccessList:
    """Single addresses, networks and domain names, and what being on the list means."""

    mode: Annotated[Mode, Doc("'only the list' or 'all except the list'.")]
    list: Annotated[
        tuple[str, ...],
        Doc(
            "Single addresses ('10.0.0.5', '::1'), networks ('10.0.0.0/8', '10.0.0.0/255.0.0.0') and domain names "
            "('example.com' and all below it; needs a reverse look-up of each client).",
            example='["127.0.0.1", "::1", "10.1.0.0/16"]',
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class RelayList(AccessList):
    """The Relay Restrictions dialog."""

    allow_authenticated: Annotated[
        bool, Doc("Allow all computers which successfully authenticate to relay, regardless of the list.")
    ] = True


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """The Access tab."""

    connection: Annotated[AccessList, Doc("Connection control: who may connect at all.")] = field(
        default_factory=lambda: AccessList(Mode.EXCEPT)
    )
    relay: Annotated[
        RelayList,
        Doc("Relay restrictions: who may send to domains that are not local. The sender address plays no part."),
    ] = field(default_factory=lambda: RelayList(Mode.ONLY, ("127.0.0.1", "::1")))
    reverse_dns: Annotated[
        bool,
        Doc("Look each client's name up; a name that does not fit its HELO is marked 'unverified' in Received."),
    ] = False
    authentication: Annotated[AuthenticationSettings, Doc("The Authentication dialog: who may log in.")] = field(
        default_factory=AuthenticationSettings
    )

    permissions: Annotated[
        tuple[Permission, ...],
        Doc("What accounts and networks may send: the first entry that fits a client holds; without one, all."),
    ] = ()
    proxies: Annotated[
        tuple[str, ...],
        Doc(
            "Proxies whose PROXY header is believed, on listeners with `proxy_protocol`; others are turned away.",
            example='["10.0.0.2"]',
        ),
    ] = ()
    xclient: Annotated[
        tuple[str, ...],
        Doc(
            "Clients that may say with XCLIENT for whom they speak: filters and proxies. Behind a PROXY header "
            "it is the client it names that must be on this list.",
            example='["127.0.0.1"]',
        ),
    ] = ()


class _List:
    """An AccessList, read. Answers whether a client passes and why. Raises ValueError for a bad entry."""

    __slots__ = ("_clients", "_mode", "_title")

    def __init__(self, title: str, settings: AccessList) -> None:
        self._title = title
        self._mode = settings.mode
        self._clients = ClientList(settings.list)

    @property
    def has_names(self) -> bool:
        return self._clients.has_names

    def passes(self, visit: Visit) -> tuple[bool, str]:
        """Whether the client passes, and the rule in words."""
        client = unmapped(visit.client)
        entry = self._clients.find(client, visit.name)
        listed = entry is not None
        passes = listed is (self._mode is Mode.ONLY)
        rule = f"{self._title}: {client} is {'on' if listed else 'not on'} the list"
        if entry is not None and entry != str(client):
            rule += f" as {entry}"
        if not passes or not listed:
            rule += f" ({self._mode})"
        return passes, rule


class Access:
    """Who may connect, who may relay, and which proxies are believed. Raises ValueError for a bad entry or domain.

    `relay_domains` are the remote domains (`example.com`, `*.example.com`) open for relay by everybody.
    `needs_name`: decisions (permissions' too), or the Received field, want the client's reverse DNS name in the
    Visit.
    """

    __slots__ = (
        "_allow_authenticated",
        "_connection",
        "_local",
        "_proxies",
        "_relay",
        "_relay_domains",
        "needs_name",
    )

    def __init__(self, settings: AccessSettings, local: LocalDomains, relay_domains: tuple[str, ...]) -> None:
        self._connection = _List("connection control", settings.connection)
        self._relay = _List("relay restrictions", settings.relay)
        self._local = local
        self._allow_authenticated = settings.relay.allow_authenticated
        self._relay_domains = DomainPatterns(relay_domains)
        self._proxies = ClientList(settings.proxies)
        lists = [ClientList(entry.networks) for entry in settings.permissions]
        self.needs_name: bool = (
            settings.reverse_dns
            or self._connection.has_names
            or self._relay.has_names
            or any(clients.has_names for clients in lists)
        )

    def is_proxy(self, peer: IPAddress) -> bool:
        """Whether a PROXY header of this peer is believed; it has no name yet."""
        return self._proxies.find(unmapped(peer)) is not None

    def may_connect(self, visit: Visit) -> Decision:
        """Connection control, asked before the banner."""
        passes, rule = self._connection.passes(visit)
        if passes:
            return Accept(rule)
        # RFC 5321 §3.1: 554 in place of the banner.
        client = unmapped(visit.client)
        return Hangup(rule, Reply(554, "5.7.1", f"Connections from {client} are not accepted here"))

    def standing(self, visit: Visit) -> tuple[bool, str]:
        """Whether the client may relay to any domain, by its login or by where it is, and the rule in words. It
        holds as long as the visit does."""
        if visit.user and self._allow_authenticated:
            return True, f"relay restrictions: {visit.user!r} has logged in"
        return self._relay.passes(visit)

    def may_relay(self, visit: Visit, recipient: Address, standing: tuple[bool, str] | None = None) -> Decision:
        """Relay restrictions, asked for each recipient; `standing` is the visit's, if it is known already."""
        key = recipient.domain_key
        if self._local.is_local(key):
            return Accept(f"local domain: {key}")
        pattern = self._relay_domains.find(key)
        if pattern is not None:
            return Accept(f"remote domain: {pattern} is open for relay by everybody")
        passes, rule = standing or self.standing(visit)
        if passes:
            return Accept(rule)
        return Refuse(rule, Reply(550, "5.7.1", f"Unable to relay for {recipient}"))

    def is_on_relay_list(self, visit: Visit) -> bool:
        """Whether the client may relay without a login, by where it is."""
        return self._relay.passes(visit)[0]
