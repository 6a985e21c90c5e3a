"""The server's TLS context from PEM files. Certificates are read when a virtual server starts or reloads."""

import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from mailroot.units import Doc, SecretText


class TlsVersion(StrEnum):
    """Versions of TLS, oldest first."""

    TLS_1_0 = "1.0"
    TLS_1_1 = "1.1"
    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """A certificate with its chain and its private key. Clients that ask for one of its names get it; the first of
    the list serves all others. Changed files are read again by themselves."""

    file: Annotated[
        Path, Doc("PEM file with the certificate and its chain, or PKCS#12 file (.pfx, .p12).", example="relay.pem")
    ]
    key: Annotated[
        Path | None,
        Doc("PEM file with the private key, if it is not in the certificate's file.", example="relay.key"),
    ] = None
    password: Annotated[
        SecretText, Doc("Of the private key or the PKCS#12 file.", example='{ file = "relay.password" }')
    ] = ""


class CertificateError(Exception):
    """A certificate or key cannot be used; the text is for an administrator and names the file."""


def server_context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """A context for STARTTLS: TLS 1.2 and later, the certificate with its chain from `certificate`, the private
    key from `key`, or from the same file. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No tickets: a session is one connection, and a ticket sent after the handshake is one more packet.
    context.num_tickets = 0
    for file in (certificate, key):
        if file is not None:
            _check_readable(file)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        raise CertificateError(_explain(error, certificate, key)) from None
    except ValueError as error:
        raise CertificateError(f"{key or certificate}: {error}") from None
    return context


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise CertificateError(f"{file}: cannot be read: {(error.strerror or str(error)).lower()}") from None


def _refuse_password() -> str:
    # Without this OpenSSL would ask for it at the terminal.
    raise ValueError("the private key is encrypted; right would be a key without a passphrase")


def _explain(error: ssl.SSLError, certificate: Path, key: Path | None) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{certificate}: the certificate does not belong to the private key in {key or certificate}"
    if key is None:
        return f"{certificate}: not a PEM file with a certificate and its private key ({error.reason or error})"
    return (
        f"{certificate}: not a PEM file with a certificate, or {key} not one with its key ({error.reason or error})"
    )
