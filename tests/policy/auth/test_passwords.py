"""Passwords: which are taken, argon2id itself, the bounds of the work, and what is remembered of it."""

import asyncio
import threading

import pytest

from mailroot.policy.auth.nt_hash import nt_hash
from mailroot.policy.auth.passwords import (
    NOBODYS_HASH,
    CannotCheck,
    KnownGood,
    PasswordWork,
    generate_password,
    given_password,
    hash_password,
    is_password_hash,
    new_password,
    verify_password,
)

pytestmark = pytest.mark.quick


def test_argon2id() -> None:
    hashed = hash_password("sécret")
    assert is_password_hash(hashed)
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert hashed != hash_password("sécret")
    assert verify_password(hashed, "sécret")
    assert not verify_password(hashed, "secret")


def test_nobodys_hash_is_the_same_work_and_fits_nothing() -> None:
    assert is_password_hash(NOBODYS_HASH)
    assert NOBODYS_HASH.split("$")[:4] == hash_password("x").split("$")[:4]
    assert list(map(len, NOBODYS_HASH.split("$"))) == list(map(len, hash_password("x").split("$")))
    assert not verify_password(NOBODYS_HASH, "")


def test_what_argon2_cannot_do_is_no_wrong_password() -> None:
    with pytest.raises(CannotCheck, match="argon2"):
        verify_password("$argon2id$v=19$m=1,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAA", "x")


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("", "an empty password is none"),
        ("   ", "spaces alone"),
        ("x" * 257, "a password of 257 characters; the longest is 256"),
        ("a\tb", "control characters"),
        ("\U0001f600", r"U\+1F600"),
        ("\ud800", r"U\+D800"),
    ],
)
def test_passwords_that_cannot_be(password: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        new_password(password)


def test_passwords_that_can() -> None:
    assert new_password(" two words ") == " two words "
    assert new_password("gro\u0308ße") == "größe" == given_password("gro\u0308ße")
    assert given_password("\U0001f600\ue000") == "\U0001f600\ue000"
    # In full this would be 18 characters for each, and take the time of hundreds of messages.
    assert given_password("\ufdfa" * 3000) == "\ufdfa" * 3000
    assert given_password("u\u0308" * 256) == "ü" * 256
    assert len({generate_password() for _ in range(50)}) == 50
    assert new_password(generate_password())


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        # [MS-NLMP] §4.2.2.1.1
        ("Password", "a4f49c406510bdcab6824ee7c30fd852"),
        # MD4 of nothing, RFC 1320 appendix A.5
        ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        # More than one block; as OpenSSL has it
        ("x" * 40, "2f1db8f7c89331d3d152a3823396e5cf"),
    ],
)
def test_nt_hash(message: str, digest: str) -> None:
    assert nt_hash(message).hex() == digest


async def test_no_more_at_once_than_there_is_memory_for() -> None:
    gate, running, most = threading.Event(), threading.Semaphore(0), []

    def verify(hashed: str, password: str) -> bool:
        running.release()
        assert gate.wait(30)
        most.append(password)
        return True

    work = PasswordWork(at_once=2, most_waiting=3, verify=verify)
    checks = [asyncio.create_task(work.verify("", str(n))) for n in range(5)]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(running.acquire, timeout=30)
    assert await asyncio.to_thread(running.acquire, timeout=30)
    assert not running.acquire(blocking=False)
    with pytest.raises(CannotCheck, match="too many logins at once"):
        await work.verify("", "one more")
    gate.set()
    assert await asyncio.gather(*checks) == [True] * 5
    assert sorted(most) == list("01234")
    assert await work.verify("", "and then there is room again")
    work.close()


async def test_nobody_waits_for_ever() -> None:
    gate = threading.Event()
    work = PasswordWork(at_once=1, patience=0.01, verify=lambda *_: gate.wait(30))
    for _ in range(2):
        with pytest.raises(CannotCheck, match="too many logins at once"):
            await work.verify("", "")
    gate.set()
    work.close()
    with pytest.raises(CannotCheck, match="stopping"):
        await work.verify("", "")


def test_what_is_remembered_is_bounded_and_of_this_process() -> None:
    good = KnownGood(most=2)
    one, two, three = (good.mark("hash", password) for password in ("one", "two", "three"))
    good.add(one)
    good.add(two)
    assert good.knows(one)
    good.add(three)
    assert [good.knows(mark) for mark in (one, two, three)] == [True, False, True]
    assert len(good) == 2
    assert KnownGood().mark("hash", "one") != one
    assert good.mark("another hash", "one") != one
