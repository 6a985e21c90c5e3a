"""Who is at the other end of a session: where it comes from, what TLS, a proxy and a login say about it, and what
it may do by all that. What it may is decided in `policy`; here stands only who is asked, and in which order.
"""

import asyncio
from dataclasses import replace
from ipaddress import ip_address

from mailroot.events import ClientIntroduced
from mailroot.mail.address import Address
from mailroot.net.proxy import Introduced
from mailroot.net.stream import Stream
from mailroot.policy.auth.base import Channel
from mailroot.policy.listeners import ListenerRules, LoginKind, RequireTls
from mailroot.policy.networks import unmapped
from mailroot.policy.permissions import Grant
from mailroot.policy.visit import Accept, Decision, Hangup, Refuse, Visit
from mailroot.receive.encryption import Encryption, encrypt
from mailroot.receive.introduction import introduce
from mailroot.receive.terms import Terms
from mailroot.receive.trace import received_from, transmission
from mailroot.smtp import answers
from mailroot.smtp.commands import Mail

_LOOKUP_TIMEOUT = 5.0


class Client:
    """The client of one session."""

    __slots__ = (
        "_channel",
        "_counted",
        "_extended",
        "_grant",
        "_introducer",
        "_rules",
        "_session",
        "_standing",
        "_terms",
        "_tls",
        "_trace",
        "address",
        "visit",
    )

    def __init__(
        self,
        terms: Terms,
        rules: ListenerRules,
        session: str,
        peer: str,
        listener: str,
        introduced: Introduced | None,
    ) -> None:
        """`session` is the session's id, `peer` the IP address at the other end, `listener` the "address:port" it
        came to. `introduced` is who a proxy speaks for."""
        self._terms = terms
        self._rules = rules
        self._session = session
        # A zone such as in fe80::1%eth0 says something about our interfaces, not about the client.
        end = unmapped(ip_address(peer.partition("%")[0]))
        client = end if introduced is None else unmapped(introduced.client)
        # Who speaks here, whoever it says it speaks for.
        self._introducer = client
        self.visit = Visit(client, listener, proxy="" if introduced is None else str(end))
        self.address = str(client)
        self._tls: Encryption | None = None
        self._channel: Channel | None = None
        self._grant: Grant | None = None
        self._standing: tuple[bool, str] | None = None
        # Whether the guard counts this session as one of its client's.
        self._counted = False
        self._extended = False
        self._trace = ""

    # Who it is

    def _become(self, visit: Visit) -> None:
        """It is another than was thought, or we know more about it."""
        self.visit = visit
        self._trace = ""
        self._channel = None
        self._grant = None
        self._standing = None

    def greet(self, name: str, *, extended: bool) -> None:
        """HELO, or with `extended` EHLO."""
        self.visit = replace(self.visit, helo=name)
        self._extended = extended
        self._trace = ""

    def log_in(self, user: str, mechanism: str) -> None:
        """It has proved to be this account."""
        self._become(replace(self.visit, user=user, mechanism=mechanism))

    @property
    def may_introduce(self) -> bool:
        """Whether XCLIENT is for this client: for who speaks to us, not for whom it speaks for. Behind a PROXY
        header that is the proxy's client, for what follows the header is its word and not the proxy's."""
        trusted = self._terms.xclient
        return trusted is not None and trusted.find(self._introducer) is not None

    def introduce(self, attributes: dict[str, str]) -> None:
        """XCLIENT: it speaks for somebody else from here on, who has to be admitted anew. Raises ValueError."""
        visit = introduce(self.visit, attributes)
        self.depart()
        self._become(visit)
        self.address = str(visit.client)
        self._extended = False
        self.tell_introduction("XCLIENT")

    def tell_introduction(self, how: str) -> None:
        """Publish for whom the proxy speaks, by "PROXY" or "XCLIENT"."""
        terms = self._terms
        terms.bus.publish(ClientIntroduced(terms.server, self._session, self.visit.proxy, self.address, how))

    async def encrypt(self, stream: Stream) -> bool:
        """The TLS handshake; False: it failed, and the connection is gone. What the client said before counts no
        more (RFC 3207 §4.2); what a trusted proxy said of it does."""
        terms = self._terms
        tls = self._tls = await encrypt(stream, terms, self._rules, self._session, self.address)
        if tls is None:
            return False
        self._extended = False
        visit = replace(self.visit, helo="", tls=True)
        if visit.mechanism != "XCLIENT":
            user = (
                terms.logins.certificate_user(tls.certificate)
                if self._rules.offers(LoginKind.CERTIFICATE)
                else None
            )
            visit = replace(visit, user=user or "", mechanism="certificate" if user else "")
            if user:
                terms.guard.login_succeeded(self._session, visit.client, user, "certificate")
        self._become(visit)
        return True

    @property
    def channel(self) -> Channel:
        """How it comes, for a login."""
        channel = self._channel
        if channel is None:
            tls = self._tls
            channel = self._channel = Channel(
                self.visit.client,
                self._terms.fqdn,
                self.visit.tls,
                tls.certificate if tls is not None else None,
                tls.bindings if tls is not None else (),
            )
        return channel

    def received(self, *, smtputf8: bool) -> str:
        """The Received field up to the id (RFC 5321 §4.4)."""
        visit = self.visit
        if not self._trace:
            self._trace = received_from(visit, mark=self._terms.reverse_dns, fqdn=self._terms.fqdn)
        keyword = transmission(extended=self._extended, tls=visit.tls, login=bool(visit.user), smtputf8=smtputf8)
        return f"{self._trace} with {keyword}"

    # What it may

    async def admit(self) -> Decision:
        """Whether it may be here at all. If so it counts as one of its address's sessions, until `depart`."""
        terms = self._terms
        if terms.access.needs_name and terms.lookup is not None and self.visit.name is None:
            try:
                async with asyncio.timeout(_LOOKUP_TIMEOUT):
                    name = await terms.lookup(self.address)
            except TimeoutError:
                name = None
            self.visit = replace(self.visit, name=name)
        visit = self.visit
        decision = terms.access.may_connect(visit)
        if isinstance(decision, Accept):
            refused = terms.guard.arrive(visit.client, may_relay=terms.access.is_on_relay_list(visit))
            if refused is not None:
                return Hangup(refused.rule, refused.reply)
            self._counted = True
        return decision

    def depart(self) -> None:
        """It is gone."""
        if self._counted:
            self._counted = False
            self._terms.guard.depart(self.visit.client)

    @property
    def grant(self) -> Grant:
        """What its permissions are."""
        grant = self._grant
        if grant is None:
            grant = self._grant = self._terms.permissions.of(self.visit)
        return grant

    def may_send(self, mail: Mail) -> Refuse | None:
        """MAIL: TLS and login where they are wanted, then room on the disk, the sender, and how much. A sender that
        is to be rewritten is the intake's business, which sees From as well."""
        terms, visit, rules = self._terms, self.visit, self._rules
        if rules.require_tls is RequireTls.MAIL and not visit.tls:
            return Refuse("require_tls", answers.NEED_TLS)
        if not visit.user and (rules.require_login or not terms.anonymous):
            if terms.offer(rules).starttls and not visit.tls and not terms.logins.offered(self.channel, rules):
                # Nothing to log in with before TLS: so that is what the client has to hear.
                return Refuse("require_tls", answers.NEED_TLS)
            return Refuse("require_login" if rules.require_login else "anonymous is off", answers.NEED_LOGIN)
        if terms.disk is not None and (refused := terms.disk.refuse(mail.parameters.size or 0)) is not None:
            return refused
        grant = self.grant
        if grant.senders is not None:
            decision = grant.may_send_as(mail.sender)
            if isinstance(decision, Refuse):
                return decision
        return terms.guard.take_message(self._session, visit, grant)

    def may_send_to(self, recipient: Address) -> Decision:
        """RCPT: relay restrictions, then its permissions, then how much."""
        terms, visit, grant = self._terms, self.visit, self.grant
        standing = self._standing
        if standing is None:
            standing = self._standing = terms.access.standing(visit)
        decision = terms.access.may_relay(visit, recipient, standing)
        if not isinstance(decision, Accept):
            return decision
        if grant.recipients is not None:
            allowed = grant.may_send_to(recipient)
            if isinstance(allowed, Refuse):
                return allowed
        return terms.guard.take_recipient(self._session, visit, grant) or decision
