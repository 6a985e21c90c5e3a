"""Passwords guessed from one address and from many, what comes of it, and what it tells about who there is."""

import asyncio
import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from attacks.attacker import PATIENCE, Attacker, wait_for_log
from mailroot.events import Banned, LoginFailed
from mailroot.policy.auth.account_file import Account, changing_accounts
from mailroot.policy.auth.base import Challenge, Denied
from mailroot.policy.auth.passwords import hash_password
from mailroot.policy.auth.settings import AuthenticationSettings
from mailroot.policy.limits import LimitSettings, LoginLimits
from mailroot.policy.listeners import ListenerRules, RequireTls
from rig.door import Door
from rig.relay import Relay

PASSWORD = "correct horse battery"
ACCOUNTS = ("ann", "crm", "shop")
BANNED = "454 4.7.0 Too many failed logins, try again later"
DENIED = "535 5.7.3 Authentication unsuccessful."
GRANTED = "235 2.7.0 Authentication successful."


@cache
def hashed() -> str:
    return hash_password(PASSWORD)


def accounts_file(folder: Path) -> Path:
    with changing_accounts(folder / "accounts.json") as file:
        for name in ACCOUNTS:
            file.put(Account(name, hashed(), None))
    return folder / "accounts.json"


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    """Three failures are enough, and are answered at once."""
    settings: dict[str, Any] = {
        "limits": {"logins": {"failures": 3, "longest_delay": "0 s"}},
        "access": {"relay": {"list": ["127.0.0.1", "127.0.0.9"]}},
    }
    settings["access"]["authentication"] = {"accounts": str(accounts_file(tmp_path))}
    with Relay(tmp_path, settings) as relay:
        yield relay
        said = relay.said()
        assert "InternalError" not in said
        assert PASSWORD not in said and base64.b64encode(PASSWORD.encode()).decode() not in said


def guess(relay: Relay, source: str, user: str, password: str = "wrong") -> str:
    """The reply to one login over a connection of its own; the banner if it is refused."""
    with Attacker(relay.port, source) as attacker:
        if not attacker.banner.startswith("220 "):
            return attacker.banner
        assert "AUTH " in attacker.say("EHLO client.example")
        return attacker.plain(user, password)


def test_one_address_tries_many_accounts(relay: Relay) -> None:
    with Attacker(relay.port, "127.0.0.66") as attacker:
        attacker.say("EHLO client.example")
        assert [attacker.plain(user, "wrong") for user in ("ann", "crm", "nobody")] == [DENIED] * 3
        # The same connection goes on, and hears no more of any password, were it the right one.
        assert attacker.plain("shop", PASSWORD) == BANNED
        assert attacker.login("shop", PASSWORD) == [BANNED]
    assert guess(relay, "127.0.0.66", "shop", PASSWORD) == (
        "421 4.7.0 Too many failed logins from 127.0.0.66, try again later"
    )
    assert guess(relay, "127.0.0.67", "shop", PASSWORD) == GRANTED
    wait_for_log(relay, "Banned who=127.0.0.66")
    assert len(re.findall(r" LoginFailed ", relay.said())) == 3


def test_many_addresses_try_one_account(relay: Relay) -> None:
    assert guess(relay, "127.0.0.8", "crm", PASSWORD) == GRANTED  # a program of ours
    for number in range(3):
        assert guess(relay, f"127.0.0.{70 + number}", "crm") == DENIED
    assert guess(relay, "127.0.0.79", "crm") == BANNED
    assert guess(relay, "127.0.0.79", "CRM", PASSWORD) == BANNED
    assert guess(relay, "127.0.0.79", "ann", PASSWORD) == GRANTED
    # The program is not locked out.
    assert guess(relay, "127.0.0.8", "crm", PASSWORD) == GRANTED


def test_a_banned_address_that_may_relay_still_hands_in_mail(relay: Relay) -> None:
    for user in ("a", "b", "c"):
        assert guess(relay, "127.0.0.9", user) == DENIED
    with Attacker(relay.port, "127.0.0.9") as program:
        program.say("EHLO client.example")
        assert program.plain("crm", PASSWORD) == BANNED
        assert program.mail("b@relay.example").startswith("250 ")


