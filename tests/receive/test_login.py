"""A session's logins and what the guard hears of them."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from mailroot.events import LoginFailed
from mailroot.policy.auth.base import Challenge, Channel, Denied, Step
from mailroot.policy.limits import LimitSettings, LoginLimits
from mailroot.policy.listeners import ListenerRules
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
    def begin(self, mechanism: str, channel: Channel, rules: ListenerRules) -> Any:
        token = mechanism == "XOAUTH2"
        return _Refusing("ann" if token else "bob", challenge=token)


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
