"""Kerberos with a realm of its own: MIT's KDC, curl and GNU SASL as in RFC 4752, and .NET's way of saying it."""

import shutil
import socket
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailroot.policy.auth.account_file import Account
from mailroot.policy.auth.base import Challenge, Channel, Denied, Exchange, Granted, Malformed, Step
from mailroot.policy.auth.negotiate import Integrated
from mailroot.policy.auth.nt_hash import nt_hash
from mailroot.policy.auth.settings import IntegratedSettings
from rig.changes import CHANGES, Change
from rig.kdc import HOST, REALM, Kdc
from rig.relay import Relay, free_port
from rig.sink import Sink

pytestmark = [pytest.mark.peer, pytest.mark.needs("kerberos")]

BINDINGS = (("tls-unique", b"finished"), ("tls-server-end-point", b"certificate"))
CLEAR = Channel(ip_address("192.0.2.1"), HOST)
SECURE = Channel(ip_address("192.0.2.1"), HOST, tls=True, bindings=BINDINGS)
MESSAGE = b"From: <app@example.com>\r\nTo: <you@example.net>\r\nSubject: by Kerberos\r\n\r\nHello\r\n"

StartRelay = Callable[..., Relay]


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    kdc = Kdc(tmp_path_factory.mktemp("realm"), free_port())
    for service in ("smtp", "SMTPSVC", "other"):
        kdc.add(f"{service}/{HOST}")
    kdc.add("jo", "sesame")
    kdc.keytab(kdc.folder / "relay.keytab", f"smtp/{HOST}", f"SMTPSVC/{HOST}")
    kdc.start()
    yield kdc
    kdc.stop()


@pytest.fixture(scope="module")
def ticket(kdc: Kdc) -> dict[str, str]:
    """The environment of programs that jo runs."""
    return kdc.log_in("jo", "sesame")


