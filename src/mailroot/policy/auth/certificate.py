"""Client certificates as logins: which certificate is which account.

That the client has the certificate's key, and that it is valid and signed by whom we trust, TLS has seen to; here
is only whose it is. Names are read by the cryptography library, loaded with the first certificate that wants it.
"""

import hashlib
import hmac
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailroot.policy.auth.settings import ClientCertificate

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Known:
    """One entry: `fingerprint` is SHA-256 of the certificate, or None where its `name`, in lower case, counts."""

    account: str
    fingerprint: bytes | None
    name: str


class ClientCertificates:
    """The certificates that are logins. Raises ValueError, saying which setting, for what cannot work."""

    def __init__(self, entries: Sequence[ClientCertificate], ca: Path | None) -> None:
        self._known = [_known(entry, number, ca) for number, entry in enumerate(entries)]
        self._by_name = any(one.fingerprint is None for one in self._known)
        self._files = tuple(dict.fromkeys(entry.file for entry in entries if entry.file is not None))
        self._ca = ca
        # Read only where needed, and then now, so that a file that cannot be read is known now.
        self._authorities = _certificates(ca, "client_ca") if ca is not None else []

    def __bool__(self) -> bool:
        return bool(self._known)

    @property
    def anchors(self) -> tuple[Path, ...]:
        """What TLS has to trust: the CA's file, and every pinned certificate's."""
        return (*(() if self._ca is None else (self._ca,)), *self._files) if self._known else ()

    def account(self, der: bytes) -> str | None:
        """Whose certificate this is; the first entry that fits."""
        fingerprint = hashlib.sha256(der).digest()
        names = self._names(der) if self._by_name else ()
        found = None
        # To the end, so that the time does not tell which entry it was.
        for one in self._known:
            if one.fingerprint is not None:
                fits = hmac.compare_digest(one.fingerprint, fingerprint)
            else:
                wanted = one.name.encode()
                fits = any([hmac.compare_digest(wanted, name.encode()) for name in names])  # noqa: C419
            if fits and found is None:
                found = one.account
        return found

    def _names(self, der: bytes) -> tuple[str, ...]:
        """The names in a certificate that the CA signed, in lower case."""
        from cryptography.x509 import load_der_x509_certificate

        try:
            certificate = load_der_x509_certificate(der)
            if self._files and not self._is_of_ca(certificate):
                return ()
            return _names(certificate)
        except ValueError:
            return ()  # What cannot be parsed names nobody.

    def _is_of_ca(self, certificate: "Certificate") -> bool:
        """Whether an authority of `client_ca` signed it itself. TLS trusts pinned certificates too, and whoever has
        the key of one of these could sign another with any name in it."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.x509 import load_der_x509_certificate

        for der in self._authorities:
            try:
                certificate.verify_directly_issued_by(load_der_x509_certificate(der))
            except (ValueError, TypeError, InvalidSignature):
                continue
            return True
        return False


def _known(entry: ClientCertificate, number: int, ca: Path | None) -> _Known:
    where = f"client_certificates[{number}] ({entry.account!r})"
    if not entry.account:
        raise ValueError(f"client_certificates[{number}] names no account")
    given = [entry.file is not None, bool(entry.fingerprint), bool(entry.name)]
    if given.count(True) != 1:
        raise ValueError(f"{where} needs one of 'file', 'fingerprint' and 'name', and only one")
    if entry.file is not None:
        certificate = _certificates(entry.file, where)[0]
        return _Known(entry.account, hashlib.sha256(certificate).digest(), "")
    if ca is None:
        raise ValueError(
            f"{where} has no 'client_ca' that could have signed it; right would be that, or its 'file'"
        )
    if entry.fingerprint:
        digits = re.sub(r"[:\s-]", "", entry.fingerprint).lower()
        if not _FINGERPRINT.fullmatch(digits):
            raise ValueError(f"{where} has no SHA-256 fingerprint; right would be 64 hexadecimal digits")
        return _Known(entry.account, bytes.fromhex(digits), "")
    return _Known(entry.account, None, entry.name.strip().lower())


def _certificates(file: Path, where: str) -> list[bytes]:
    """The certificates of a PEM file, in DER. Raises ValueError."""
    try:
        text = file.read_text("ascii", errors="replace")
    except OSError as error:
        raise ValueError(f"{where}: {file}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    found = [_der(pem) for pem in _PEM.findall(text)]
    if not found or b"" in found:
        raise ValueError(f"{where}: {file}: right would be a PEM file with a certificate")
    return found


def _der(pem: str) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(pem)
    except ValueError:
        return b""


def _names(certificate: "Certificate") -> tuple[str, ...]:
    """DNS names and mail addresses of the subjectAltName; where it has none, the common name (RFC 6125 §6.4.4)."""
    from cryptography.x509 import DNSName, ExtensionNotFound, RFC822Name, SubjectAlternativeName
    from cryptography.x509.oid import NameOID

    try:
        alternative = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        names = [
            *alternative.get_values_for_type(DNSName),
            *alternative.get_values_for_type(RFC822Name),
        ]
    except ExtensionNotFound:
        names = []
    if not names:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(attribute.value) for attribute in common]
    return tuple(name.strip().lower() for name in names)
