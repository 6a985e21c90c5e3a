"""A session's logins: AUTH from its command to the verdict (RFC 4954), and what the guard has to say about it.

What a client sends here goes to the mechanism's exchange and nowhere else: no event, no log, no text of an error
has any of it.
"""

import asyncio
from typing import assert_never

from mailroot.events import LoginUnavailable
from mailroot.mail.reply import Reply
from mailroot.policy.auth.base import Challenge, Channel, Denied, Exchange, Granted, Malformed, Unavailable
from mailroot.policy.listeners import ListenerRules
from mailroot.receive.terms import Terms
from mailroot.smtp import answers

_PAUSE = 2.0
"""Seconds that a login waits for the answer that it cannot be decided now, but no longer than a refusal may."""


class Login:
    """The logins of one session; one AUTH after the other."""

    __slots__ = ("_delay", "_exchange", "_mechanism", "_session", "_terms")

    def __init__(self, terms: Terms, session: str) -> None:
        """`session` is the session's id."""
        self._terms = terms
        self._session = session
        self._mechanism = ""
        self._exchange: Exchange | None = None
        # How long the refusal of a login waits that has failed already, and was counted.
        self._delay: float | None = None

    @property
    def mechanism(self) -> str:
        """The SASL name of the mechanism last begun."""
        return self._mechanism

    async def begin(
        self, mechanism: str, initial: bytes | None, channel: Channel, rules: ListenerRules
    ) -> Challenge | Granted | Reply:
        """AUTH. The answer is what to ask next, who the client is, or the refusal."""
        self._mechanism = mechanism
        # One that was broken off after it had failed leaves nothing behind.
        self._exchange = self._delay = None
        guard, session, client = self._terms.guard, self._session, channel.client

        def may_try(user: str) -> bool:
            return guard.may_login(session, client, user) is None

        begun = self._terms.logins.begin(mechanism, channel, rules, may_try)
        if isinstance(begun, Reply):
            return begun
        self._exchange = begun
        return await self.respond(initial, channel)

    async def respond(self, response: bytes | None, channel: Channel) -> Challenge | Granted | Reply:
        """The client's octets: to `begin`'s challenge, or to the one after."""
        exchange, self._exchange = self._exchange, None
        delay, self._delay = self._delay, None
        assert exchange is not None
        terms, guard = self._terms, self._terms.guard
        client = channel.client
        banned = guard.may_login(self._session, client, exchange.user)
        if banned is not None:
            return banned.reply
        try:
            async with asyncio.timeout(terms.login_timeout):
                step = await exchange.step(response)
        except TimeoutError:
            step = Unavailable("time-out")
        verdict = step.denied if isinstance(step, Challenge) else step
        if isinstance(verdict, Granted | Denied):
            # Some mechanisms name the account only together with the proof, and a ban may have come into force in
            # the meantime. Who is banned hears the same of a right password as of a wrong one, and as fast.
            user = verdict.user or exchange.user
            banned = guard.may_login(self._session, client, user)
            if banned is not None:
                return banned.reply
        match step:
            case Challenge(denied=denied):
                self._exchange = exchange
                if denied is not None:
                    # Counted now: a client that cancels or goes away has failed no less.
                    self._delay = guard.login_failed(self._session, client, user, self._mechanism, denied.reason)
                return step
            case Granted(user):
                guard.login_succeeded(self._session, client, user, self._mechanism)
                return step
            case Denied(reason):
                if delay is None:
                    delay = guard.login_failed(self._session, client, user, self._mechanism, reason)
                if delay > 0:
                    await terms.clock.sleep(delay)
                return answers.AUTH_FAILED
            case Malformed():
                return answers.AUTH_SYNTAX
            case Unavailable(reason):
                terms.bus.publish(
                    LoginUnavailable(terms.server, self._session, str(client), self._mechanism, reason)
                )
                # Counted as nobody's failure, so nothing else would keep a client that asks again at once from
                # asking for all of our time.
                if pause := min(_PAUSE, terms.limits.logins.longest_delay):
                    await terms.clock.sleep(pause)
                return answers.AUTH_UNAVAILABLE
            case _:
                assert_never(step)

    def cancel(self) -> None:
        """The client gave up, or nobody waits for it any more."""
        self._exchange = None
