"""A certificate with its chain and private key, as it stands in PEM or PKCS#12 files, and what is said in it.

By the cryptography library, which is loaded with the first certificate: a server without TLS does not need it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailroot.net.tls import CertificateError, CertificateFile

if TYPE_CHECKING:
    from cryptography import x509

_MOST_OCTETS = 1024 * 1024
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.*?-----END \1-----", re.DOTALL)
_CERTIFICATE = (b"CERTIFICATE", b"X509 CERTIFICATE")


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What is said in a certificate. `names` are its DNS names in lower case and its addresses, or the common name
    where it has none. Times are seconds since the epoch. `fingerprint` is SHA-256, "AB:CD:…"; `key` "RSA 2048" or
    "ECDSA secp256r1"; `chain` how many certificates are sent along with it."""

    file: str
    names: tuple[str, ...]
    issuer: str
    not_before: float
    ends: float
    fingerprint: str
    key: str
    self_signed: bool
    chain: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that can be used, with its chain and its key. `end_point` is its channel binding
    "tls-server-end-point", b"" where it has none. Certificates are equal that say and send the same."""

    info: CertificateInfo
    end_point: bytes
    chain: tuple[x509.Certificate, ...]
    key: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and (self.info, self.chain) == (other.info, other.chain)

    def __hash__(self) -> int:
        return hash(self.info)

    def __repr__(self) -> str:
        return f"Certificate({self.info!r})"

    def pem(self, passphrase: str) -> bytes:
        """All of it, the key encrypted."""
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            PrivateFormat,
        )

        encrypted = BestAvailableEncryption(passphrase.encode())
        key: bytes = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted)
        return key + b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)


def read_certificate(file: CertificateFile) -> Certificate:
    """The certificate and its key. Raises CertificateError, which names the file."""
    octets = _read(file.file)
    key_octets = _read(file.key) if file.key is not None else octets
    key: Any
    if _is_pem(octets):
        chain = _certificates(file.file, octets)
        key = _key(file.key or file.file, key_octets, file.password)
    else:
        key, chain = _unpack(file.file, octets, file.password)
        if file.key is not None:
            key = _key(file.key, key_octets, file.password)
    if not chain:
        raise CertificateError(f"{file.file}: there is no certificate in it")
    if key is None:
        right = "the key's file" if file.key is not None else "a file with both, or the key's as `key`"
        raise CertificateError(f"{file.key or file.file}: there is no private key in it; right would be {right}")
    kind = _kind(file.key or file.file, key)
    own = [certificate for certificate in chain if certificate.public_key() == key.public_key()]
    if not own:
        raise CertificateError(
            f"{file.file}: the certificate does not belong to the private key in {file.key or file.file}"
        )
    # Whoever put the file together may have begun with the authority's.
    chain = [own[0], *(certificate for certificate in chain if certificate is not own[0])]
    try:
        return Certificate(_info(file.file, chain, kind), _end_point(own[0]), tuple(chain), key)
    except ValueError as error:
        raise CertificateError(f"{file.file}: the certificate cannot be understood: {error}") from None


def look_at(file: Path, password: str = "") -> CertificateInfo:
    """What the first certificate of a file says, with or without its key. Raises CertificateError."""
    chain = read_chain(file, password)
    try:
        return _info(file, chain, _kind(file, chain[0].public_key()))
    except ValueError as error:
        raise CertificateError(f"{file}: the certificate cannot be understood: {error}") from None


def read_chain(file: Path, password: str = "") -> list[x509.Certificate]:
    """The certificates of a file, at least one. Raises CertificateError."""
    octets = _read(file)
    chain = _certificates(file, octets) if _is_pem(octets) else _unpack(file, octets, password)[1]
    if not chain:
        raise CertificateError(f"{file}: there is no certificate in it")
    return chain


# Files


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            octets = opened.read(_MOST_OCTETS + 1)
    except OSError as error:
        raise CertificateError(f"{file}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(octets) > _MOST_OCTETS:
        raise CertificateError(f"{file}: is no certificate, it is larger than 1 MiB")
    return octets


def _is_pem(octets: bytes) -> bool:
    # DER begins with a SEQUENCE.
    return octets[:1] != b"\x30" or b"-----BEGIN " in octets


def _certificates(file: Path, octets: bytes) -> list[x509.Certificate]:
    from cryptography.x509 import load_pem_x509_certificate

    blocks = [block.group() for block in _BLOCK.finditer(octets) if block.group(1) in _CERTIFICATE]
    if not blocks:
        raise CertificateError(f"{file}: there is no certificate in it; right would be PEM or PKCS#12")
    try:
        return [
            load_pem_x509_certificate(block.replace(b"X509 CERTIFICATE-----", b"CERTIFICATE-----"))
            for block in blocks
        ]
    except ValueError as error:
        raise CertificateError(f"{file}: the certificate cannot be understood: {error}") from None


def _key(file: Path, octets: bytes, password: str) -> Any:
    """The first private key of a PEM file, None if there is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    block = next((block for block in _BLOCK.finditer(octets) if block.group(1).endswith(b"PRIVATE KEY")), None)
    if block is None:
        return None
    encrypted = block.group(1) == b"ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in block.group()
    if encrypted and not password:
        raise CertificateError(
            f"{file}: the private key is encrypted; right would be its `password`, or a key without a passphrase"
        )
    try:
        return load_pem_private_key(block.group(), password.encode() if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = (
            "its password is another one, or it is damaged" if encrypted else "it is damaged or of an unknown kind"
        )
        raise CertificateError(f"{file}: the private key cannot be read: {what}, or it is damaged") from None


def _unpack(file: Path, octets: bytes, password: str) -> tuple[Any, list[x509.Certificate]]:
    """Key and certificates of a PKCS#12 file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

    # There are two ways not to have a password.
    for secret in (password.encode(),) if password else (None, b""):
        try:
            key, own, others = load_key_and_certificates(octets, secret)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        return key, [*([] if own is None else [own]), *others]
    needs = "its password is another one" if password else "it wants a `password`"
    raise CertificateError(f"{file}: not a PKCS#12 file that can be read: {needs}, or it is something else")


# What is said in them


def _kind(file: Path, key: Any) -> str:
    """The key's kind in words. Raises CertificateError for one that TLS has no use for."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    match key:
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            return f"ECDSA {key.curve.name}"
        case ed25519.Ed25519PrivateKey() | ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PrivateKey() | ed448.Ed448PublicKey():
            return "Ed448"
        case _:
            raise CertificateError(f"{file}: a key that TLS cannot use; right would be RSA or ECDSA")


def _info(file: Path, chain: list[x509.Certificate], kind: str) -> CertificateInfo:
    from cryptography.hazmat.primitives.serialization import Encoding

    own = chain[0]
    digits = hashlib.sha256(own.public_bytes(Encoding.DER)).hexdigest().upper()
    return CertificateInfo(
        str(file),
        _names(own),
        own.issuer.rfc4514_string(),
        own.not_valid_before_utc.timestamp(),
        own.not_valid_after_utc.timestamp(),
        ":".join(digits[n : n + 2] for n in range(0, len(digits), 2)),
        kind,
        own.issuer == own.subject,
        len(chain) - 1,
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName
    from cryptography.x509.oid import NameOID

    try:
        alternative = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        names = [
            *alternative.get_values_for_type(DNSName),
            *map(str, alternative.get_values_for_type(IPAddress)),
        ]
    except ExtensionNotFound:
        names = []
    if not names:
        # RFC 6125 §6.4.4: only where there is no other name.
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return tuple(dict.fromkeys(name.lower().rstrip(".") for name in names))


def _end_point(certificate: x509.Certificate) -> bytes:
    """The certificate's hash by the algorithm it is signed with; SHA-256 in place of MD5 and SHA-1. A signature
    that has no such algorithm (Ed25519) gives none (RFC 5929 §4.1)."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return b""
    if algorithm is None:
        return b""
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest()
