"""Client certificates as logins: pinned, by fingerprint, by name; and one that somebody else's key signed."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mailroot.policy.auth.certificate import ClientCertificates
from mailroot.policy.auth.settings import ClientCertificate

pytestmark = pytest.mark.quick


class Signer:
    """A key with its self-signed certificate, which can sign others."""

    def __init__(self, common: str) -> None:
        self.common = common
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.der = self.sign(common, key=self.key)

    def sign(self, common: str, *names: x509.GeneralName, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        now = datetime.now(UTC)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else []
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.common)]))
            .public_key((key or ec.generate_private_key(ec.SECP256R1())).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=1))
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        from cryptography.hazmat.primitives.hashes import SHA256

        return builder.sign(self.key, SHA256()).public_bytes(Encoding.DER)


def pem(path: Path, *ders: bytes) -> Path:
    blocks = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)
    path.write_bytes(b"comment\n" + b"".join(blocks))
    return path


@pytest.fixture
def ca() -> Signer:
    return Signer("Example CA")


@pytest.fixture
def ca_file(tmp_path: Path, ca: Signer) -> Path:
    return pem(tmp_path / "ca.pem", Signer("another CA").der, ca.der)


def test_nobody(ca: Signer) -> None:
    none = ClientCertificates((), None)
    assert not none
    assert none.anchors == ()
    assert none.account(ca.der) is None


def test_a_pinned_certificate(tmp_path: Path) -> None:
    printer = Signer("printer7")
    file = pem(tmp_path / "printer7.pem", printer.der)
    known = ClientCertificates((ClientCertificate("printer7", file=file),), None)
    assert known
    assert known.anchors == (file,)
    assert known.account(printer.der) == "printer7"
    assert known.account(Signer("printer7").der) is None
    assert known.account(b"no certificate") is None


@pytest.mark.parametrize(
    "write", [str.upper, str.lower, lambda text: ":".join(text[n : n + 2] for n in range(0, 64, 2))]
)
def test_a_fingerprint_in_any_writing(ca: Signer, ca_file: Path, write: object) -> None:
    assert callable(write)
    der = ca.sign("scanner")
    fingerprint = write(sha256(der).hexdigest())
    known = ClientCertificates((ClientCertificate("scanner", fingerprint=fingerprint),), ca_file)
    assert known.anchors == (ca_file,)
    assert known.account(der) == "scanner"
    assert known.account(ca.sign("scanner")) is None


def test_names(ca: Signer, ca_file: Path) -> None:
    entries = (
        ClientCertificate("crm", name="CRM.example.com"),
        ClientCertificate("mail", name="app@example.com"),
        ClientCertificate("old", name="Old Printer"),
    )
    known = ClientCertificates(entries, ca_file)
    assert known.account(ca.sign("", x509.DNSName("x.example.com"), x509.DNSName("crm.Example.com"))) == "crm"
    assert known.account(ca.sign("x", x509.RFC822Name("App@example.com"))) == "mail"
    assert known.account(ca.sign("old printer")) == "old"
    assert known.account(ca.sign("Old Printer", x509.DNSName("crm.example.net"))) is None
    assert known.account(ca.sign("x", x509.DNSName("*.example.com"))) is None
    assert known.account(ca.sign("")) is None
    assert known.account(b"no certificate") is None


def test_a_pinned_certificate_cannot_make_others(tmp_path: Path, ca: Signer, ca_file: Path) -> None:
    """TLS trusts the pinned one; so it would trust what its key signed, with any name."""
    printer = Signer("printer7")
    entries = (
        ClientCertificate("printer7", file=pem(tmp_path / "printer7.pem", printer.der)),
        ClientCertificate("boss", name="boss.example.com"),
    )
    known = ClientCertificates(entries, ca_file)
    assert known.account(printer.sign("x", x509.DNSName("boss.example.com"))) is None
    assert known.account(ca.sign("x", x509.DNSName("boss.example.com"))) == "boss"
    assert known.account(printer.der) == "printer7"
    # Nor one that only says it is of the CA.
    impostor = Signer("Example CA")
    assert known.account(impostor.sign("x", x509.DNSName("boss.example.com"))) is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (ClientCertificate(""), "names no account"),
        (ClientCertificate("a"), "needs one of 'file', 'fingerprint' and 'name'"),
        (ClientCertificate("a", name="x", fingerprint="y"), "and only one"),
        (ClientCertificate("a", name="x"), "has no 'client_ca'"),
        (ClientCertificate("a", fingerprint="00" * 32), "has no 'client_ca'"),
        (ClientCertificate("a", file=Path("missing.pem")), "missing.pem: cannot be read"),
    ],
)
def test_what_cannot_work(entry: ClientCertificate, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClientCertificates((entry,), None)


def test_files_that_are_none(tmp_path: Path, ca_file: Path) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        ClientCertificates((ClientCertificate("a", fingerprint="ab:cd"),), ca_file)
    broken = tmp_path / "broken.pem"
    for text in ("nothing", "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n"):
        broken.write_text(text)
        with pytest.raises(ValueError, match=r"broken\.pem: right would be a PEM file"):
            ClientCertificates((), broken)
