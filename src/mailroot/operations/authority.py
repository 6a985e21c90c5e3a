"""A certificate of one's own: a small authority, whose certificate clients are given once, and what it signs.

The authority stays when the server's certificate is renewed, so no client has to learn anew. Keys are made private
before there is anything in them. What somebody else has put into the folder is not touched.
"""

import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailroot.net.certificate_file import look_at, read_certificate, read_chain
from mailroot.net.tls import CertificateError, CertificateFile
from mailroot.operations.certificates import CertificateStatus, certificate_in
from mailroot.operations.servers import Conflict, Invalid, OperationError
from mailroot.policy.domains import read_pattern
from mailroot.system import keep_owner, make_private, sync_folder
from mailroot.units import DAY

if TYPE_CHECKING:
    from cryptography import x509

AUTHORITY = "ca.pem"
AUTHORITY_KEY = "ca.key"
SERVER = "relay.pem"
SERVER_KEY = "relay.key"

_AUTHORITY_DAYS = 3650
_LONGEST_COMMON_NAME = 64
# Old devices know RSA alone, and not all of them large keys.
_KEY_BITS = 2048
_AUTHORITY_KEY_BITS = 3072


@dataclass(frozen=True, slots=True)
class Made:
    """What was made: the server's certificate in `certificate.file` with its key in `key`, signed by `authority`.
    `new_authority`: that one is new, too, and clients need its file."""

    certificate: CertificateStatus
    key: str
    authority: CertificateStatus
    new_authority: bool


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: "x509.Certificate"
    key: Any


def default_names(configured: Sequence[str] = ()) -> tuple[str, ...]:
    """What clients on this computer and around it call it, those of the configuration first. May take a while, by
    DNS."""
    full = socket.getfqdn().lower()
    # What hosts files make of it in practice is no name for others.
    full = "" if full.startswith("localhost") else full
    names = []
    for name in (*configured, full, socket.gethostname().lower(), "localhost", "127.0.0.1", "::1"):
        with suppress(Invalid):
            names.append(_read_name(name))
    return tuple(dict.fromkeys(names))


def make_certificate(
    folder: Path,
    names: Sequence[str],
    days: int,
    *,
    configured: Sequence[str] = (),
    force: bool = False,
    now: float,
) -> Made:
    """Make a server's certificate that is valid for `days` from `now` on (seconds since the epoch), and the
    authority that signs it where the folder has none.

    Without `names`: those it had, or `default_names(configured)`. What is there and was not made here, or cannot be
    used any more, is replaced with `force` alone. Raises OperationError.
    """
    read = tuple(dict.fromkeys(map(_read_name, names)))
    if days < 1:
        raise Invalid("a certificate is valid for one day at least")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        authority = _find_authority(folder, now, force=force)
        before = _find_own(folder, authority, force=force)
        fresh = authority is None
        if authority is None:
            authority = _new_authority(now)
            _write(folder, AUTHORITY_KEY, _key_pem(authority.key), private=True)
            _write(folder, AUTHORITY, _pem(authority.certificate))
        certificate, key = _sign(authority, read or before or default_names(configured), days, now)
        # The key first: with the certificate that is still there it does not fit, and a server keeps what it has.
        _write(folder, SERVER_KEY, _key_pem(key), private=True)
        _write(folder, SERVER, _pem(certificate))
        sync_folder(folder)
    except OSError as error:
        where = error.filename or folder
        raise OperationError(f"{where}: cannot be written: {(error.strerror or str(error)).lower()}") from None
    return Made(
        certificate_in(folder / SERVER), str(folder / SERVER_KEY), certificate_in(folder / AUTHORITY), fresh
    )


def _read_name(text: str) -> str:
    """A DNS name in the form certificates have, perhaps with a star, or an address. Raises Invalid."""
    text = text.strip()
    with suppress(ValueError):
        return str(ip_address(text.strip("[]")))
    try:
        name = read_pattern(text)
        return name if name.isascii() else ".".join(map(_ascii_label, name.split(".")))
    except ValueError as error:
        raise Invalid(f"{error}; an IP address will do, too") from None


def _ascii_label(label: str) -> str:
    import idna

    return label if label.isascii() else idna.alabel(label).decode()


# What is there


