"""Certificates: files of every form, the choice by name, what holds for a connection, and files that change."""

import contextlib
import hashlib
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from mailroot.net.certificate_file import look_at, read_certificate
from mailroot.net.certificates import Certificates, Loaded, Refused, ignore_unreadable_names
from mailroot.net.tls import CertificateError, CertificateFile, TlsVersion
from rig.authority import Issued, issue

pytestmark = pytest.mark.quick


def write(folder: Path, name: str, octets: bytes) -> Path:
    file = folder / name
    file.write_bytes(octets)
    return file


def one(folder: Path, issued: Issued, name: str = "relay") -> CertificateFile:
    return CertificateFile(*issued.files(folder, name))


class Shaken:
    """A TLS handshake in memory, done: `server` and `client` are its two ends."""

    def __init__(
        self,
        certificates: Certificates,
        minimum: TlsVersion = TlsVersion.TLS_1_2,
        *,
        name: str | None = None,
        newest: ssl.TLSVersion | None = None,
        ask_client: bool = False,
        client_certificate: tuple[Path, Path] | None = None,
        ciphers: str = "",
    ) -> None:
        """The client asks for `name`, and knows no TLS newer than `newest`. Raises ssl.SSLError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers(ciphers or "ALL:@SECLEVEL=0")
        if newest is not None:
            # TLS 1.0 and 1.1 are said to be old whenever they are named.
            with pytest.warns(DeprecationWarning) if newest < ssl.TLSVersion.TLSv1_2 else contextlib.nullcontext():
                context.maximum_version = newest
        if client_certificate is not None:
            context.load_cert_chain(*client_certificate)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = certificates.context(minimum, ask_client=ask_client).wrap_bio(
            to_server, to_client, server_side=True
        )
        self.client = context.wrap_bio(to_client, to_server, server_hostname=name)
        for side in (self.client, self.server) * 4:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        # What the server sent last is read here, so that the client's complaints are heard, too.
        for side in (self.client, self.server):
            with pytest.raises(ssl.SSLWantReadError):
                side.read(1)

    @property
    def shown(self) -> bytes:
        """The certificate that the client got, in DER."""
        der = self.client.getpeercert(binary_form=True)
        assert der is not None
        return der


# Files


def test_pem_in_one_file_and_in_two(tmp_path: Path) -> None:
    issued = issue("relay.example.com")
    both = write(tmp_path, "both.pem", issued.key_pem() + issued.pem)
    assert Shaken(Certificates([CertificateFile(both)])).shown == issued.der
    assert Shaken(Certificates([one(tmp_path, issued)])).shown == issued.der


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_keys_in_every_form(tmp_path: Path, form: str) -> None:
    issued = issue("relay.example.com", key="rsa2048")
    certificate = write(tmp_path, "relay.pem", issued.pem)
    for n, password in enumerate(("", "secret")):
        key = write(tmp_path, f"{n}.key", issued.key_pem(password, form))
        assert Shaken(Certificates([CertificateFile(certificate, key, password)])).shown == issued.der
    # A password for a key that has none is not needed, and no mistake.
    assert Certificates([CertificateFile(certificate, tmp_path / "0.key", "secret")])


@pytest.mark.parametrize("key", ["ec", "rsa2048", "ed25519"])
def test_every_kind_of_key(tmp_path: Path, key: str) -> None:
    issued = issue("relay.example.com", key=key)
    certificates = Certificates([one(tmp_path, issued)])
    assert Shaken(certificates).shown == issued.der
    (info,) = certificates.shown()
    assert info.key == {"ec": "ECDSA secp256r1", "rsa2048": "RSA 2048", "ed25519": "Ed25519"}[key]


def test_the_chain_is_sent_in_whatever_order_it_stands(tmp_path: Path) -> None:
    root = issue(authority=True, subject="Root")
    middle = issue(authority=True, subject="Middle", by=root)
    leaf = issue("relay.example.com", by=middle)
    for n, parts in enumerate(([leaf, middle], [middle, leaf])):
        file = write(tmp_path, f"{n}.pem", b"".join(part.pem for part in parts) + leaf.key_pem())
        certificates = Certificates([CertificateFile(file)])
        (info,) = certificates.shown()
        assert (info.chain, info.self_signed, info.issuer) == (1, False, "CN=Middle")
        context = ssl.create_default_context(cadata=root.pem.decode())
        _verify(certificates, context, "relay.example.com")


def _verify(certificates: Certificates, context: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificates.context(TlsVersion.TLS_1_2, ask_client=False).wrap_bio(to_server, to_client, True)
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    for side in (client, server) * 4:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.getpeercert()


@pytest.mark.parametrize("password", ["", "geheim mit ü"])
def test_pkcs12(tmp_path: Path, password: str) -> None:
    root = issue(authority=True, subject="Root")
    leaf = issue("relay.example.com", by=root, key="rsa2048")
    file = write(tmp_path, "relay.pfx", leaf.pkcs12(password, root))
    certificates = Certificates([CertificateFile(file, password=password)])
    assert Shaken(certificates).shown == leaf.der
    assert certificates.shown()[0].chain == 1
    assert look_at(file, password) == certificates.shown()[0]


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("form", ["", "-legacy", "-keypbe NONE -certpbe NONE -nomac"])
def test_pkcs12_of_other_programs(tmp_path: Path, form: str, program: Callable[[str], str]) -> None:
    """Old versions of Windows write it with RC2 and 3DES, which is `-legacy`."""
    leaf = issue("relay.example.com", key="rsa2048")
    certificate, key = leaf.files(tmp_path, "relay")
    file = tmp_path / "relay.p12"
    words = ["pkcs12", "-export", "-in", str(certificate), "-inkey", str(key), "-out", str(file)]
    password = "" if "NONE" in form else "secret"
    subprocess.run(
        [program("openssl"), *words, *form.split(), "-passout", f"pass:{password}"], check=True, capture_output=True
    )
    assert Shaken(Certificates([CertificateFile(file, password=password)])).shown == leaf.der


def test_no_key_is_written_in_the_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = issue("relay.example.com")
    file = write(tmp_path, "relay.pfx", leaf.pkcs12("secret"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    seen = []
    load = ssl.SSLContext.load_cert_chain

    def look(context: ssl.SSLContext, certfile: Path, *rest: Any, **more: Any) -> None:
        assert temporary in certfile.parents
        seen.append(certfile.read_bytes())
        if os.name != "nt":
            assert certfile.stat().st_mode & 0o077 == 0
        load(context, certfile, *rest, **more)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    certificates = Certificates([CertificateFile(file, password="secret")])
    certificates.context(TlsVersion.TLS_1_3, ask_client=False)
    assert len(seen) == 2
    assert all(b"BEGIN ENCRYPTED PRIVATE KEY" in octets and b"BEGIN PRIVATE KEY" not in octets for octets in seen)
    assert list(temporary.iterdir()) == []
    assert "secret" not in repr(read_certificate(CertificateFile(file, password="secret")))


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    issued, other = issue("relay.example.com"), issue("other.example.com")
    certificate, key = issued.files(tmp_path, "relay")
    _, other_key = other.files(tmp_path, "other")
    locked = write(tmp_path, "locked.key", issued.key_pem("secret"))
    damaged = write(tmp_path, "damaged.key", issued.key_pem().replace(b"\nM", b"\nN"))
    text = write(tmp_path, "text.pem", b"hello")
    pfx = write(tmp_path, "relay.pfx", issued.pkcs12("secret"))
    small = issue("relay.example.com", key="rsa1024")
    large = write(tmp_path, "large.pem", bytes(2_000_000))
    for file, words in (
        (CertificateFile(tmp_path / "missing.pem"), r"missing\.pem: cannot be read: no such file"),
        (CertificateFile(certificate, tmp_path / "missing.key"), r"missing\.key: cannot be read: no such file"),
        (CertificateFile(certificate, other_key), r"relay\.pem: the certificate does not belong to .*other\.key"),
        (
            CertificateFile(certificate, locked),
            r"locked\.key: the private key is encrypted; right would be its `pass",
        ),
        (
            CertificateFile(certificate, locked, "not this"),
            r"locked\.key: .* cannot be read: its password is another",
        ),
        (CertificateFile(certificate, damaged), r"damaged\.key: the private key cannot be read"),
        (CertificateFile(certificate), r"relay\.pem: there is no private key in it"),
        (CertificateFile(text, key), r"text\.pem: there is no certificate in it; right would be PEM or PKCS#12"),
        (CertificateFile(pfx), r"relay\.pfx: not a PKCS#12 file that can be read: it wants a `password`"),
        (CertificateFile(pfx, password="not this"), r"relay\.pfx: not a PKCS#12 .*: its password is another"),
        (one(tmp_path, small, "small"), r"small\.pem: TLS cannot use it: ee key too small"),
        (CertificateFile(tmp_path), r": cannot be read: "),
        (CertificateFile(large), r"large\.pem: is no certificate, it is larger than 1 MiB"),
    ):
        with pytest.raises(CertificateError, match=words) as caught:
            Certificates([file])
        assert "not this" not in str(caught.value)
    with pytest.raises(CertificateError, match=r"text\.pem: right would be a PEM file with a certificate"):
        Certificates([CertificateFile(certificate, key)], client_anchors=[text])


def test_what_is_shown(tmp_path: Path) -> None:
    issued = issue("Relay.Example.com", "*.example.net", "192.0.2.1", "2001:db8::1", days=10)
    (info,) = Certificates([one(tmp_path, issued)]).shown()
    assert info.file == str(tmp_path / "relay.pem")
    assert info.names == ("relay.example.com", "*.example.net", "192.0.2.1", "2001:db8::1")
    assert info.issuer == "CN=Relay.Example.com"
    assert info.ends - info.not_before == pytest.approx(11 * 86400)
    assert info.fingerprint.replace(":", "").lower() == hashlib.sha256(issued.der).hexdigest()
    assert (info.self_signed, info.chain) == (True, 0)
    (unnamed,) = Certificates([one(tmp_path, issue(subject="OLD-SERVER"), "unnamed")]).shown()
    assert unnamed.names == ("old-server",)


# The choice by name


def test_the_name_that_is_asked_for_chooses(tmp_path: Path) -> None:
    first = issue("relay.example.com", "192.0.2.1")
    wild = issue("*.example.net", "example.net")
    exact = issue("mail.example.net", "relay.example.com")
    certificates = Certificates([one(tmp_path, first, "1"), one(tmp_path, wild, "2"), one(tmp_path, exact, "3")])
    for name, expected in (
        ("relay.example.com", first),
        ("RELAY.EXAMPLE.COM", first),
        ("mail.example.net", exact),
        ("other.example.net", wild),
        ("example.net", wild),
        ("a.b.example.net", first),
        ("nobody.example.org", first),
        ("localhost", first),
        (None, first),
    ):
        for minimum in TlsVersion:
            assert Shaken(certificates, minimum, name=name).shown == expected.der, (name, minimum)


def test_a_name_that_is_not_ascii_fails_and_fills_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    ignore_unreadable_names()
    files = [one(tmp_path, issue(f"{name}.example.com"), name) for name in ("first", "other")]
    certificates = Certificates(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    from_server, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(from_server, to_server, server_hostname="other.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    to_server.write(to_server.read().replace(b"other.example.com", b"\xff" * len("other.example.com")))
    server = certificates.context(TlsVersion.TLS_1_2, ask_client=False).wrap_bio(to_server, from_server, True)
    with pytest.raises(ssl.SSLError, match="CALLBACK_FAILED"):
        server.do_handshake()
    assert told == []

    class Broken:
        def __del__(self) -> None:
            raise ValueError("told as ever")

    Broken()
    assert [one.exc_type for one in told] == [ValueError]


def test_the_oldest_version_holds_whichever_certificate_is_chosen(tmp_path: Path) -> None:
    """What the connection began with decides, not the context that the name leads to."""
    first, second = issue("a.example.com", key="rsa2048"), issue("b.example.com", key="rsa2048")
    certificates = Certificates([one(tmp_path, first, "1"), one(tmp_path, second, "2")])
    for name in ("a.example.com", "b.example.com"):
        for newest, said in ((ssl.TLSVersion.TLSv1, "TLSv1"), (ssl.TLSVersion.TLSv1_1, "TLSv1.1")):
            assert Shaken(certificates, TlsVersion.TLS_1_0, name=name, newest=newest).server.version() == said
            with pytest.raises(ssl.SSLError):
                Shaken(certificates, TlsVersion.TLS_1_2, name=name, newest=newest)
        with pytest.raises(ssl.SSLError):
            Shaken(certificates, TlsVersion.TLS_1_1, name=name, newest=ssl.TLSVersion.TLSv1)
        with pytest.raises(ssl.SSLError):
            Shaken(certificates, TlsVersion.TLS_1_3, name=name, newest=ssl.TLSVersion.TLSv1_2)
        for minimum in TlsVersion:
            assert Shaken(certificates, minimum, name=name).server.version() == "TLSv1.3"


def test_a_listener_for_old_devices_gives_no_null_or_anonymous_cipher(tmp_path: Path) -> None:
    certificates = Certificates([one(tmp_path, issue("relay.example.com", key="rsa2048"))])
    old = certificates.context(TlsVersion.TLS_1_0, ask_client=False)
    assert "AES128-SHA" in {cipher["name"] for cipher in old.get_ciphers()}
    assert all(cipher["strength_bits"] >= 112 for cipher in old.get_ciphers())
    for ciphers in ("aNULL:@SECLEVEL=0", "eNULL:@SECLEVEL=0"):
        with pytest.raises(ssl.SSLError):
            Shaken(certificates, TlsVersion.TLS_1_0, newest=ssl.TLSVersion.TLSv1_2, ciphers=ciphers)


def test_settings_of_every_context(tmp_path: Path) -> None:
    certificates = Certificates([one(tmp_path, issue("relay.example.com"))])
    for minimum in TlsVersion:
        context = certificates.context(minimum, ask_client=False)
        assert context is certificates.context(minimum, ask_client=False)
        assert context.num_tickets == 0
        wanted = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        assert context.options & wanted == wanted
        assert context.verify_mode is ssl.CERT_NONE


# Channel bindings


@pytest.mark.parametrize("name", ["a.example.com", "b.example.com"])
def test_bindings(tmp_path: Path, name: str) -> None:
    """tls-server-end-point is of the certificate that this connection got; tls-unique ends with TLS 1.2."""
    first = issue("a.example.com", hash_algorithm=hashes.SHA384())
    second = issue("b.example.com")
    certificates = Certificates([one(tmp_path, first, "1"), one(tmp_path, second, "2")])
    end_point = hashlib.sha384(first.der) if name == "a.example.com" else hashlib.sha256(second.der)
    newest = Shaken(certificates, name=name)
    assert certificates.bindings(newest.server) == (("tls-server-end-point", end_point.digest()),)
    older = Shaken(certificates, name=name, newest=ssl.TLSVersion.TLSv1_2)
    unique = older.client.get_channel_binding("tls-unique")
    assert unique
    assert certificates.bindings(older.server) == (
        ("tls-unique", unique),
        ("tls-server-end-point", end_point.digest()),
    )
    assert certificates.bindings(None) == ()


def test_a_signature_without_a_hash_has_no_end_point(tmp_path: Path) -> None:
    certificates = Certificates([one(tmp_path, issue("relay.example.com", key="ed25519"))])
    assert certificates.bindings(Shaken(certificates).server) == ()


# Client certificates


def test_client_certificates(tmp_path: Path) -> None:
    authority = issue(authority=True, subject="Clients")
    signed = issue("printer.example.com", by=authority, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    pinned, stranger = issue("old printer"), issue("stranger")
    middle = issue(authority=True, subject="Middle", by=authority)
    pinned_signed = issue("pinned.example.com", by=middle)
    anchors = [write(tmp_path, "clients.pem", authority.pem), write(tmp_path, "pinned.pem", pinned.pem)]
    anchors.append(write(tmp_path, "signed.pem", pinned_signed.pem))
    files = [one(tmp_path, issue("a.example.com"), "a"), one(tmp_path, issue("b.example.com"), "b")]
    certificates = Certificates(files, client_anchors=anchors)
    for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for name in ("a.example.com", "b.example.com"):

            def shake(client: Issued | None, *, ask: bool = True, name: str = name, newest: Any = newest) -> Any:
                pair = client.files(tmp_path, "client") if client is not None else None
                shaken = Shaken(certificates, name=name, newest=newest, ask_client=ask, client_certificate=pair)
                return shaken.server.getpeercert(binary_form=True)

            assert shake(None) is None
            for client in (signed, pinned, pinned_signed):
                assert shake(client) == client.der
                assert shake(client, ask=False) is None
            with pytest.raises(ssl.SSLError):
                shake(stranger)
            expired = issue("late.example.com", by=authority, began=10, days=-1)
            with pytest.raises(ssl.SSLError):
                shake(expired)


def test_without_anchors_nobody_is_asked(tmp_path: Path) -> None:
    certificates = Certificates([one(tmp_path, issue("relay.example.com"))])
    pair = issue("stranger").files(tmp_path, "client")
    shaken = Shaken(certificates, ask_client=True, client_certificate=pair)
    assert shaken.server.getpeercert(binary_form=True) is None


# Files that change


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    first, second = issue("a.example.com"), issue("b.example.com")
    certificates = Certificates([one(tmp_path, first, "1"), one(tmp_path, second, "2")])
    certificates.context(TlsVersion.TLS_1_0, ask_client=False)
    assert certificates.refresh() == []
    standing = Shaken(certificates, name="b.example.com")
    renewed = issue("b.example.com", "c.example.com")
    # An administrator replaces one file after the other.
    certificate, key = renewed.files(tmp_path, "fresh")
    certificate.replace(tmp_path / "2.pem")
    (refused,) = certificates.refresh()
    assert isinstance(refused, Refused)
    assert refused.file == str(tmp_path / "2.pem")
    assert "does not belong to the private key" in refused.reason
    assert certificates.refresh() == [refused]
    assert Shaken(certificates, name="b.example.com").shown == second.der
    key.replace(tmp_path / "2.key")
    (loaded,) = certificates.refresh()
    assert isinstance(loaded, Loaded)
    assert loaded.info == certificates.shown()[1]
    assert loaded.info.names == ("b.example.com", "c.example.com")
    for minimum in (TlsVersion.TLS_1_0, TlsVersion.TLS_1_2):
        for name, expected in (("a", first), ("b", renewed), ("c", renewed)):
            assert Shaken(certificates, minimum, name=f"{name}.example.com").shown == expected.der
    # The connection that stood goes on, with what it began with.
    binding = dict(certificates.bindings(standing.server))["tls-server-end-point"]
    assert binding == hashlib.sha256(second.der).digest()
    standing.client.write(b"still there")
    assert standing.server.read(100) == b"still there"


def test_the_same_once_more_is_no_news(tmp_path: Path) -> None:
    issued = issue("relay.example.com")
    certificates = Certificates([one(tmp_path, issued)])
    os.utime(tmp_path / "relay.pem", (1, 1))
    assert certificates.refresh() == []
    (tmp_path / "relay.key").write_bytes(issued.key_pem(form="TraditionalOpenSSL"))
    assert certificates.refresh() == []
    assert Shaken(certificates).shown == issued.der


@pytest.mark.parametrize("spoiled", [b"", b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", None])
def test_a_spoiled_file_takes_nothing_away(tmp_path: Path, spoiled: bytes | None) -> None:
    issued, other = issue("a.example.com"), issue("b.example.com")
    certificates = Certificates([one(tmp_path, issued, "1"), one(tmp_path, other, "2")])
    renewed = issue("b.example.com")
    renewed.files(tmp_path, "2")
    if spoiled is None:
        (tmp_path / "1.pem").unlink()
    else:
        (tmp_path / "1.pem").write_bytes(spoiled)
    refused, loaded = certificates.refresh()
    assert isinstance(refused, Refused)
    assert isinstance(loaded, Loaded)
    assert Shaken(certificates, name="a.example.com").shown == issued.der
    assert Shaken(certificates, name="b.example.com").shown == renewed.der
    issued.files(tmp_path, "1")
    assert certificates.refresh() == []
    assert Shaken(certificates, name="a.example.com").shown == issued.der


def test_a_key_too_small_is_not_taken(tmp_path: Path) -> None:
    issued = issue("relay.example.com")
    certificates = Certificates([one(tmp_path, issued)])
    issue("relay.example.com", key="rsa1024").files(tmp_path, "relay")
    (refused,) = certificates.refresh()
    assert isinstance(refused, Refused)
    assert "key too small" in refused.reason
    assert Shaken(certificates).shown == issued.der


def test_a_temporary_folder_that_is_missing_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates([one(tmp_path, issue("relay.example.com"))])
    renewed = issue("relay.example.com")
    renewed.files(tmp_path, "relay")
    with monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(tmp_path / "missing"))
        (refused,) = certificates.refresh()
        assert isinstance(refused, Refused)
        assert "no temporary file can be made" in refused.reason
    (loaded,) = certificates.refresh()
    assert isinstance(loaded, Loaded)
    assert Shaken(certificates).shown == renewed.der