def test_this_computer_is_never_banned_but_what_it_guesses_at_is_for_others(relay: Relay) -> None:
    for _ in range(3):
        assert guess(relay, "127.0.0.1", "ann") == DENIED
    assert guess(relay, "127.0.0.9", "ann", PASSWORD) == BANNED
    assert guess(relay, "127.0.0.1", "ann", PASSWORD) == GRANTED
    for number in range(20):
        assert guess(relay, "127.0.0.1", f"nobody{number}") == DENIED
    assert guess(relay, "127.0.0.1", "crm", PASSWORD) == GRANTED


def test_bans_are_listed_and_lifted_from_the_command_line(relay: Relay) -> None:
    for number in range(3):
        guess(relay, f"127.0.0.{70 + number}", "Crm")
        guess(relay, "127.0.0.66", f"user{number}")
    bans = relay.ask("ban", "list")["bans"]
    assert {(ban["who"], ban["kind"], ban["failures"]) for ban in bans} >= {("crm", "account", 3)}
    listed = relay.command("ban", "list").stdout
    assert re.search(r"^crm +account +3 +in [45] min +default$", listed, re.MULTILINE)
    assert relay.ask("ban", "lift", "crm") == {"lifted": 1}
    assert guess(relay, "127.0.0.79", "crm", PASSWORD) == GRANTED
    again = relay.command("ban", "lift", "crm")
    assert again.returncode == 1 and "'crm' is not banned" in again.stderr
    wait_for_log(relay, "BanLifted who=crm")
    for name in ACCOUNTS[::2]:
        for number in range(3):
            guess(relay, f"127.0.0.{80 + number}", name)
    before = len(relay.ask("ban", "list")["bans"])
    assert before >= 2
    assert relay.ask("ban", "lift", "--all") == {"lifted": before}
    assert relay.ask("ban", "list") == {"bans": []}


def test_a_reload_keeps_the_bans(relay: Relay) -> None:
    for number in range(3):
        guess(relay, f"127.0.0.{70 + number}", "crm")
    relay.ask("server", "reload")
    assert guess(relay, "127.0.0.79", "crm", PASSWORD) == BANNED


@pytest.mark.parametrize("mechanism", ["plain", "login"])
def test_who_there_is_cannot_be_read_off_the_answers(relay: Relay, mechanism: str) -> None:
    """Step for step the same replies for an account and for none, up to the ban and in it."""
    stories = []
    for network, user in ((1, "ann"), (2, "bob")):
        story: list[object] = []
        for number in range(5):
            with Attacker(relay.port, f"127.0.{network}.{number}") as attacker:
                attacker.say("EHLO client.example")
                story.append(getattr(attacker, mechanism)(user, "wrong"))
                story.append(attacker.say(f"VRFY {user}@relay.example").replace(f"{user}@", "x@"))
                story.append(attacker.say("MAIL FROM:<a@example.com>"))
                story.append(attacker.say(f"RCPT TO:<{user}@relay.example>").replace(f"{user}@", "x@"))
        stories.append(story)
    assert stories[0] == stories[1]
    assert BANNED in (stories[0][-4], *stories[0][-4]) and DENIED in (stories[0][0], *stories[0][0])


# Behind a front door whose clock the test turns


def door(folder: Path, **logins: float) -> Door:
    limits = LimitSettings(logins=LoginLimits(**logins))  # type: ignore[arg-type]
    return Door(
        limits=limits,
        authentication=AuthenticationSettings(accounts=accounts_file(folder)),
        rules=ListenerRules(require_tls=RequireTls.NO),
    )


def plain(user: str, password: str) -> bytes:
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


async def until(what: Callable[[], bool]) -> None:
    """Until it is so: passwords are checked in a thread."""
    async with asyncio.timeout(PATIENCE):
        while not what():
            await asyncio.sleep(0.001)


