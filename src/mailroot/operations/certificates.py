"""The certificates in use on some virtual servers, and what a certificate file says."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mailroot.net.certificate_file import CertificateInfo, look_at
from mailroot.net.tls import CertificateError
from mailroot.operations.servers import Invalid, VirtualServer


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """One certificate. `server` is "" for one that is only looked at; `default`: it serves clients that ask for no
    name, or for one that no certificate has. For the rest see `net.certificate_file.CertificateInfo`."""

    server: str
    default: bool
    file: str
    names: tuple[str, ...]
    issuer: str
    not_before: float
    ends: float
    fingerprint: str
    key: str
    self_signed: bool
    chain: int

    @classmethod
    def of(cls, info: CertificateInfo, server: str = "", *, default: bool = False) -> "CertificateStatus":
        return cls(
            server,
            default,
            info.file,
            info.names,
            info.issuer,
            info.not_before,
            info.ends,
            info.fingerprint,
            info.key,
            info.self_signed,
            info.chain,
        )


def certificates_of(servers: Iterable[VirtualServer]) -> list[CertificateStatus]:
    """What each server serves TLS with, the default of each in front. A stopped one serves nothing."""
    return [
        CertificateStatus.of(info, server.name, default=n == 0)
        for server in servers
        if server.certificates is not None
        for n, info in enumerate(server.certificates.shown())
    ]


def certificate_in(file: Path, password: str = "") -> CertificateStatus:
    """What the first certificate of a file says; its key is not needed. Raises Invalid."""
    try:
        return CertificateStatus.of(look_at(file, password))
    except CertificateError as error:
        raise Invalid(str(error)) from None
