"""The Outbound Security dialog: how a next hop is logged in to and how safe the connection must be."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from mailroot.units import Doc, SecretText


class TlsPolicy(StrEnum):
    """How much TLS a route asks for."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    IMPLICIT = "implicit"


@dataclass(frozen=True, slots=True)
class OutboundSecurity:
    """The Outbound Security dialog."""

    username: Annotated[
        str, Doc("Basic authentication: log in as this user; empty: anonymous access.", example="relay@example.com")
    ] = ""
    password: Annotated[SecretText, Doc("Its password.", example='{ file = "smart-host.password" }')] = field(
        default="", repr=False
    )
    tls: Annotated[
        TlsPolicy,
        Doc(
            "'none', 'opportunistic' (STARTTLS where offered, any certificate), 'required' (STARTTLS with a valid "
            "certificate, or no delivery), 'implicit' (TLS from the start, valid certificate; usually port 465)."
        ),
    ] = TlsPolicy.OPPORTUNISTIC
    verify_certificate: Annotated[
        bool, Doc("With 'required' and 'implicit': check name, chain and dates of the certificate.")
    ] = True
    ca_file: Annotated[
        Path | None, Doc("PEM file of further certificate authorities to trust.", example="authorities.pem")
    ] = None
    login_in_the_clear: Annotated[
        bool, Doc("Allow the password to be sent without TLS. Anyone on the way can read it then.")
    ] = False

    @property
    def needs_tls(self) -> bool:
        """Whether nothing may be delivered without TLS."""
        return self.tls in (TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT)

    def describe(self) -> str:
        """In words, without the password: "TLS required, login as relay@example.com"."""
        words = {
            TlsPolicy.NONE: "no TLS",
            TlsPolicy.OPPORTUNISTIC: "TLS if offered",
            TlsPolicy.REQUIRED: "TLS required",
            TlsPolicy.IMPLICIT: "TLS from the start",
        }[self.tls]
        if self.needs_tls and not self.verify_certificate:
            words += ", certificate not checked"
        return f"{words}, login as {self.username}" if self.username else f"{words}, no login"


def tls_context(security: OutboundSecurity) -> ssl.SSLContext | None:
    """What a handshake with this security wants; None: no TLS. Costly, so make one per route.

    Raises OSError (ssl.SSLError is one) for a CA file that cannot be read.
    """
    if security.tls is TlsPolicy.NONE:
        return None
    if not (security.needs_tls and security.verify_certificate):
        # Opportunistic: any certificate is better than none (RFC 7435 §1.2).
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context()
    if security.ca_file is not None:
        context.load_verify_locations(cafile=security.ca_file)
    return context
