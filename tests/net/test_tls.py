"""Certificates that work, and what is said about those that do not."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailroot.net.tls import CertificateError, server_context
from rig.door import certificate_pem

pytestmark = pytest.mark.quick

_PEM = certificate_pem()
_KEY, _CERTIFICATE = (
    _PEM[: _PEM.index(b"-----BEGIN CERTIFICATE")],
    _PEM[_PEM.index(b"-----BEGIN CERTIFICATE") :],
)


def write(folder: Path, name: str, octets: bytes) -> Path:
    file = folder / name
    file.write_bytes(octets)
    return file


def test_one_file_and_two(tmp_path: Path) -> None:
    assert server_context(write(tmp_path, "both.pem", _PEM))
    certificate, key = write(tmp_path, "certificate.pem", _CERTIFICATE), write(tmp_path, "key.pem", _KEY)
    assert server_context(certificate, key)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, "certificate.pem", _CERTIFICATE), write(tmp_path, "key.pem", _KEY)
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(CertificateError, match=r"missing\.pem: cannot be read: no such file"):
        server_context(tmp_path / "missing.pem")
    with pytest.raises(
        CertificateError, match=r"certificate\.pem: the certificate does not belong to .*other\.pem"
    ):
        server_context(certificate, write(tmp_path, "other.pem", other))
    with pytest.raises(CertificateError, match=r"locked\.pem: the private key is encrypted"):
        server_context(certificate, write(tmp_path, "locked.pem", locked))
    with pytest.raises(CertificateError, match=r"certificate\.pem: not a PEM file with a certificate and its"):
        server_context(certificate)
    with pytest.raises(CertificateError, match=r"text\.pem: not a PEM file"):
        server_context(write(tmp_path, "text.pem", b"hello"), key)
