"""TLS and logins to a next hop, with certificates good and bad."""

import base64
import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailroot.deliver.security import OutboundSecurity, TlsPolicy, tls_context
from mailroot.events import RecipientDeferred, RecipientDelivered
from rig.delivery import Delivery, Names, address
from rig.next_hop import DROP, NextHop

TEXT = b"Subject: x\r\n\r\nhello\r\n"
NAMES = Names(addresses={"hop.example": ["127.0.0.1"]})
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
TLS = ("PIPELINING", "STARTTLS", "AUTH PLAIN LOGIN")
USERS = {"relay": "hush-hush"}


@dataclass
class Authority:
    """Signs certificates; `file` is its own."""

    folder: Path

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        self._made = 0
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 10 * DAY)
            .not_valid_after(NOW + 10 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = self.folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(
        self, *names: str, expired: bool = False, self_signed: bool = False, most: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """A server's context with a certificate for these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
            for name in names
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 5 * DAY)
            .not_valid_after(NOW + (-DAY if expired else 5 * DAY))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        )
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        self._made += 1
        file = self.folder / f"server{self._made}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        if most is not None:
            context.maximum_version = most
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def security(
    tls: TlsPolicy, authority: Authority | None = None, username: str = "", password: str = "", **more: bool
) -> OutboundSecurity:
    return OutboundSecurity(
        username=username, password=password, tls=tls, ca_file=authority and authority.file, **more
    )


def delivery(tmp_path: Path, hop: NextHop, how: OutboundSecurity, *, by_name: bool = True) -> Delivery:
    host = f"hop.example:{hop.port}" if by_name else f"[127.0.0.1]:{hop.port}"
    return Delivery(tmp_path, host, names=NAMES, security=how)


async def delivered(out: Delivery) -> None:
    async with out.running():
        await out.send(TEXT, "a@example.net")
        await out.until(lambda: bool(out.seen(RecipientDelivered) or out.seen(RecipientDeferred)))
        assert not out.seen(RecipientDeferred)


async def deferred(out: Delivery) -> str:
    async with out.running():
        await out.send(TEXT, "a@example.net")
        [event] = await out.until_seen(RecipientDeferred)
        assert not out.seen(RecipientDelivered)
        shown = repr(out.events)
        assert "hush" not in shown and "aHVzaC1odXNo" not in shown
        return str(event.reply)


# TLS


async def test_none_is_none(tmp_path: Path, authority: Authority) -> None:
    async with NextHop(extensions=TLS, tls=authority.server("hop.example")) as hop:
        await delivered(delivery(tmp_path, hop, security(TlsPolicy.NONE)))
        assert hop.count("STARTTLS") == 0


@pytest.mark.parametrize("kind", ["good", "wrong name", "expired", "self-signed"])
async def test_opportunistic_takes_any_certificate(tmp_path: Path, authority: Authority, kind: str) -> None:
    context = authority.server(
        "other.example" if kind == "wrong name" else "hop.example",
        expired=kind == "expired",
        self_signed=kind == "self-signed",
    )
    async with NextHop(extensions=TLS, tls=context) as hop:
        await delivered(delivery(tmp_path, hop, security(TlsPolicy.OPPORTUNISTIC)))
        assert hop.tls_connections == 1
        assert hop.count("EHLO") == 2


@pytest.mark.parametrize("said", ["454 4.7.0 not now", "500 what?"])
async def test_opportunistic_goes_on_where_starttls_is_refused(tmp_path: Path, said: str) -> None:
    async with NextHop({"STARTTLS": said}, TLS) as hop:
        await delivered(delivery(tmp_path, hop, security(TlsPolicy.OPPORTUNISTIC)))
        assert hop.connections == 1


async def test_opportunistic_goes_on_where_none_is_offered(tmp_path: Path) -> None:
    async with NextHop() as hop:
        await delivered(delivery(tmp_path, hop, security(TlsPolicy.OPPORTUNISTIC)))


@pytest.mark.parametrize("by", ["handshake", "drop"])
async def test_opportunistic_falls_back_to_the_clear_and_remembers(tmp_path: Path, by: str) -> None:
    # Says 220 and then either answers the handshake with text, or closes.
    hop = (
        NextHop({"STARTTLS": "220 go"}, TLS) if by == "handshake" else NextHop(extensions=TLS, tls=_nothing_fits())
    )
    async with hop:
        out = delivery(tmp_path, hop, security(TlsPolicy.OPPORTUNISTIC))
        await delivered(out)
        assert (hop.connections, len(hop.messages), hop.tls_connections) == (2, 1, 0)
        assert hop.count("STARTTLS") == 1


def _nothing_fits() -> ssl.SSLContext:
    """A server without a certificate: no handshake succeeds."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


async def test_required_with_a_good_certificate(tmp_path: Path, authority: Authority) -> None:
    async with NextHop(extensions=TLS, tls=authority.server("hop.example")) as hop:
        await delivered(delivery(tmp_path, hop, security(TlsPolicy.REQUIRED, authority)))
        assert hop.tls_connections == 1


async def test_required_by_address(tmp_path: Path, authority: Authority) -> None:
    how = security(TlsPolicy.REQUIRED, authority)
    async with NextHop(extensions=TLS, tls=authority.server("127.0.0.1")) as hop:
        await delivered(delivery(tmp_path, hop, how, by_name=False))
    async with NextHop(extensions=TLS, tls=authority.server("hop.example")) as hop:
        reply = await deferred(delivery(tmp_path, hop, how, by_name=False))
        assert "IP address mismatch" in reply


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong name", "Hostname mismatch, certificate is not valid for 'hop.example'"),
        ("expired", "certificate has expired"),
        ("self-signed", "self-signed certificate"),
        ("stranger", "unable to get local issuer certificate"),
    ],
)
@pytest.mark.parametrize("tls", [TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT])
async def test_a_bad_certificate_is_named(
    tmp_path: Path, authority: Authority, kind: str, words: str, tls: TlsPolicy
) -> None:
    context = authority.server(
        "other.example" if kind == "wrong name" else "hop.example",
        expired=kind == "expired",
        self_signed=kind == "self-signed",
    )
    implicit = tls is TlsPolicy.IMPLICIT
    trusted = None if kind == "stranger" else authority
    async with NextHop(extensions=TLS, tls=context, implicit=implicit, users=USERS) as hop:
        reply = await deferred(delivery(tmp_path, hop, security(tls, trusted, "relay", "hush-hush")))
        assert reply.startswith(f"451 4.7.5 TLS with hop.example [127.0.0.1]:{hop.port} failed: its certificate")
        assert words in reply.replace("self signed", "self-signed")
        assert hop.count("AUTH") == hop.count("MAIL") == 0
    async with NextHop(extensions=TLS, tls=context, implicit=implicit, users=USERS) as hop:
        how = security(tls, trusted, "relay", "hush-hush", verify_certificate=False)
        await delivered(delivery(tmp_path, hop, how))


