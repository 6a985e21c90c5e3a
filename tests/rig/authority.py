"""A small certificate authority for tests: certificates of any names, kinds of keys and times."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def key_pem(self, password: str = "", form: str = "PKCS8") -> bytes:
        encryption: Any = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password.encode())
        octets: bytes = self.key.private_bytes(PEM, getattr(serialization.PrivateFormat, form), encryption)
        return octets

    def pkcs12(self, password: str = "", *others: "Issued") -> bytes:
        """As a .pfx file."""
        encryption: Any = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password.encode())
        octets: bytes = pkcs12.serialize_key_and_certificates(
            b"relay", self.key, self.certificate, [other.certificate for other in others], encryption
        )
        return octets

    def files(self, folder: Path, name: str) -> tuple[Path, Path]:
        """NAME.pem and NAME.key."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key_pem())
        return certificate, key


@cache
def _shared_rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """Made once: it takes a while."""
    return rsa.generate_private_key(65537, bits)


def new_key(kind: str) -> Any:
    match kind:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return _shared_rsa_key(int(kind.removeprefix("rsa")))


def issue(
    *names: str,
    by: Issued | None = None,
    authority: bool = False,
    key: str = "ec",
    subject: str = "",
    days: float = 30,
    began: float = 1,
    hash_algorithm: Any = None,
    usage: x509.ObjectIdentifier | None = None,
) -> Issued:
    """A certificate; without `by` it signs itself. It began `began` days ago and ends in `days`. Names that are
    addresses are put in as such; with no names there is only the subject."""
    own = new_key(key)
    subject_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or next(iter(names), "test"))])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(by.certificate.subject if by is not None else subject_name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=began))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    signer = by.key if by is not None else own
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hash_algorithm or hashes.SHA256()
    return Issued(builder.sign(signer, algorithm), own)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
