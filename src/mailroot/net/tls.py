"""How TLS is set up: its versions, and where a server's certificates are. `net.certificates` reads them."""

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
