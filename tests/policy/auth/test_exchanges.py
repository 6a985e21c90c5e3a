"""Each login from its first octets to its verdict, and that nobody learns who exists."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from mailroot.policy.auth import exchanges
from mailroot.policy.auth.account_file import Account, changing_accounts
from mailroot.policy.auth.accounts import AccountFile
from mailroot.policy.auth.base import (
    Challenge,
    Channel,
    Denied,
    Exchange,
    Granted,
    Malformed,
    Step,
    Unavailable,
    Verdict,
)
from mailroot.policy.auth.exchanges import ExternalExchange, LoginExchange, Passwords, PlainExchange, ScramExchange
from mailroot.policy.auth.passwords import NOBODYS_HASH, PasswordWork
from mailroot.smtp.sasl.scram import Scram, ScramPlus, Verifier

pytestmark = pytest.mark.quick

UNIQUE = ("tls-unique", b"finished")
CLEAR = Channel(ip_address("192.0.2.1"), "relay.example.com")
SECURE = Channel(ip_address("192.0.2.1"), "relay.example.com", tls=True, bindings=(UNIQUE,))


class Source:
    """A place that knows some passwords, and counts what it is asked."""

    name = "test"

    def __init__(self, known: dict[str, str], *, works: bool = True) -> None:
        self.known = known
        self.works = works
        self.asked: list[str] = []

    @property
    def has_accounts(self) -> bool:
        return bool(self.known)

    async def check(self, user: str, password: str) -> Verdict | None:
        self.asked.append(user)
        if not self.works:
            return Unavailable("away")
        if user not in self.known:
            return None
        return Granted(user.lower()) if self.known[user] == password else Denied("wrong password", user)


async def talk(exchange: Exchange, *responses: bytes | None) -> Step:
    for response in responses[:-1]:
        assert isinstance(await exchange.step(response), Challenge)
    return await exchange.step(responses[-1])


@pytest.fixture
def source() -> Source:
    return Source({"Ann": "secret"})


@pytest.fixture
def passwords(source: Source) -> Passwords:
    return Passwords([source])


async def test_plain(passwords: Passwords) -> None:
    assert await talk(PlainExchange(passwords), b"\0Ann\0secret") == Granted("ann")
    assert await talk(PlainExchange(passwords), None, b"\0Ann\0secret") == Granted("ann")
    assert await PlainExchange(passwords).step(None) == Challenge(b"")
    assert await talk(PlainExchange(passwords), b"ANN\0Ann\0secret") == Granted("ann")
    exchange = PlainExchange(passwords)
    assert await talk(exchange, b"\0Ann\0guess") == Denied("wrong password", "Ann")
    assert exchange.user == "Ann"
    assert await talk(PlainExchange(passwords), b"nonsense") == Malformed(
        "PLAIN is three texts with a NUL between them"
    )


async def test_plain_may_not_act_as_another(passwords: Passwords, source: Source) -> None:
    for user in (b"Ann", b"nobody"):
        step = await talk(PlainExchange(passwords), b"root\0" + user + b"\0secret")
        assert step == Denied("wants to act as another account", user.decode())
    assert source.asked == []


async def test_login_in_both_forms(passwords: Passwords) -> None:
    exchange = LoginExchange(passwords)
    assert await exchange.step(None) == Challenge(b"Username:")
    assert await exchange.step(b"Ann") == Challenge(b"Password:")
    assert exchange.user == "Ann"
    assert await exchange.step(b"secret") == Granted("ann")
    exchange = LoginExchange(passwords)
    assert await exchange.step(b"Ann") == Challenge(b"Password:")
    assert await exchange.step(b"guess") == Denied("wrong password", "Ann")


async def test_every_name_is_asked_for_its_password(passwords: Passwords) -> None:
    for name in (b"", b"nobody", b"\xff\0", b"x" * 5000):
        exchange = LoginExchange(passwords)
        assert await exchange.step(name) == Challenge(b"Password:")
        assert isinstance(await exchange.step(b"secret"), Denied)
        assert len(exchange.user) <= 256


async def test_an_empty_password_is_asked_of_nobody(passwords: Passwords, source: Source) -> None:
    source.known["Ann"] = ""
    assert await talk(LoginExchange(passwords), b"Ann", b"") == Denied("empty password", "Ann")
    assert source.asked == []


async def test_whoever_knows_a_user_decides_alone() -> None:
    first, second = Source({"ann": "one"}), Source({"ann": "two", "eve": "three"})
    passwords = Passwords([first, second], same_time=0.0)
    assert await passwords.check("ann", "two") == Denied("wrong password", "ann")
    assert second.asked == []
    assert await passwords.check("eve", "three") == Granted("eve")
    assert await passwords.check("nobody", "x") == Denied("no such account", "nobody")
    first.works = False
    assert await passwords.check("eve", "three") == Unavailable("away")


async def test_with_several_sources_every_refusal_takes_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(exchanges.asyncio, "sleep", sleep)
    both = Passwords([Source({"ann": "one"}), Source({"eve": "three"})], same_time=100.0)
    for user in ("ann", "eve", "nobody"):
        assert isinstance(await both.check(user, "guess"), Denied)
    assert len(waited) == 3
    assert all(99 < seconds <= 100 for seconds in waited)
    assert await both.check("ann", "one") == Granted("ann")
    alone = Passwords([Source({"ann": "one"})], same_time=100.0)
    assert isinstance(await alone.check("ann", "guess"), Denied)
    assert len(waited) == 3


async def test_external() -> None:
    assert await talk(ExternalExchange("printer7"), b"") == Granted("printer7")
    assert await talk(ExternalExchange("printer7"), None, b"") == Granted("printer7")
    assert await talk(ExternalExchange("printer7"), b"PRINTER7") == Granted("printer7")
    assert isinstance(await talk(ExternalExchange("printer7"), b"printer8"), Denied)
    assert isinstance(await talk(ExternalExchange("printer7"), b"\xff"), Malformed)


@pytest.fixture
def file(tmp_path: Path) -> AccountFile:
    with changing_accounts(tmp_path / "accounts.json") as accounts:
        for name, disabled in (("Ann", False), ("gone", True)):
            verifier = Verifier.of("secret", accounts.salt(name), 4096)
            accounts.put(Account(name, NOBODYS_HASH, verifier, None, disabled))
        accounts.put(Account("plain", NOBODYS_HASH))
    return AccountFile(tmp_path / "accounts.json")


async def scram(exchange: ScramExchange, client: Scram) -> Step:
    step = await exchange.step(client.initial())
    while isinstance(step, Challenge):
        step = await exchange.step(client.respond(step.octets))
    return step


def exchange(file: AccountFile, channel: Channel = CLEAR, *, plus: bool = False) -> ScramExchange:
    return ScramExchange(file, channel, plus=plus, plus_offered=channel.tls)


async def test_scram(file: AccountFile) -> None:
    client = Scram("ann", "secret", "nonce")
    one = exchange(file)
    assert await one.step(None) == Challenge(b"")
    assert await scram(one, client) == Granted("Ann")
    assert client.proven
    assert one.user == "Ann"


async def test_scram_plus(file: AccountFile) -> None:
    client = ScramPlus("ann", "secret", "nonce", UNIQUE)
    assert await scram(exchange(file, SECURE, plus=True), client) == Granted("Ann")
    stolen = ScramPlus("ann", "secret", "nonce", ("tls-unique", b"another"))
    assert isinstance(await scram(exchange(file, SECURE, plus=True), stolen), Denied)
    kept_from_it = Scram("ann", "secret", "nonce", could_bind=True)
    assert isinstance(await scram(exchange(file, SECURE), kept_from_it), Denied)
    assert await scram(exchange(file), Scram("ann", "secret", "nonce", could_bind=True)) == Granted("Ann")


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        ("Ann", "guess", "wrong password"),
        ("gone", "guess", "wrong password"),
        ("gone", "secret", "account is disabled"),
        ("plain", "secret", "no such account with a SCRAM verifier"),
        ("nobody", "secret", "no such account with a SCRAM verifier"),
    ],
)
async def test_scram_ends_in_the_same_place_for_everybody(
    file: AccountFile, user: str, password: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A made-up verifier tells by its count, too, if it is another than that of accounts.
    monkeypatch.setattr("mailroot.policy.auth.accounts.SCRAM_ITERATIONS", 4096)
    client = Scram(user, password, "nonce")
    one = exchange(file)
    first = await one.step(client.initial())
    assert isinstance(first, Challenge)
    assert first.octets.endswith(b",i=4096")
    assert await one.step(client.respond(first.octets)) == Denied(reason, user)


async def test_scram_that_is_none(file: AccountFile) -> None:
    assert isinstance(await exchange(file).step(b"nonsense"), Malformed)
    assert isinstance(await exchange(file).step(b"n,a=root,n=ann,r=x"), Denied)
    one = exchange(file)
    assert isinstance(await one.step(b"n,,n=ann,r=x"), Challenge)
    assert isinstance(await one.step(b"nonsense"), Malformed)
    client, two = Scram("ann", "secret", "nonce"), exchange(file)
    first = await two.step(client.initial())
    assert isinstance(first, Challenge)
    assert isinstance(await two.step(client.respond(first.octets)), Challenge)
    assert isinstance(await two.step(b"more"), Malformed)


async def test_no_exchange_shows_a_password(passwords: Passwords, file: AccountFile) -> None:
    login = LoginExchange(passwords)
    await login.step(b"Ann")
    for one in (login, PlainExchange(passwords), exchange(file), passwords, file, PasswordWork()):
        assert "secret" not in repr(one)
