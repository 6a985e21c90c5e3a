"""GSSAPI and NTLM, as an independent client says them, and as nobody should: NTLM with accounts of the accounts
file. Kerberos, and what is on Windows, has its tests with real peers."""

import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
import spnego
from hypothesis import given
from hypothesis import strategies as st
from spnego.channel_bindings import GssChannelBindings

from mailroot.policy.auth.account_file import Account
from mailroot.policy.auth.base import Challenge, Channel, Denied, Exchange, Granted, Malformed, Step, Unavailable
from mailroot.policy.auth.contexts import LoginRefused, LoginUndecided
from mailroot.policy.auth.negotiate import GssapiExchange, Integrated, NtlmExchange
from mailroot.policy.auth.nt_hash import nt_hash
from mailroot.policy.auth.ntlm import NtlmContext, NtlmInSpnego
from mailroot.policy.auth.settings import IntegratedSettings
from mailroot.smtp.sasl.base import SaslError
from mailroot.smtp.sasl.spnego import read_opening
from rig.changes import CHANGES, Change

pytestmark = pytest.mark.quick

BINDINGS = (("tls-unique", b"finished"), ("tls-server-end-point", b"certificate"))
CLEAR = Channel(ip_address("192.0.2.1"), "relay.example.com")
SECURE = Channel(ip_address("192.0.2.1"), "relay.example.com", tls=True, bindings=BINDINGS)


class Known:
    """Accounts in memory."""

    def __init__(self, *accounts: Account) -> None:
        self.accounts = {account.name.casefold(): account for account in accounts}

    @property
    def has_nt_hashes(self) -> bool:
        return any(account.nt_hash for account in self.accounts.values())

    def find(self, name: str) -> Account | None:
        return self.accounts.get(name.casefold())


ACCOUNTS = Known(
    Account("Jo", "", nt_hash=nt_hash("sesame")),
    Account("kim@example.com", "", nt_hash=nt_hash("open")),
    Account("kim", "", nt_hash=nt_hash("another")),
    Account("scramonly", ""),
    Account("gone", "", nt_hash=nt_hash("sesame"), disabled=True),
    Account("Jürgen", "", nt_hash=nt_hash("sésame")),
)


def ntlm(channel: Channel = CLEAR) -> NtlmExchange:
    return NtlmExchange(NtlmContext(ACCOUNTS, channel))


class _Chosen:
    """A context that is begun by its first token, as in `Integrated`, on every system."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.inner: NtlmInSpnego | None = None

    @property
    def user(self) -> str:
        return self.inner.user if self.inner is not None else ""

    @property
    def complete(self) -> bool:
        return self.inner is not None and self.inner.complete

    async def step(self, token: bytes) -> bytes:
        if self.inner is None:
            opening = read_opening(token)
            if opening is None or not opening.prefers_ntlm:
                raise SaslError("not NTLM in SPNEGO")
            self.inner = NtlmInSpnego(NtlmContext(ACCOUNTS, self.channel), opening)
        return await self.inner.step(token)

    async def wrap(self, octets: bytes) -> bytes:
        assert self.inner is not None
        return await self.inner.wrap(octets)

    async def unwrap(self, token: bytes) -> bytes:
        assert self.inner is not None
        return await self.inner.unwrap(token)


def gssapi(channel: Channel = CLEAR) -> GssapiExchange:
    return GssapiExchange(_Chosen(channel))


def client(user: str, password: str, protocol: str = "ntlm", *, binding: bytes = b"") -> spnego.ContextProxy:
    """A client that is none of ours, without the system's libraries."""
    options = spnego.NegotiateOptions.use_ntlm if protocol == "ntlm" else spnego.NegotiateOptions.use_negotiate
    credential = spnego.NTLMHash(user, nt_hash=nt_hash(password).hex())
    return spnego.client(
        credential,
        hostname="relay.example.com",
        service="SMTPSVC",
        protocol=protocol,
        options=options,
        channel_bindings=GssChannelBindings(application_data=binding) if binding else None,
    )


class ClientGaveUpError(Exception):
    """What we said did not suit the client, or it broke."""


def answer(who: spnego.ContextProxy, challenge: Challenge, layer: bytes) -> bytes:
    """The client's next token."""
    if not who.complete:
        return who.step(challenge.octets) or b""
    if challenge.skip_empty:
        assert who.unwrap(challenge.octets).data == b"\1\0\0\0"
        return who.wrap(layer).data
    if challenge.octets:
        who.step(challenge.octets)
    return b""