async def test_a_refusal_comes_later_each_time(tmp_path: Path) -> None:
    house = door(tmp_path, longest_delay=3)
    session = await house.connect("192.0.2.1")
    await session.say(b"EHLO client.example\r\n")
    for failure, delay in enumerate((0, 1, 2, 3, 3), 1):
        session.stream.data_received(plain("crm", "wrong"))
        await until(lambda failure=failure: len(house.published(LoginFailed)) == failure)  # type: ignore[misc]
        for _ in range(2 * delay):
            for _ in range(20):
                await asyncio.sleep(0)
            assert session.stream.taken() == b""
            house.clock.turn(0.5)
        await session.settle()
        assert session.stream.taken() == DENIED.encode() + b"\r\n"
    await session.leave()


async def test_guesses_over_many_connections_at_once_are_counted_together(tmp_path: Path) -> None:
    house = door(tmp_path, failures=4, longest_delay=0)
    sessions = [await house.connect("192.0.2.1") for _ in range(12)]
    for session in sessions:
        await session.say(b"EHLO client.example\r\n")
    answers = await asyncio.gather(*(session.say(plain(f"user{n}", "x")) for n, session in enumerate(sessions)))
    # What had begun when the ban came into force is refused like the rest.
    assert sorted(answers) == [f"{BANNED}\r\n".encode()] * 8 + [f"{DENIED}\r\n".encode()] * 4
    assert [event.who for event in house.published(Banned)] == ["192.0.2.1"]
    for session in sessions:
        await session.leave()


async def test_the_right_password_sounds_like_a_wrong_one_to_who_is_banned(tmp_path: Path) -> None:
    house = door(tmp_path, failures=1, longest_delay=0)
    session = await house.connect("192.0.2.1")
    await session.say(b"EHLO client.example\r\n")
    assert await session.say(plain("shop", "wrong")) == f"{DENIED}\r\n".encode()
    answers = {await session.say(plain("crm", password)) for password in (PASSWORD, "wrong")}
    answers |= {await session.say(plain("nobody", "wrong"))}
    assert answers == {f"{BANNED}\r\n".encode()}
    assert len(house.published(LoginFailed)) == 1
    await session.leave()


class RefusedToken:
    """A login by token that fails, and tells why before its end (RFC 7628 §3.2.2)."""

    user = ""
    _denied = Denied("the token has expired", "crm")

    async def step(self, response: bytes | None) -> Challenge | Denied:
        return Challenge(b"{}", self._denied) if response == b"token" else self._denied


class TokenLogins:
    """Nothing but such logins."""

    def offered(self, *_: object) -> tuple[str, ...]:
        return ("XOAUTH2",)

    def begin(self, *_: object) -> RefusedToken:
        return RefusedToken()


@pytest.mark.parametrize("end", [b"\r\n", b"*\r\n", None], ids=["answer", "cancel", "leave"])
async def test_who_hears_why_a_token_is_refused_has_failed_whatever_follows(
    tmp_path: Path, end: bytes | None
) -> None:
    house = door(tmp_path, failures=3, longest_delay=0)
    house.terms = replace(house.terms, logins=TokenLogins())  # type: ignore[arg-type]
    for failure in (1, 2, 3):
        session = await house.connect("192.0.2.1")
        await session.say(b"EHLO client.example\r\n")
        assert await session.say(b"AUTH XOAUTH2 dG9rZW4=\r\n") == b"334 e30=\r\n"
        if end is not None:
            assert (await session.say(end))[:3] in (b"535", b"501", b"454")
        await session.leave()
        failed = house.published(LoginFailed)
        assert [(event.user, event.reason) for event in failed] == [("crm", "the token has expired")] * failure
    assert {event.who for event in house.published(Banned)} == {"192.0.2.1", "crm"}
    session = await house.connect("203.0.113.9")
    await session.say(b"EHLO client.example\r\n")
    # Who is banned does not hear whether the token is good.
    assert await session.say(b"AUTH XOAUTH2 dG9rZW4=\r\n") == f"{BANNED}\r\n".encode()
    await session.leave()
