"""A session's logins and what the guard hears of them."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from mailroot.events import LoginFailed
from mailroot.mail.reply import Reply
from mailroot.policy.auth.base import Challenge, Channel, Denied, Granted, Step, Unavailable, Verdict
from mailroot.policy.auth.exchanges import Passwords
from mailroot.policy.limits import LimitSettings, LoginLimits
from mailroot.policy.listeners import ListenerRules, RequireTls
from mailroot.receive.login import Login
from mailroot.smtp import answers
from rig.door import FQDN, Door

pytestmark = pytest.mark.quick

_CHANNEL = Channel(ip_address("192.0.2.7"), FQDN)


class _Refusing:
    """An exchange that refuses: with a challenge first, as tokens are, or at once, as passwords are."""

    def __init__(self, user: str, *, challenge: bool) -> None:
        self.user = user
        self._denied = Denied("wrong", user)
        self._challenge = challenge

    async def step(self, response: bytes | None) -> Step:
        if self._challenge:
            self._challenge = False
            return Challenge(b"why", denied=self._denied)
        return self._denied


class _Logins:
    def begin(self, mechanism: str, channel: Channel, rules: ListenerRules, may_try: Any) -> Any:
        token = mechanism == "XOAUTH2"
        return _Refusing("ann" if token else "bob", challenge=token)


async def test_the_password_for_a_banned_account_is_not_looked_at() -> None:
    """Or how long the refusal takes would tell a right one, of which no second check is made, from a wrong one."""
    door = Door(limits=LimitSettings(logins=LoginLimits(failures=1, longest_delay=0)))
    asked: list[str] = []

    class Source:
        name = "test"
        has_accounts = True

        async def check(self, user: str, password: str) -> Verdict | None:
            asked.append(user)
            return Granted(user) if password == "right" else Denied("wrong password", user)

    logins = door.logins
    logins._passwords = Passwords((Source(),))
    login = Login(door.terms, "1")
    rules = ListenerRules(require_tls=RequireTls.NO)
    assert await login.begin("PLAIN", b"\0ann\0wrong", _CHANNEL, rules) == answers.AUTH_FAILED
    assert asked == ["ann"]
    elsewhere = Channel(ip_address("192.0.2.8"), FQDN)
    for password in (b"right", b"wrong"):
        refused = await login.begin("PLAIN", b"\0Ann\0" + password, elsewhere, rules)
        assert isinstance(refused, Reply)
        assert refused.code == 454
        assert await login.begin("LOGIN", b"ann", elsewhere, rules) == Challenge(b"Password:")
        assert await login.respond(password, elsewhere) == refused
    assert asked == ["ann"]
    assert await login.begin("PLAIN", b"\0bob\0right", elsewhere, rules) == Granted("bob")


async def test_a_login_that_cannot_be_checked_is_not_asked_for_again_at_once() -> None:
    class Exchange:
        user = "ann"

        async def step(self, response: bytes | None) -> Step:
            return Unavailable("too many logins at once")

    class Logins:
        def begin(self, *_: Any) -> Any:
            return Exchange()

    for limits, waits in ((LimitSettings(), True), (LimitSettings(logins=LoginLimits(longest_delay=0)), False)):
        door = Door(limits=limits)
        login = Login(replace(door.terms, logins=Logins()), "1")
        answer = asyncio.ensure_future(login.begin("PLAIN", b"", _CHANNEL, ListenerRules()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert answer.done() is not waits
        door.clock.turn(2.0)
        assert await answer == answers.AUTH_UNAVAILABLE
        assert not door.published(LoginFailed)


async def test_a_failure_that_was_cancelled_does_not_cover_the_next_one() -> None:
    door = Door(limits=LimitSettings(logins=LoginLimits(longest_delay=0)))
    login = Login(replace(door.terms, logins=_Logins()), "1")
    rules = ListenerRules()
    # Told by a challenge: counted then, and not once more with the answer to it.
    assert isinstance(await login.begin("XOAUTH2", b"", _CHANNEL, rules), Challenge)
    assert await login.respond(b"", _CHANNEL) == answers.AUTH_FAILED
    assert [failed.user for failed in door.published(LoginFailed)] == ["ann"]
    # Broken off in place of the answer, by "*" or by a line that is none.
    for cancelled in (True, False):
        assert isinstance(await login.begin("XOAUTH2", b"", _CHANNEL, rules), Challenge)
        if cancelled:
            login.cancel()
        assert await login.begin("PLAIN", b"", _CHANNEL, rules) == answers.AUTH_FAILED
    assert [failed.user for failed in door.published(LoginFailed)] == ["ann", "ann", "bob", "ann", "bob"]
