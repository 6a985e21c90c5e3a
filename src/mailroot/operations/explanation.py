"""What would become of a message: the same rules and routes that the mail itself meets, asked "what if".

Nothing is sent or stored; the only thing that goes out is DNS look-ups, all within one deadline.
"""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address

from mailroot.deliver.hosts import Host, NoHosts
from mailroot.deliver.route import Route, ToDrop, ToHosts
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.mail.address import Address
from mailroot.mail.header import printable
from mailroot.mail.reply import Reply
from mailroot.operations.admission import Admission, Step, find_listener
from mailroot.operations.servers import Invalid, ServerState, VirtualServer
from mailroot.policy.listeners import TlsMode
from mailroot.policy.networks import unmapped
from mailroot.policy.permissions import Rewrite
from mailroot.policy.visit import IPAddress, Visit
from mailroot.smtp.grammar import parse_mailbox

_LOOKUP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Question:
    """A message that somebody might send. `size` 0: not asked about. `user`: as if logged in, "": not.
    `from_header`: what its From field says, "": not asked about. `listener`: the address and port it comes to, or
    the port alone; "": the first one."""

    sender: str
    recipient: str
    client: str = "127.0.0.1"
    helo: str = ""
    tls: bool = False
    size: int = 0
    user: str = ""
    from_header: str = ""
    listener: str = ""


@dataclass(frozen=True, slots=True)
class NextHop:
    """An address that would be tried, in this order. `name` is "" for a host that is known by its address only;
    `login` is "" where none is made; `fallback`: it is tried only if the route before it fails for now."""

    name: str
    address: str
    port: int
    tls: str
    login: str
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer. `accepted`: the message would be taken; `route` in words; `result` is the last word, as a
    sentence."""

    server: str
    sender: str
    recipient: str
    client: str
    client_name: str
    listener: str
    user: str
    steps: tuple[Step, ...]
    accepted: bool
    route: str
    hosts: tuple[NextHop, ...]
    result: str


async def explain(server: VirtualServer, question: Question) -> Explanation:
    """Ask every rule in the order in which the mail meets them. Raises Invalid."""
    client = _client(question.client)
    sender = _address(question.sender, server) if question.sender.strip() not in ("", "<>") else None
    recipient = _address(question.recipient, server)
    name = await _client_name(server, client)
    listener, rules = find_listener(server, question.listener.strip())
    tls = question.tls or rules.tls is TlsMode.IMPLICIT
    visit = Visit(client, listener, name, question.helo, tls, _line(question.user))
    author = _line(question.from_header)

    steps = [_open(server), *Admission(server, rules, visit, sender, recipient, author, question.size).steps()]
    route = server.router.route(recipient)
    hosts: tuple[NextHop, ...] = ()
    accepted = all(step.answer != "no" for step in steps)
    if accepted:
        steps.append(Step("Which route does it take?", "note", route.describe()))
        steps += _masquerade(server, _rewritten(server, visit, sender))
        if isinstance(route, ToHosts):
            hosts, trouble = await _hosts(server, route)
            steps += trouble
    return Explanation(
        server=server.name,
        sender=str(sender or ""),
        recipient=str(recipient),
        client=str(client),
        client_name=name or "",
        listener=listener,
        user=visit.user,
        steps=tuple(steps),
        accepted=accepted,
        route=route.describe(),
        hosts=hosts,
        result=_result(server, steps, route, hosts),
    )


def _line(text: str) -> str:
    if not text.isprintable():
        raise Invalid(f"{printable(text)!r} has line ends or other control characters")
    return text.strip()


def _client(text: str) -> IPAddress:
    try:
        return unmapped(ip_address(text.strip()))
    except ValueError:
        raise Invalid(
            f"{text!r} is not the address of a client; right would be '192.0.2.5' or '2001:db8::5'"
        ) from None


def _address(text: str, server: VirtualServer) -> Address:
    try:
        return parse_mailbox(text, server.local.default)
    except ValueError as error:
        raise Invalid(str(error)) from None


async def _client_name(server: VirtualServer, client: IPAddress) -> str | None:
    if not server.access.needs_name:
        return None
    try:
        async with asyncio.timeout(_LOOKUP_SECONDS):
            return await server.resolver.name(str(client))
    except TimeoutError:
        return None


def _open(server: VirtualServer) -> Step:
    question = f"Is virtual server {server.name} open?"
    if server.state is ServerState.STARTED and server.listeners:
        return Step(question, "yes", f"it listens on {', '.join(server.listeners)}")
    trouble = f": {server.trouble}" if server.trouble else ""
    return Step(question, "no", f"it is {server.state}{trouble}")


# On the way out


def _rewritten(server: VirtualServer, visit: Visit, sender: Address | None) -> Address | None:
    decision = server.permissions.of(visit).may_send_as(sender)
    return decision.sender if isinstance(decision, Rewrite) else sender


def _masquerade(server: VirtualServer, sender: Address | None) -> list[Step]:
    outside = server.router.sender(sender)
    if outside == sender:
        return []
    return [Step("Which sender does the next hop see?", "note", f"masquerade domain: {outside}")]


async def _hosts(server: VirtualServer, route: ToHosts) -> tuple[tuple[NextHop, ...], list[Step]]:
    """The addresses in order, and what stands in the way of finding any."""
    found: list[NextHop] = []
    steps: list[Step] = []
    fallback = False
    leg: ToHosts | None = route
    while leg is not None:
        match await _find(server, leg):
            case NoHosts(reply, final):
                steps.append(Step("Which hosts are there?", "note", str(reply)))
                if final:
                    break
            case hosts:
                tls, login = _tls(leg.security), leg.security.username
                found += [NextHop(host.name, host.address, host.port, tls, login, fallback) for host in hosts]
        leg, fallback = leg.fallback, True
    return tuple(found), steps


async def _find(server: VirtualServer, route: ToHosts) -> tuple[Host, ...] | NoHosts:
    try:
        async with asyncio.timeout(_LOOKUP_SECONDS):
            return await server.hosts.find(route)
    except TimeoutError:
        return NoHosts(Reply(451, "4.4.3", f"no answer from DNS within {_LOOKUP_SECONDS:.0f} seconds"))


def _tls(security: OutboundSecurity) -> str:
    return {
        TlsPolicy.NONE: "none",
        TlsPolicy.OPPORTUNISTIC: "if offered",
        TlsPolicy.REQUIRED: "required",
        TlsPolicy.IMPLICIT: "from the start",
    }[security.tls]


def _result(server: VirtualServer, steps: list[Step], route: Route, hosts: tuple[NextHop, ...]) -> str:
    refusal = next((step for step in steps if step.answer == "no"), None)
    if refusal is not None:
        return f"It would be refused: {refusal.rule}."
    if isinstance(route, ToDrop):
        return f"It would be taken, and put into {server.folders.drop}."
    if hosts:
        host = hosts[0].name or f"[{hosts[0].address}]"
        return f"It would be taken, and handed to {host}, port {hosts[0].port}, at once."
    trouble = steps[-1].rule
    if trouble.startswith("5"):
        return f"It would be taken, but the sender would get a failure report: {trouble}"
    return f"It would be taken, and tried again for {_days(server.expiration)} until this is put right: {trouble}"


def _days(seconds: float) -> str:
    return f"{seconds / 86400:g} days" if seconds >= 2 * 86400 else f"{seconds / 3600:g} hours"