@pytest.fixture(autouse=True)
def realm(kdc: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays and libraries of this process are in the realm too; they have no ticket."""
    for name in ("KRB5_CONFIG", "KRB5CCNAME"):
        monkeypatch.setenv(name, kdc.environment[name])
    monkeypatch.delenv("KRB5_KTNAME", raising=False)


class NoAccounts:
    has_nt_hashes = False

    def find(self, name: str) -> Account | None:
        return None


class OneAccount(NoAccounts):
    has_nt_hashes = True

    def find(self, name: str) -> Account | None:
        return Account("jo", "", nt_hash=nt_hash("sesame")) if name.lower() == "jo" else None


def integrated(kdc: Kdc, keytab: str = "relay.keytab") -> Integrated:
    return Integrated(IntegratedSettings(kerberos=True, keytab=kdc.folder / keytab), NoAccounts())


class Client:
    """A client by the system's GSSAPI, with jo's ticket."""

    def __init__(
        self,
        ticket: dict[str, str],
        *,
        service: str = "smtp",
        spnego: bool = False,
        mutual: bool = False,
        binding: bytes = b"",
    ) -> None:
        import gssapi
        from gssapi.raw import ChannelBindings

        kerberos = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2")
        mechanism = gssapi.OID.from_int_seq("1.3.6.1.5.5.2") if spnego else kerberos
        flags = [gssapi.RequirementFlag.integrity] + [gssapi.RequirementFlag.mutual_authentication] * mutual
        credentials = gssapi.Credentials(usage="initiate", mechs=[kerberos], store={"ccache": ticket["KRB5CCNAME"]})
        if spnego:
            credentials = None
        self.context: Any = gssapi.SecurityContext(
            name=gssapi.Name(f"{service}@{HOST}", gssapi.NameType.hostbased_service),
            creds=credentials,
            usage="initiate",
            mech=mechanism,
            flags=flags,
            channel_bindings=ChannelBindings(application_data=binding) if binding else None,
        )

    async def talk(
        self,
        exchange: Exchange,
        *,
        layer: bytes = b"\1\0\0\0",
        meddle: Callable[[int, bytes], bytes] = lambda number, token: token,
    ) -> Step:
        token = self.context.step() or b""
        for number in range(8):
            step = await exchange.step(meddle(number, token))
            if not isinstance(step, Challenge):
                return step
            if not self.context.complete:
                token = self.context.step(step.octets) or b""
            else:
                assert self.context.unwrap(step.octets).message == b"\1\0\0\0"
                token = self.context.wrap(layer, False).message
        raise AssertionError("a login without end")


@pytest.fixture
def as_jo(ticket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process has jo's ticket."""
    monkeypatch.setenv("KRB5CCNAME", ticket["KRB5CCNAME"])
    return ticket


@pytest.mark.parametrize("service", ["smtp", "SMTPSVC"])
@pytest.mark.parametrize("spnego", [False, True])
@pytest.mark.parametrize("mutual", [False, True])
async def test_tokens(kdc: Kdc, as_jo: dict[str, str], service: str, spnego: bool, mutual: bool) -> None:
    offered = integrated(kdc)
    assert offered.mechanisms == ("GSSAPI",)
    assert offered.problem == ""
    login = offered.begin("GSSAPI", CLEAR)
    client = Client(as_jo, service=service, spnego=spnego, mutual=mutual)
    assert await client.talk(login) == Granted(f"jo@{REALM}")
    assert login.user == f"jo@{REALM}"


@pytest.mark.parametrize(
    ("layer", "verdict"),
    [
        (b"\1\0\0\0jo", Granted(f"jo@{REALM}")),
        (b"\1\0\0\0jo@" + REALM.encode(), Granted(f"jo@{REALM}")),
        (b"\1\0\0\0jo@OTHER.REALM", Denied("wants to act as somebody else", f"jo@{REALM}")),
        (b"\1\0\0\0kim", Denied("wants to act as somebody else", f"jo@{REALM}")),
        (b"\4\0\0\0", Denied("a security layer that was not offered", f"jo@{REALM}")),
        (b"\1", Malformed("no choice of a security layer")),
    ],
)
async def test_the_security_layer(kdc: Kdc, as_jo: dict[str, str], layer: bytes, verdict: Step) -> None:
    assert await Client(as_jo).talk(integrated(kdc).begin("GSSAPI", CLEAR), layer=layer) == verdict


@pytest.mark.parametrize("spnego", [False, True])
async def test_channel_bindings(kdc: Kdc, as_jo: dict[str, str], spnego: bool) -> None:
    offered = integrated(kdc)
    for name, data in BINDINGS:
        client = Client(as_jo, spnego=spnego, binding=name.encode() + b":" + data)
        assert await client.talk(offered.begin("GSSAPI", SECURE)) == Granted(f"jo@{REALM}")
    client = Client(as_jo, spnego=spnego, binding=b"tls-unique:of another connection")
    assert await client.talk(offered.begin("GSSAPI", SECURE)) == Denied(
        "the channel binding is not that of this connection"
    )
    assert await Client(as_jo, spnego=spnego).talk(offered.begin("GSSAPI", SECURE)) == Granted(f"jo@{REALM}")


async def test_a_ticket_for_somebody_else(kdc: Kdc, as_jo: dict[str, str]) -> None:
    step = await Client(as_jo, service="other").talk(integrated(kdc).begin("GSSAPI", CLEAR))
    assert isinstance(step, Denied)


async def test_who_repeats_a_token_does_not_get_in(kdc: Kdc, as_jo: dict[str, str]) -> None:
    said: list[bytes] = []

    def listen(number: int, token: bytes) -> bytes:
        said.append(token)
        return token

    offered = integrated(kdc)
    assert await Client(as_jo).talk(offered.begin("GSSAPI", CLEAR), meddle=listen) == Granted(f"jo@{REALM}")
    again = offered.begin("GSSAPI", CLEAR)
    steps = [await again.step(token) for token in said]
    assert isinstance(steps[-1], Denied)


async def test_keys_may_change_while_it_runs(kdc: Kdc, as_jo: dict[str, str]) -> None:
    kdc.add(f"changing/{HOST}")
    keytab = kdc.keytab(kdc.folder / "changing.keytab", f"changing/{HOST}")
    offered = integrated(kdc, "changing.keytab")
    keytab.unlink()
    kdc.keytab(keytab, f"changing/{HOST}")
    client = Client(as_jo, service="changing")
    assert await client.talk(offered.begin("GSSAPI", CLEAR)) == Granted(f"jo@{REALM}")


async def test_ntlm_within_negotiate_beside_kerberos(kdc: Kdc, as_jo: dict[str, str]) -> None:
    """With NTLM allowed, Kerberos still goes its way; without, nobody gets in by it."""
    import spnego

    settings_ = IntegratedSettings(kerberos=True, ntlm=True, keytab=kdc.folder / "relay.keytab")
    both = Integrated(settings_, OneAccount())
    assert both.mechanisms == ("GSSAPI", "NTLM")
    assert await Client(as_jo, spnego=True).talk(both.begin("GSSAPI", CLEAR)) == Granted(f"jo@{REALM}")

    def by_ntlm() -> spnego.ContextProxy:
        credential = spnego.NTLMHash("jo", nt_hash=nt_hash("sesame").hex())
        return spnego.client(credential, protocol="negotiate", options=spnego.NegotiateOptions.use_negotiate)

    assert isinstance(await both.begin("GSSAPI", CLEAR).step(by_ntlm().step()), Challenge)
    for token in (by_ntlm().step(), b"NTLMSSP\0\1\0\0\0\7\2\0\0" + bytes(16)):
        assert isinstance(await integrated(kdc).begin("GSSAPI", CLEAR).step(token), Denied | Malformed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(spnego=st.booleans(), mutual=st.booleans(), victim=st.integers(0, 2), change=CHANGES)
async def test_changed_tokens(
    kdc: Kdc, as_jo: dict[str, str], spnego: bool, mutual: bool, victim: int, change: Change
) -> None:
    """Whatever is cut, added or changed: an answer, and no exception."""
    import gssapi

    client = Client(as_jo, spnego=spnego, mutual=mutual)
    try:
        step = await client.talk(
            integrated(kdc).begin("GSSAPI", CLEAR),
            meddle=lambda number, token: change.made(token) if number == victim else token,
        )
    except gssapi.exceptions.GSSError:
        return  # what we answered did not suit the client any more
    assert isinstance(step, Granted | Denied | Malformed)


def test_a_keytab_that_cannot_be_used(kdc: Kdc, tmp_path: Path) -> None:
    empty = tmp_path / "empty.keytab"
    empty.write_bytes(b"\x05\x02")
    for keytab in (empty, tmp_path / "missing.keytab", tmp_path):
        offered = Integrated(IntegratedSettings(kerberos=True, keytab=keytab), NoAccounts())
        assert offered.mechanisms == ()
        assert str(keytab) in offered.problem


# At a real relay


@pytest.fixture
def relay(kdc: Kdc, start_relay: StartRelay, sink: Sink) -> Relay:
    own = {"kerberos": True, "keytab": str(kdc.folder / "relay.keytab")}
    return start_relay(sink.port, {"access": {"authentication": {"integrated": own}}})


@pytest.mark.needs("curl")
def test_curl(relay: Relay, sink: Sink, ticket: dict[str, str], tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(MESSAGE)
    command = ["curl", "-sSv", f"smtp://{HOST}:{relay.port}", "--mail-from", "app@example.com"]
    command += ["--mail-rcpt", "you@example.net", "--upload-file", str(message)]
    command += ["--login-options", "AUTH=GSSAPI", "--user", ":"]
    done = subprocess.run(command, env=ticket, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "235 2.7.0" in done.stderr
    sink.wait(1)
    relay.wait_until_said(f"user=jo@{REALM} mechanism=GSSAPI")


@pytest.mark.needs("gsasl")
def test_gnu_sasl(relay: Relay, ticket: dict[str, str], kdc: Kdc) -> None:
    command = ["gsasl", "--smtp", f"--connect={HOST}:{relay.port}", "--no-starttls", "--mechanism=GSSAPI"]
    command += ["--service=smtp", f"--hostname={HOST}", "--authentication-id=jo", "--authorization-id=jo"]
    done = subprocess.run(command, env=ticket, input="", capture_output=True, text=True, timeout=60)
    assert "235 2.7.0 Authentication successful." in done.stdout + done.stderr
    without = subprocess.run(command, env=kdc.environment, input="", capture_output=True, text=True, timeout=60)
    assert "235 " not in without.stdout + without.stderr


def test_as_dot_net_says_it(relay: Relay, as_jo: dict[str, str]) -> None:
    """Lower case, SPNEGO for SMTPSVC, and two line ends for the answer of nothing, in one packet."""
    client = Client(as_jo, service="SMTPSVC", spnego=True)
    with socket.create_connection((relay.host, relay.port), 20) as connection, connection.makefile("rb") as lines:
        assert lines.readline().startswith(b"220 ")
        connection.sendall(b"EHLO PC\r\n")
        listed = b""
        while not listed.startswith(b"250 "):
            listed = lines.readline()
            if b" AUTH " in listed or b"-AUTH " in listed:
                assert b"GSSAPI" in listed
        connection.sendall(b"AUTH gssapi " + b64encode(client.context.step()) + b"\r\n")
        final = b64decode(lines.readline().removeprefix(b"334 "))
        client.context.step(final)
        assert client.context.complete
        connection.sendall(b"\r\n\r\n")
        assert client.context.unwrap(b64decode(lines.readline().removeprefix(b"334 "))).message == b"\1\0\0\0"
        connection.sendall(b64encode(client.context.wrap(b"\1\0\0\0", False).message) + b"\r\n")
        assert lines.readline().startswith(b"235 ")
        connection.sendall(b"NOOP\r\n")
        assert lines.readline().startswith(b"250 ")


def test_what_does_not_work_is_not_listed(kdc: Kdc, start_relay: StartRelay, tmp_path: Path) -> None:
    (tmp_path / "empty.keytab").write_bytes(b"\x05\x02")
    own = {"kerberos": True, "keytab": str(tmp_path / "empty.keytab")}
    relay = start_relay(None, {"access": {"authentication": {"integrated": own}}})
    assert b"GSSAPI" not in listed(relay)
    relay.wait_until_said("GSSAPI is not offered")
    shutil.copy(kdc.folder / "relay.keytab", tmp_path / "empty.keytab")
    done = relay.command("server", "reload")
    assert done.returncode == 0, done.stderr
    assert b"GSSAPI" in listed(relay)


def listed(relay: Relay) -> bytes:
    """What EHLO is answered."""
    with socket.create_connection((relay.host, relay.port), 20) as connection, connection.makefile("rb") as lines:
        lines.readline()
        connection.sendall(b"EHLO PC\r\n")
        answer = [lines.readline()]
        while not answer[-1].startswith(b"250 "):
            answer.append(lines.readline())
    return b"".join(answer)