def _find_authority(folder: Path, now: float, *, force: bool) -> _Authority | None:
    """The authority of an earlier call; None: a new one is to be made."""
    certificate, key = folder / AUTHORITY, folder / AUTHORITY_KEY
    if not certificate.exists() and not key.exists():
        return None
    try:
        found = read_certificate(CertificateFile(certificate, key))
    except CertificateError as error:
        if force:
            return None
        raise Conflict(
            f"{error}. It is no authority that can sign; with --force a new one takes its place, and clients need "
            f"its {AUTHORITY}"
        ) from None
    if found.info.ends < now + DAY:
        if force:
            return None
        raise Conflict(
            f"{certificate}: the authority has ended; with --force a new one takes its place, and clients need its "
            f"{AUTHORITY}"
        )
    if not _may_sign(found.chain[0]):
        # Somebody else's, perhaps a public one that has only its name in common.
        if force:
            return None
        raise Conflict(f"{certificate} is not an authority's certificate; name another --folder, or say --force")
    return _Authority(found.chain[0], found.key)


def _may_sign(certificate: "x509.Certificate") -> bool:
    from cryptography.x509 import BasicConstraints, ExtensionNotFound

    try:
        return certificate.extensions.get_extension_for_class(BasicConstraints).value.ca
    except (ExtensionNotFound, ValueError):
        return False


def _find_own(folder: Path, authority: _Authority | None, *, force: bool) -> tuple[str, ...]:
    """The names of the certificate that is to be renewed, none where there is none. Raises Conflict where there is
    one that this authority has not signed."""
    certificate, key = folder / SERVER, folder / SERVER_KEY
    if not certificate.exists() and (force or not key.exists()):
        return ()
    try:
        # Its key does not matter: the last call may have been interrupted between the two.
        own = read_chain(certificate)[0]
        reason = f"{certificate} was not made here"
        if authority is not None and _is_signed(own, authority):
            return look_at(certificate).names
    except CertificateError as error:
        reason = str(error)
    if force:
        return ()
    raise Conflict(f"{reason}. Name another --folder, or say --force to replace it")


def _is_signed(certificate: "x509.Certificate", authority: _Authority) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# What is made


def _new_authority(now: float) -> _Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, _AUTHORITY_KEY_BITS)
    computer = re.sub(r"[^\w.-]", "", socket.gethostname())[:30]
    # No two of them have one name: a client that knows the old one would say the new one's signatures are wrong.
    subject = _name(f"Mailroot CA {computer} {datetime.fromtimestamp(now, UTC):%Y-%m-%d %H%M%S}")
    builder = (
        _builder(subject, subject, key.public_key(), now, _AUTHORITY_DAYS * DAY)
        # Below it are servers only, and no further authority.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return _Authority(builder.sign(key, hashes.SHA256()), key)


def _sign(authority: _Authority, names: Sequence[str], days: int, now: float) -> tuple["x509.Certificate", Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = rsa.generate_private_key(65537, _KEY_BITS)
    issuer = authority.certificate
    # It cannot outlive what signs it.
    lasts = min(days * DAY, issuer.not_valid_after_utc.timestamp() - now)
    common = next((name for name in names if len(name) <= _LONGEST_COMMON_NAME), "Mailroot")
    alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
    builder = (
        _builder(_name(common), issuer.subject, key.public_key(), now, lasts)
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_encipherment=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    return builder.sign(authority.key, hashes.SHA256()), key


def _builder(
    subject: "x509.Name", issuer: "x509.Name", key: Any, now: float, lasts: float
) -> "x509.CertificateBuilder":
    from cryptography import x509

    begin = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Not every client's clock is right.
        .not_valid_before(begin - timedelta(days=1))
        .not_valid_after(begin + timedelta(seconds=lasts))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(text: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> "x509.GeneralName":
    from cryptography import x509

    with suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    return x509.DNSName(name)


def _usage(**allowed: bool) -> "x509.KeyUsage":
    from cryptography import x509

    all_of_them = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{use: allowed.get(use, False) for use in all_of_them})


# Files


def _pem(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    octets: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return octets


def _write(folder: Path, name: str, octets: bytes, *, private: bool = False) -> None:
    """Whole or not at all. Whoever the folder belongs to is who reads it: the service, where root makes it."""
    draft = folder / f".{name}.new"
    draft.unlink(missing_ok=True)
    try:
        with draft.open("xb") as file:
            if private:
                # Before there is anything in it to read.
                make_private(draft)
            keep_owner(draft, folder)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / name)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
