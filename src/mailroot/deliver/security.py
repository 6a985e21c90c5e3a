"""The Outbound Security dialog: how a next hop is logged in to and how safe the connection must be."""

from dataclasses import dataclass
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
    password: Annotated[SecretText, Doc("Its password.", example='{ file = "smart-host.password" }')] = ""
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
    ca_file: Annotated[Path | None, Doc("PEM file of further certificate authorities to trust.")] = None
    login_in_the_clear: Annotated[
        bool, Doc("Allow the password to be sent without TLS. Anyone on the way can read it then.")
    ] = False