@pytest.mark.parametrize(
    ("replies", "extensions", "words"),
    [
        ({}, ("PIPELINING",), "451 4.7.10 TLS is required, but hop.example [127.0.0.1]:{} does not offer STARTTLS"),
        (
            {"STARTTLS": "454 no"},
            TLS,
            "451 4.7.10 TLS is required, but hop.example [127.0.0.1]:{} refused STARTTLS",
        ),
        ({"STARTTLS": "220 go"}, TLS, "451 4.7.5 TLS with hop.example [127.0.0.1]:{}"),
        ({"STARTTLS": DROP}, TLS, "451 4.4.2 hop.example [127.0.0.1]:{}: the connection was closed"),
        (
            {"STARTTLS": b"220 go\r\n250-hop\r\n250 AUTH PLAIN\r\n"},
            TLS,
            "451 4.4.2 hop.example [127.0.0.1]:{}: data in the clear",
        ),
        ({"EHLO": "502 no"}, TLS, "451 4.7.10 TLS is required, but hop.example [127.0.0.1]:{} does not offer"),
    ],
)
async def test_required_and_not_to_be_had(
    tmp_path: Path, replies: dict[str, str | bytes], extensions: tuple[str, ...], words: str
) -> None:
    async with NextHop(replies, extensions) as hop:
        reply = await deferred(delivery(tmp_path, hop, security(TlsPolicy.REQUIRED)))
        assert reply.startswith(words.format(hop.port))
        assert not hop.messages and hop.count("MAIL") == 0


async def test_implicit(tmp_path: Path, authority: Authority) -> None:
    async with NextHop(tls=authority.server("hop.example"), implicit=True, extensions=TLS, users=USERS) as hop:
        await delivered(delivery(tmp_path, hop, security(TlsPolicy.IMPLICIT, authority, "relay", "hush-hush")))
        assert hop.count("STARTTLS") == 0 and hop.tls_connections == 1


async def test_implicit_to_a_server_in_the_clear(tmp_path: Path) -> None:
    async with NextHop() as hop:
        reply = await deferred(delivery(tmp_path, hop, security(TlsPolicy.IMPLICIT)))
        assert reply.startswith("451 4.7.5 TLS with hop.example") or "4.4.1" in reply


