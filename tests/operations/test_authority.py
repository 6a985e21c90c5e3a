"""Certificates of one's own: what is made, what is renewed, and what is left alone."""

import os
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from mailroot.net.certificate_file import read_certificate
from mailroot.net.tls import CertificateFile
from mailroot.operations import Conflict, Invalid, OperationError
from mailroot.operations.authority import Made, default_names, make_certificate
from rig.authority import issue

pytestmark = pytest.mark.quick

NOW = 1_800_000_000.0
DAY = 86400.0


def make(folder: Path, *names: str, days: int = 100, force: bool = False, now: float = NOW) -> Made:
    return make_certificate(folder, names, days, force=force, now=now)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def leaf(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "relay.pem").read_bytes())


def authority(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())


def test_what_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    made = make(folder, "Relay.Example.com", "*.example.net", "192.0.2.1", "[2001:db8::1]", "bücher.example")
    assert sorted(contents(folder)) == ["ca.key", "ca.pem", "relay.key", "relay.pem"]
    assert made.new_authority
    assert (made.certificate.file, made.key) == (str(folder / "relay.pem"), str(folder / "relay.key"))
    assert made.certificate.names == (
        "relay.example.com",
        "*.example.net",
        "xn--bcher-kva.example",
        "192.0.2.1",
        "2001:db8::1",
    )
    assert (made.certificate.not_before, made.certificate.ends) == (NOW - DAY, NOW + 100 * DAY)
    assert made.authority.ends == NOW + 3650 * DAY
    assert (made.certificate.self_signed, made.authority.self_signed) == (False, True)
    # They can be used as they are.
    assert read_certificate(CertificateFile(folder / "relay.pem", folder / "relay.key"))
    leaf(folder).verify_directly_issued_by(authority(folder))
    if os.name != "nt":
        for name in ("ca.key", "relay.key"):
            assert (folder / name).stat().st_mode & 0o777 == 0o600


def test_a_client_that_has_the_authority_trusts_it(tmp_path: Path) -> None:
    # By the strictest of Python's checks (RFC 5280), and by the names.
    import time

    make(tmp_path, "relay.example.com", "127.0.0.1", now=time.time())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "relay.pem", tmp_path / "relay.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in ("relay.example.com", "127.0.0.1"):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = (
            client.wrap_bio(to_client, to_server, server_hostname=name),
            server.wrap_bio(to_server, to_client, server_side=True),
        )
        for side in sides * 3:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert sides[0].getpeercert()


def test_once_more_renews_and_keeps_the_authority(tmp_path: Path) -> None:
    first = make(tmp_path, "relay.example.com")
    before = contents(tmp_path)
    second = make(tmp_path, now=NOW + 90 * DAY)
    after = contents(tmp_path)
    assert not second.new_authority
    assert second.authority == first.authority
    assert {name for name in after if after[name] != before[name]} == {"relay.pem", "relay.key"}
    assert second.certificate.names == ("relay.example.com",)
    assert second.certificate.ends == NOW + 190 * DAY
    third = make(tmp_path, "other.example.com", force=True)
    assert third.certificate.names == ("other.example.com",)
    assert third.authority == first.authority


def test_an_interrupted_call_is_made_good(tmp_path: Path) -> None:
    make(tmp_path, "relay.example.com")
    issue("relay.example.com").files(tmp_path, "other")
    (tmp_path / "other.key").replace(tmp_path / "relay.key")
    (tmp_path / "other.pem").unlink()
    (tmp_path / ".relay.key.new").write_bytes(b"half a k")
    made = make(tmp_path)
    assert made.certificate.names == ("relay.example.com",)
    assert read_certificate(CertificateFile(tmp_path / "relay.pem", tmp_path / "relay.key"))
    assert sorted(contents(tmp_path)) == ["ca.key", "ca.pem", "relay.key", "relay.pem"]


def test_it_does_not_outlive_its_authority(tmp_path: Path) -> None:
    first = make(tmp_path, "relay.example.com")
    made = make(tmp_path, days=800, now=NOW + 3600 * DAY)
    assert made.certificate.ends == first.authority.ends
    with pytest.raises(Conflict, match=r"ca\.pem: the authority has ended; with --force a new one"):
        make(tmp_path, now=NOW + 3650 * DAY)
    made = make(tmp_path, "relay.example.com", now=NOW + 3650 * DAY, force=True)
    assert made.new_authority
    assert made.authority.fingerprint != first.authority.fingerprint
    assert made.authority.issuer != first.authority.issuer


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem"])
def test_half_an_authority_is_not_replaced_unasked(tmp_path: Path, lost: str) -> None:
    make(tmp_path, "relay.example.com")
    (tmp_path / lost).unlink()
    before = contents(tmp_path)
    with pytest.raises(Conflict, match="with --force a new one takes its place, and clients need its ca"):
        make(tmp_path)
    assert contents(tmp_path) == before
    assert make(tmp_path, force=True).new_authority


@pytest.mark.parametrize("with_authority", [False, True])
def test_the_certificate_of_somebody_else_is_left_alone(tmp_path: Path, with_authority: bool) -> None:
    if with_authority:
        make(tmp_path, "relay.example.com")
    issue("relay.example.com").files(tmp_path, "relay")
    before = contents(tmp_path)
    with pytest.raises(Conflict, match=r"relay\.pem was not made here\. Name another --folder, or say --force"):
        make(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "relay.pem").unlink()
    with pytest.raises(Conflict, match=r"relay\.pem: cannot be read: no such file"):
        make(tmp_path)
    made = make(tmp_path, "new.example.com", force=True)
    assert made.new_authority is not with_authority
    assert read_certificate(CertificateFile(tmp_path / "relay.pem", tmp_path / "relay.key"))


def test_what_is_no_authority_signs_nothing(tmp_path: Path) -> None:
    issue("relay.example.com", days=4000).files(tmp_path, "ca")
    with pytest.raises(Conflict, match=r"ca\.pem is not an authority's certificate"):
        make(tmp_path)
    assert sorted(contents(tmp_path)) == ["ca.key", "ca.pem"]
    assert make(tmp_path, force=True).new_authority


@pytest.mark.parametrize("name", ["", "a b", "a@example.com", "a.*.example.com", "1.2.3.256", "x" * 64, "http://x"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="; an IP address will do, too"):
        make(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_is_no_common_name(tmp_path: Path) -> None:
    long = ".".join(["relay" * 6] * 3) + ".example.com"
    made = make(tmp_path, long)
    assert made.certificate.names == (long,)
    assert "CN=Mailroot" in leaf(tmp_path).subject.rfc4514_string()


def test_days(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="one day at least"):
        make(tmp_path, days=0)


def test_default_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "SERVER_1")
    monkeypatch.setattr(socket, "getfqdn", lambda: "server_1.corp.example")
    around = ("localhost", "127.0.0.1", "::1")
    assert default_names() == ("server_1.corp.example", "server_1", *around)
    assert default_names(["relay.example.com"])[0] == "relay.example.com"
    monkeypatch.setattr(socket, "getfqdn", lambda: "localhost.localdomain")
    assert default_names() == ("server_1", *around)
    monkeypatch.setattr(socket, "gethostname", lambda: "no name!")
    assert default_names() == around


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OperationError, match="cannot be written"):
        make(tmp_path / "file" / "folder", "relay.example.com")