async def talk(
    exchange: Exchange,
    who: spnego.ContextProxy,
    *,
    layer: bytes = b"\1\0\0\0",
    meddle: Callable[[int, bytes], bytes] = lambda number, token: token,
) -> Step:
    """The whole login; `meddle` may change the client's tokens, numbered from 0, on their way."""
    token = who.step() or b""
    for number in range(8):
        step = await exchange.step(meddle(number, token))
        if not isinstance(step, Challenge):
            return step
        try:
            token = answer(who, step, layer)
        except Exception as error:
            raise ClientGaveUpError from error
    raise AssertionError("a login without end")


@pytest.mark.parametrize("exchange", [ntlm, gssapi])
@pytest.mark.parametrize(
    ("user", "password", "verdict"),
    [
        ("jo", "sesame", Granted("Jo")),
        ("JO", "sesame", Granted("Jo")),
        ("CORP\\jo", "sesame", Granted("Jo")),
        ("Jürgen", "sésame", Granted("Jürgen")),
        ("kim@example.com", "open", Granted("kim@example.com")),
        ("example.com\\kim", "open", Granted("kim@example.com")),
        ("kim", "another", Granted("kim")),
        ("jo", "Sesame", Denied("wrong password", "Jo")),
        ("jo", "", Denied("wrong password", "Jo")),
        ("nobody", "sesame", Denied("no such account", "nobody")),
        ("scramonly", "sesame", Denied("the account may not use NTLM", "scramonly")),
        ("gone", "sesame", Denied("account is disabled", "gone")),
        ("gone", "wrong", Denied("wrong password", "gone")),
    ],
)
async def test_who_gets_in(
    exchange: Callable[[], Exchange], user: str, password: str, verdict: Granted | Denied
) -> None:
    login = exchange()
    assert await talk(login, client(user, password, "ntlm" if exchange is ntlm else "negotiate")) == verdict
    assert login.user == verdict.user
    assert isinstance(await login.step(b""), Malformed), "once"


@pytest.mark.parametrize("protocol", ["ntlm", "negotiate"])
async def test_channel_bindings(protocol: str) -> None:
    def begin(channel: Channel) -> Exchange:
        return ntlm(channel) if protocol == "ntlm" else gssapi(channel)

    for name, data in BINDINGS:
        bound = client("jo", "sesame", protocol, binding=name.encode() + b":" + data)
        assert await talk(begin(SECURE), bound) == Granted("Jo")
    refused = Denied("the channel binding is not that of this connection", "Jo")
    other = b"tls-unique:of another connection"
    assert await talk(begin(SECURE), client("jo", "sesame", protocol, binding=other)) == refused
    assert await talk(begin(CLEAR), client("jo", "sesame", protocol, binding=other)) == refused
    assert await talk(begin(SECURE), client("jo", "sesame", protocol)) == Granted("Jo"), "a client that has none"


async def test_without_an_initial_response_the_client_is_told_to_begin() -> None:
    for exchange in (ntlm(), gssapi()):
        assert await exchange.step(None) == Challenge(b"")
    assert await talk(ntlm(), client("jo", "sesame")) == Granted("Jo")


@pytest.mark.parametrize(
    ("layer", "verdict"),
    [
        (b"\1\0\0\0Jo", Granted("Jo")),
        (b"\1\0\0\0jo", Granted("Jo")),
        (b"\1\0\0\0jo\0", Granted("Jo")),
        (b"\1\0\x10\0", Granted("Jo")),
        (b"\1\0\0\0kim", Denied("wants to act as somebody else", "Jo")),
        (b"\2\0\0\0", Denied("a security layer that was not offered", "Jo")),
        (b"\3\0\0\0", Denied("a security layer that was not offered", "Jo")),
        (b"\1\0\0", Malformed("no choice of a security layer")),
        (b"\1\0\0\0\xff", Malformed("a name that is not UTF-8")),
    ],
)
async def test_the_security_layer(layer: bytes, verdict: Step) -> None:
    assert await talk(gssapi(), client("jo", "sesame", "negotiate"), layer=layer) == verdict


