"""The server's TLS context from PEM files. Certificates are read when a virtual server starts or reloads."""

import ssl
from pathlib import Path


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
