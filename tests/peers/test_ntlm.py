"""NTLM by clients that people have, at a real relay with accounts of its own."""

import hashlib
import json
import os
import smtplib
import ssl
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import spnego
from spnego.channel_bindings import GssChannelBindings

from mailroot.policy.auth.account_file import Account
from mailroot.policy.auth.base import Challenge, Channel, Denied, Granted, Step
from mailroot.policy.auth.negotiate import Integrated
from mailroot.policy.auth.nt_hash import nt_hash
from mailroot.policy.auth.settings import IntegratedSettings
from rig.relay import Relay
from rig.sink import Sink

pytestmark = pytest.mark.peer

PASSWORD = "sesame, open"  # curl hashes ASCII alone as everybody does
WIDE = "Sesam, öffne dich €"
SETTINGS = {"access": {"authentication": {"integrated": {"ntlm": True}, "scram": False, "basic": False}}}
MESSAGE = b"From: <app@example.com>\r\nTo: <you@example.net>\r\nSubject: by NTLM\r\n\r\nHello\r\n"

StartRelay = Callable[..., Relay]


@pytest.fixture
def relay(start_relay: StartRelay, sink: Sink) -> Relay:
    relay = start_relay(sink.port, SETTINGS)
    for name, password, more in (
        ("jo", PASSWORD, ["--ntlm"]),
        ("Jörg", WIDE, ["--ntlm"]),
        ("nohash", PASSWORD, []),
    ):
        made = relay.command("user", "add", name, "--password-stdin", *more, input=password + "\n")
        assert made.returncode == 0, made.stderr
    return relay


def curl(relay: Relay, tmp_path: Path, user: str, password: str, *more: str) -> subprocess.CompletedProcess[str]:
    message = tmp_path / "message"
    message.write_bytes(MESSAGE)
    command = ["curl", "-sSv", f"smtp://127.0.0.1:{relay.port}", "--mail-from", "app@example.com"]
    command += ["--mail-rcpt", "you@example.net", "--upload-file", str(message), "--login-options", "AUTH=NTLM"]
    return subprocess.run(
        [*command, "--user", f"{user}:{password}", *more], capture_output=True, text=True, timeout=60
    )


def dotnet(relay: Relay, user: str, password: str, domain: str = "") -> str:
    """What becomes of a message that Microsoft's SmtpClient sends with these credentials."""
    message: dict[str, Any] = {"from": "app@example.com", "to": ["you@example.net"], "subject": "s", "body": "b"}
    order = {"host": "127.0.0.1", "port": relay.port, "user": user, "password": password, "domain": domain}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("dotnet_client.py")],
        input=json.dumps(order | {"messages": [message]}).encode(),
        capture_output=True,
        timeout=120,
        env=os.environ | {"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1", "DOTNET_CLI_TELEMETRY_OPTOUT": "1"},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return str(json.loads(done.stdout)[0])


@pytest.mark.needs("curl")
@pytest.mark.parametrize("more", [(), ("--sasl-ir",)])
def test_curl(relay: Relay, sink: Sink, tmp_path: Path, more: tuple[str, ...]) -> None:
    done = curl(relay, tmp_path, "CORP\\jo", PASSWORD, *more)
    assert done.returncode == 0, done.stderr
    assert "235 2.7.0" in done.stderr
    sink.wait(1)


@pytest.mark.needs("curl")
@pytest.mark.parametrize(
    ("user", "password"), [("jo", "guess"), ("nobody", PASSWORD), ("nohash", PASSWORD), ("jo", "")]
)
def test_curl_is_refused(relay: Relay, tmp_path: Path, user: str, password: str) -> None:
    done = curl(relay, tmp_path, user, password)
    assert done.returncode == 67, done.stderr
    assert "535 5.7.3 Authentication unsuccessful." in done.stderr