async def test_a_replayed_login_is_none() -> None:
    said: list[bytes] = []

    def listen(number: int, token: bytes) -> bytes:
        said.append(token)
        return token

    assert await talk(ntlm(), client("jo", "sesame"), meddle=listen) == Granted("Jo")
    assert await talk(ntlm(), client("jo", "other"), meddle=lambda number, _: said[number]) == Denied(
        "wrong password", "Jo"
    )


async def test_the_list_of_mechanisms_cannot_be_changed() -> None:
    """Somebody in the middle who puts NTLM before what the client wanted is found out by the MIC."""
    kerberos, spnego_ntlm = bytes.fromhex("06092a864886f712010202"), bytes.fromhex("060a2b06010401823702020a")

    def meddle(number: int, token: bytes) -> bytes:
        if number:
            return token
        listed = b"\x30\x0c" + spnego_ntlm
        assert listed in token
        # The same length all around: another mechanism instead of none, in a list of its own.
        return token.replace(b"\xa0\x0e" + listed, b"\xa0\x19\x30\x17" + spnego_ntlm + kerberos).replace(
            bytes([0x60, token[1]]), bytes([0x60, token[1] + 11]), 1
        )

    step = await talk(gssapi(), client("jo", "sesame", "negotiate"), meddle=meddle)
    assert isinstance(step, Denied | Malformed)


MESSAGES = {"ntlm": 2, "negotiate": 4}


@pytest.mark.parametrize("protocol", ["ntlm", "negotiate"])
@given(victim=st.integers(0, 3), change=CHANGES)
async def test_changed_messages(protocol: str, victim: int, change: Change) -> None:
    """Whatever is cut, added or changed: refused, and no exception."""
    victim %= MESSAGES[protocol]
    exchange = ntlm() if protocol == "ntlm" else gssapi()
    try:
        step = await talk(
            exchange,
            client("jo", "sesame", protocol),
            meddle=lambda number, token: change.made(token) if number == victim else token,
        )
    except ClientGaveUpError:
        return
    assert isinstance(step, Denied | Malformed) or _harmless(protocol, victim)


def _harmless(protocol: str, victim: int) -> bool:
    """SPNEGO's own frames around NTLM's messages have fields that nothing covers, such as negState and hints."""
    return protocol == "negotiate" and victim < 2


@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
async def test_noise(tokens: list[bytes], by_ntlm: bool) -> None:
    exchange: Exchange = ntlm() if by_ntlm else gssapi()
    for token in tokens:
        step = await exchange.step(token)
        assert isinstance(step, Challenge | Denied | Malformed)


def test_only_what_somebody_could_use_is_listed(tmp_path: Path) -> None:
    missing = IntegratedSettings(kerberos=True, ntlm=True, keytab=tmp_path / "missing.keytab")
    integrated = Integrated(missing, ACCOUNTS)
    if os.name == "nt":
        assert integrated.problem or integrated.mechanisms == ("GSSAPI", "NTLM")
        return
    assert integrated.mechanisms == ("NTLM",)
    assert "GSSAPI is not offered" in integrated.problem
    assert Integrated(IntegratedSettings(ntlm=True), ACCOUNTS).problem == ""
    assert Integrated(IntegratedSettings(ntlm=True), Known(Account("jo", ""))).mechanisms == ()
    assert Integrated(IntegratedSettings(), ACCOUNTS).mechanisms == ()


@pytest.mark.skipif(os.name == "nt", reason="on Windows NTLM is the system's")
async def test_ntlm_as_offered() -> None:
    integrated = Integrated(IntegratedSettings(ntlm=True), ACCOUNTS)
    assert await talk(integrated.begin("NTLM", CLEAR), client("jo", "sesame")) == Granted("Jo")


class Broken:
    """A context that fails in a certain way."""

    user = "jo"
    complete = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def step(self, token: bytes) -> bytes:
        raise self.error

    async def wrap(self, octets: bytes) -> bytes:
        raise self.error

    async def unwrap(self, token: bytes) -> bytes:
        raise self.error


@pytest.mark.parametrize("exchange", [NtlmExchange, GssapiExchange])
@pytest.mark.parametrize(
    ("error", "step"),
    [
        (SaslError("form"), Malformed("form")),
        (LoginRefused("who"), Denied("who", "jo")),
        (LoginUndecided("when"), Unavailable("when")),
    ],
)
async def test_how_contexts_fail(exchange: type[NtlmExchange], error: Exception, step: Step) -> None:
    assert await exchange(Broken(error)).step(b"token") == step