async def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    how = OutboundSecurity(tls=TlsPolicy.REQUIRED, ca_file=tmp_path / "none.pem")
    async with NextHop(extensions=TLS) as hop:
        reply = await deferred(delivery(tmp_path, hop, how))
        assert "none.pem cannot be used" in reply


# Logins


@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "LOGIN", "PLAIN", "NTLM LOGIN"])
async def test_login(tmp_path: Path, authority: Authority, mechanisms: str) -> None:
    extensions = ("PIPELINING", "STARTTLS", f"AUTH {mechanisms}")
    async with NextHop(extensions=extensions, tls=authority.server("hop.example"), users=USERS) as hop:
        out = delivery(tmp_path, hop, security(TlsPolicy.REQUIRED, authority, "relay", "hush-hush"))
        await delivered(out)
        assert hop.count("AUTH PLAIN" if "PLAIN" in mechanisms else "AUTH LOGIN") == 1
        assert "hush" not in repr(out.router.route(address("a@example.net")))


async def test_a_refused_login_asks_no_other_host_and_not_again(tmp_path: Path) -> None:
    async with NextHop(extensions=TLS, users=USERS) as first, NextHop(extensions=TLS) as second:
        how = security(TlsPolicy.NONE, None, "relay", "hush", login_in_the_clear=True)
        out = Delivery(tmp_path, f"[127.0.0.1]:{first.port}", f"[127.0.0.1]:{second.port}", security=how)
        async with out.running():
            for _ in range(50):
                await out.send(TEXT, "a@example.net")
            events = await out.until_seen(RecipientDeferred, 50)
        [reply] = {e.reply for e in events}
        assert reply.startswith(f"454 4.7.8 Login as relay was refused by [127.0.0.1]:{first.port}: 535 5.7.8 Auth")
        assert first.count("AUTH") <= 4 and second.connections == 0


@pytest.mark.parametrize(
    ("tls", "extensions", "words"),
    [
        (TlsPolicy.NONE, TLS, "451 4.7.11"),
        (TlsPolicy.OPPORTUNISTIC, ("AUTH PLAIN",), "451 4.7.11"),
    ],
)
async def test_no_password_in_the_clear(
    tmp_path: Path, tls: TlsPolicy, extensions: tuple[str, ...], words: str
) -> None:
    async with NextHop(extensions=extensions, users=USERS) as hop:
        reply = await deferred(delivery(tmp_path, hop, security(tls, None, "relay", "hush-hush")))
        assert reply.startswith(words) and "must not be sent in the clear" in reply
        assert hop.count("AUTH") == 0
        await delivered(delivery(tmp_path, hop, security(tls, None, "relay", "hush-hush", login_in_the_clear=True)))


async def test_login_not_offered(tmp_path: Path) -> None:
    async with NextHop(extensions=("AUTH GSSAPI NTLM",)) as hop:
        how = security(TlsPolicy.NONE, None, "relay", "hush-hush", login_in_the_clear=True)
        reply = await deferred(delivery(tmp_path, hop, how))
        assert reply.endswith("offers no login by PLAIN or LOGIN, only by GSSAPI, NTLM")


# The settings


def test_contexts() -> None:
    assert tls_context(OutboundSecurity(tls=TlsPolicy.NONE)) is None
    any_certificate = tls_context(OutboundSecurity())
    assert any_certificate is not None and any_certificate.verify_mode is ssl.CERT_NONE
    checked = tls_context(OutboundSecurity(tls=TlsPolicy.REQUIRED))
    assert checked is not None and checked.verify_mode is ssl.CERT_REQUIRED and checked.check_hostname


def test_in_words() -> None:
    how = OutboundSecurity("u", "hush", TlsPolicy.IMPLICIT, verify_certificate=False)
    assert how.describe() == "TLS from the start, certificate not checked, login as u"
    assert "hush" not in repr(how)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("code", [500, 250])
async def test_a_host_that_repeats_the_password_does_not_get_it_into_logs_and_reports(
    tmp_path: Path, mechanism: str, code: int
) -> None:
    plain = base64.b64encode(b"\0relay\0hush-hush").decode()
    password = base64.b64encode(b"hush-hush").decode()
    said = f"{code} 5.5.1 what is {plain}, {password} or hush-hush?"
    async with NextHop(extensions=(f"AUTH {mechanism}",), replies={"AUTH": said}, users=USERS) as hop:
        how = security(TlsPolicy.NONE, None, "relay", "hush-hush", login_in_the_clear=True)
        reply = await deferred(delivery(tmp_path, hop, how))
    assert "what is [password], [password] or [password]?" in reply