@pytest.mark.needs("swaks")
def test_swaks_knows_ntlmv1_alone_and_is_refused(relay: Relay) -> None:
    command = ["swaks", "--server", "127.0.0.1", "--port", str(relay.port), "--from", "app@example.com"]
    command += ["--to", "you@example.net", "--auth", "NTLM", "--auth-user", "jo", "--auth-password", PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "<** 535 5.7.3" in done.stdout, done.stdout + done.stderr
    relay.wait_until_said("NTLMv1")  # what is wrong with it


@pytest.mark.needs("dotnet", "gss-ntlmssp")
@pytest.mark.parametrize(
    ("user", "password", "domain"), [("jo", PASSWORD, ""), ("jo", PASSWORD, "CORP"), ("jörg", WIDE, "")]
)
def test_microsofts_client(relay: Relay, sink: Sink, user: str, password: str, domain: str) -> None:
    assert dotnet(relay, user, password, domain) == ""
    sink.wait(1)
    relay.wait_until_said("LoginSucceeded")


@pytest.mark.needs("dotnet", "gss-ntlmssp")
def test_microsofts_client_goes_on_after_a_refused_login(relay: Relay, sink: Sink) -> None:
    """It sends as nobody then: with the address in the list of who may relay, the mail passes."""
    assert dotnet(relay, "jo", "guess") == ""
    sink.wait(1)
    relay.wait_until_said("LoginFailed")
    assert "LoginSucceeded" not in relay.said()


class NoFile:
    """One account in memory."""

    has_nt_hashes = True

    def find(self, name: str) -> Account | None:
        return Account("jo", "", nt_hash=nt_hash(PASSWORD)) if name.casefold() == "jo" else None


@pytest.mark.needs("gssapi", "gss-ntlmssp")
@pytest.mark.parametrize("within_spnego", [False, True])
@pytest.mark.parametrize(
    ("binding", "password", "verdict"),
    [
        (b"", PASSWORD, Granted("jo")),
        (b"tls-unique:finished", PASSWORD, Granted("jo")),
        (b"tls-unique:another", PASSWORD, Denied("the channel binding is not that of this connection", "jo")),
        (b"", "guess", Denied("wrong password", "jo")),
    ],
)
async def test_the_systems_gssapi(within_spnego: bool, binding: bytes, password: str, verdict: Step) -> None:
    """As .NET on Linux uses it since version 7: NTLM within Negotiate, with a MIC over the mechanisms and sealed
    messages; and NTLM by itself. Older ones ask to sign alone, and then their library cannot."""
    import gssapi
    from gssapi import raw

    ntlm = gssapi.OID.from_int_seq("1.3.6.1.4.1.311.2.2.10")
    mechanism = gssapi.OID.from_int_seq("1.3.6.1.5.5.2") if within_spnego else ntlm
    name = gssapi.Name("jo", gssapi.NameType.user)
    credentials = raw.acquire_cred_with_password(name, password.encode(), usage="initiate", mechs=[mechanism]).creds
    if within_spnego:
        raw.set_neg_mechs(credentials, [ntlm])
    client: Any = gssapi.SecurityContext(
        name=gssapi.Name("SMTPSVC@relay.example", gssapi.NameType.hostbased_service),
        creds=gssapi.Credentials(base=credentials),
        usage="initiate",
        mech=mechanism,
        flags=[gssapi.RequirementFlag.integrity, gssapi.RequirementFlag.confidentiality],
        channel_bindings=raw.ChannelBindings(application_data=binding) if binding else None,
    )
    channel = Channel(ip_address("192.0.2.1"), "relay.example", tls=True, bindings=(("tls-unique", b"finished"),))
    integrated = Integrated(IntegratedSettings(ntlm=True), NoFile())
    exchange = integrated.begin("GSSAPI" if within_spnego else "NTLM", channel)
    step = await exchange.step(client.step())
    while isinstance(step, Challenge):
        if not client.complete:
            step = await exchange.step(client.step(step.octets) or b"")
        else:
            assert client.unwrap(step.octets).message == b"\1\0\0\0"
            step = await exchange.step(client.wrap(b"\1\0\0\0", True).message)
    assert step == verdict


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_channel_bindings_of_a_real_connection(
    start_relay: StartRelay, certificate: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    """The certificate's hash, as Windows binds; and what TLS 1.2 finished with, as .NET does."""
    file, key = certificate
    relay = start_relay(None, SETTINGS | {"general": {"certificates": [{"file": str(file), "key": str(key)}]}})
    assert relay.command("user", "add", "jo", "--ntlm", "--password-stdin", input=PASSWORD + "\n").returncode == 0
    end_point = b"tls-server-end-point:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read_text())).digest()
    context = ssl.create_default_context(cafile=str(file))
    context.maximum_version = version

    def log_in(binding: bytes | None) -> int:
        with smtplib.SMTP(relay.host, relay.port, timeout=30) as smtp:
            smtp.starttls(context=context)
            smtp.ehlo()
            if binding is None:
                assert isinstance(smtp.sock, ssl.SSLSocket)
                binding = b"tls-unique:" + (smtp.sock.get_channel_binding("tls-unique") or b"")
            client = spnego.client(
                spnego.NTLMHash("jo", nt_hash=nt_hash(PASSWORD).hex()),
                protocol="ntlm",
                options=spnego.NegotiateOptions.use_ntlm,
                channel_bindings=GssChannelBindings(application_data=binding) if binding else None,
            )
            code, challenge = smtp.docmd("AUTH", "NTLM " + b64encode(client.step() or b"").decode())
            assert code == 334
            return smtp.docmd(b64encode(client.step(b64decode(challenge)) or b"").decode())[0]

    assert log_in(b"") == 235
    assert log_in(end_point) == 235
    assert log_in(end_point[:-1] + b"?") == 535
    if version is ssl.TLSVersion.TLSv1_2:
        assert log_in(None) == 235
