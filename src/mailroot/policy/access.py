"""The Access tab: connection control and relay restrictions."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from mailroot.units import Doc


class Mode(StrEnum):
    """The two modes of the old dialogs."""

    ONLY = "only the list"
    EXCEPT = "all except the list"


@dataclass(frozen=True, slots=True)
class AccessList:
    """Single addresses, networks and domain names, and what being on the list means."""

    mode: Annotated[Mode, Doc("'only the list' or 'all except the list'.")]
    list: Annotated[
        tuple[str, ...],
        Doc(
            "Single addresses ('10.0.0.5', '::1'), networks ('10.0.0.0/8', '10.0.0.0/255.0.0.0') and domain names "
            "('example.com' and all below it; needs a reverse look-up of each client).",
            example='["127.0.0.1", "::1", "10.1.0.0/16"]',
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """The Access tab."""

    connection: Annotated[AccessList, Doc("Connection control: who may connect at all.")] = field(
        default_factory=lambda: AccessList(Mode.EXCEPT)
    )
    relay: Annotated[
        AccessList,
        Doc("Relay restrictions: who may send to domains that are not local. The sender address plays no part."),
    ] = field(default_factory=lambda: AccessList(Mode.ONLY, ("127.0.0.1", "::1")))
    reverse_dns: Annotated[
        bool,
        Doc("Look each client's name up; a name that does not fit its HELO is marked 'unverified' in Received."),
    ] = False
