"""The General tab: where a virtual server listens, and as whom."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mailroot.units import MINUTE, Doc, Duration, Range


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """STARTTLS is offered when a certificate is set."""

    certificate: Annotated[Path, Doc("PEM file with the certificate and its chain.")]
    key: Annotated[Path | None, Doc("PEM file with the private key, if it is not in the certificate's file.")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """The General tab."""

    fqdn: Annotated[
        str,
        Doc(
            "Fully-qualified domain name: banner, EHLO, Received, Message-ID. Empty: the computer's own name.",
            example="relay.example.com",
        ),
    ] = ""
    listen: Annotated[
        tuple[str, ...],
        Doc("Addresses and ports to listen on; '*:25' is every address, IPv4 and IPv6."),
    ] = ("127.0.0.1:25", "[::1]:25")
    tls: Annotated[TlsSettings | None, Doc("Certificate for STARTTLS.")] = None
    max_connections: Annotated[
        int, Range(least=0), Doc("Limit number of connections to; 0: no limit. Further ones get a 421.")
    ] = 1000
    connection_timeout: Annotated[Duration, Doc("An idle session is closed after this time.")] = 10 * MINUTE
    mailroot: Annotated[
        Path,
        Doc(
            "The folder that holds Pickup, Queue, Drop and Badmail. Relative paths start at the configuration file."
        ),
    ] = Path("mailroot")
    pickup: Annotated[bool, Doc("Watch the Pickup folder.")] = True
    pickup_dot_stuffed: Annotated[
        bool,
        Doc("Files in Pickup have a leading dot doubled, as .NET and CDO write them; one dot is removed."),
    ] = True
