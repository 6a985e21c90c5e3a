"""What a message meets at the door, asked "what if": connection control, the listener's rules, login, sender,
recipient, and how much there may be of it. In the order of a session, and by the same rules.

Counts are not looked at, but bans and quotas in force are told. Whether an account exists and its password is right
is not for here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, assert_never

from mailroot.mail.address import Address
from mailroot.mail.header import field_values
from mailroot.operations.servers import Invalid, VirtualServer
from mailroot.policy.auth.base import Channel
from mailroot.policy.guard import read_exempt
from mailroot.policy.limits import Quota
from mailroot.policy.listeners import ListenerRules, RequireTls, TlsMode
from mailroot.policy.permissions import Grant, Rewrite
from mailroot.policy.rates import limits_of
from mailroot.policy.visit import Accept, Decision, Hangup, Refuse, Visit
from mailroot.receive.senders import Rewritten, check
from mailroot.smtp import answers

_WILDCARDS = ("0.0.0.0", "[::]")


@dataclass(frozen=True, slots=True)
class Step:
    """One decision: the question, its answer, the rule behind it, and what the client would be told ("" if nothing
    special)."""

    question: str
    answer: Literal["yes", "no", "note"]
    rule: str
    reply: str = ""


def find_listener(server: VirtualServer, text: str) -> tuple[str, ListenerRules]:
    """The listener that a client reaches at an address and port, or at a port alone; the first one for "". Raises
    Invalid."""
    listeners = server.rules
    if not text or not listeners:
        return next(iter(listeners.items()), (text, ListenerRules()))
    host, _, port = text.rpartition(":")
    for address, rules in listeners.items():
        its_host, _, its_port = address.rpartition(":")
        if port == its_port and (host in ("", "*", its_host) or its_host == _WILDCARDS[host.startswith("[")]):
            return address, rules
    raise Invalid(f"{text!r} is no listener of virtual server {server.name!r}; there are: {', '.join(listeners)}")


@dataclass(frozen=True, slots=True)
class Admission:
    """A message at the door of a virtual server. `from_header` is what its From field says, "": not asked about;
    `size` 0: not asked about."""

    server: VirtualServer
    rules: ListenerRules
    visit: Visit
    sender: Address | None
    recipient: Address
    from_header: str = ""
    size: int = 0

    def steps(self) -> Iterator[Step]:
        """What a session would meet, until the first refusal."""
        for part in (self._connection, self._encryption, self._login, self._message, self._recipient):
            for step in part():
                yield step
                if step.answer == "no":
                    return
        yield from self._amounts()

    def _connection(self) -> Iterator[Step]:
        server, visit = self.server, self.visit
        if server.access.needs_name:
            found = visit.name or "none that leads back to the address"
            yield Step("What is the client's name?", "note", f"reverse DNS: {found}")
        yield _step(f"May {visit.client} connect?", server.access.may_connect(visit))
        banned = server.guard.may_login("", visit.client, "")
        if banned is not None and not server.access.is_on_relay_list(visit):
            yield Step(
                f"May {visit.client} connect now?", "no", f"{banned.rule}; the connection is closed with 421"
            )

    def _encryption(self) -> Iterator[Step]:
        rules, visit = self.rules, self.visit
        if visit.listener:
            yield Step(
                f"What holds at {visit.listener}?", "note", _in_words(rules, offers_tls=self.server.offers_tls)
            )
        if visit.tls and not (self.server.offers_tls and rules.tls is not TlsMode.OFF):
            why = "the listener has tls = 'off'" if self.server.offers_tls else "there are no general.certificates"
            yield Step("Does it get TLS?", "no", why)
        if rules.require_tls is RequireTls.MAIL:
            question = "May it send without TLS?" if not visit.tls else "Does it have the TLS that is wanted?"
            reply = "" if visit.tls else str(answers.NEED_TLS)
            yield Step(question, "yes" if visit.tls else "no", "listener: require_tls = 'mail'", reply)

    def _login(self) -> Iterator[Step]:
        server, rules, visit = self.server, self.rules, self.visit
        if visit.user:
            channel = Channel(visit.client, server.fqdn, visit.tls)
            offered = server.mechanisms(channel, rules)
            question = f"May it log in as {visit.user}?"
            banned = server.guard.may_login("", visit.client, visit.user)
            if not offered:
                yield Step(question, "no", self._why_no_login(), str(answers.AUTH_UNKNOWN))
            elif banned is not None:
                yield _step(question, banned)
            else:
                yield Step(question, "yes", f"it is offered {', '.join(offered)}; its proof is not looked at here")
            return
        question = "May it send without a login?"
        if rules.require_login:
            yield Step(question, "no", "listener: require_login", str(answers.NEED_LOGIN))
        elif not server.anonymous:
            yield Step(question, "no", "access.authentication: anonymous is off", str(answers.NEED_LOGIN))
        else:
            yield Step(question, "yes", "access.authentication: anonymous access")

    def _why_no_login(self) -> str:
        channel = Channel(self.visit.client, self.server.fqdn, True)
        if not self.visit.tls and self.server.offers_tls and self.server.mechanisms(channel, self.rules):
            return f"listener: require_tls = '{self.rules.require_tls}'; with TLS there are logins"
        return "there is no login that this client could use at this listener"

    def _message(self) -> Iterator[Step]:
        server, sender, grant = self.server, self.sender, self._grant
        if self.size:
            most = server.max_message_size
            words = f"limit message size: {most} octets" if most else "limit message size: none"
            yield Step(f"May it have {self.size} octets?", "no" if 0 < most < self.size else "yes", words)
        yield _step(f"May it send as {sender or '<>'}?", grant.may_send_as(sender))
        if self.from_header:
            yield self._author(grant)

    def _author(self, grant: Grant) -> Step:
        question = f"May its From be {self.from_header}?"
        if grant.senders is None:
            return Step(question, "yes", f"{grant.rule}: any sender is allowed")
        match check(f"From: {self.from_header}\r\n".encode(), grant.senders):
            case None:
                return Step(question, "yes", f"{grant.rule}: allowed")
            case Refuse(rule, reply):
                return Step(question, "no", rule, str(reply))
            case Rewritten(header, _):
                (author,) = field_values(header, b"from")
                return Step(question, "note", f"{grant.rule}: From becomes {author.decode()}")

    def _recipient(self) -> Iterator[Step]:
        recipient, grant = self.recipient, self._grant
        yield _step(f"May it send to {recipient}?", self.server.access.may_relay(self.visit, recipient))
        if grant.recipients is not None:
            yield _step(f"Is {recipient} among its recipients?", grant.may_send_to(recipient))

    def _amounts(self) -> Iterator[Step]:
        limits, visit, grant = self.server.limits, self.visit, self._grant
        quotas: list[tuple[str, Quota]] = []
        if read_exempt(limits.exempt).find(visit.client) is None:
            quotas += [("limits.address", limits.address), ("limits.network", limits.network)]
        if visit.user:
            quotas.append(("limits.account", limits.account))
        if grant.quota is not None:
            quotas.append((grant.rule, grant.quota))
        for scope, quota in quotas:
            found = limits_of(quota)
            words = [f"{one.most} {one.what} in {one.period.words}" for one in (*found.messages, *found.recipients)]
            if words:
                yield Step("How much may it send?", "note", f"{scope}: {', '.join(words)}")

    @property
    def _grant(self) -> Grant:
        return self.server.permissions.of(self.visit)


def _step(question: str, decision: Decision | Rewrite) -> Step:
    match decision:
        case Accept(rule):
            return Step(question, "yes", rule)
        case Rewrite(rule):
            return Step(question, "note", rule)
        case Refuse(rule, reply):
            return Step(question, "no", rule, str(reply))
        case Hangup(rule, reply):
            return Step(question, "no", f"{rule}; the connection is closed", str(reply))
        case _:
            assert_never(decision)


def _in_words(rules: ListenerRules, *, offers_tls: bool) -> str:
    """A listener's rules on one line."""
    words = [f"profile '{rules.profile}'"]
    if rules.tls is TlsMode.OFF or not offers_tls:
        words.append("no TLS" if rules.tls is TlsMode.OFF else "no TLS, since there is no certificate")
    else:
        words.append(f"TLS {rules.min_tls} and later ({rules.tls}), wanted for {_WANTED[rules.require_tls]}")
    if rules.logins is not None:
        words.append(f"logins: {', '.join(sorted(rules.logins)) or 'none'}")
    if rules.proxy_protocol:
        words.append("behind a proxy of access.proxies")
    return "; ".join(words)


_WANTED = {
    RequireTls.NO: "nothing",
    RequireTls.PASSWORDS: "passwords",
    RequireTls.LOGIN: "logins",
    RequireTls.MAIL: "logins and mail",
}
