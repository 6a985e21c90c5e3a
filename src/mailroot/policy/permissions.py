"""What a client may send once it may hand in mail: which senders, which recipients, how much.

Entries are read in order; the first that fits the client holds, alone. A client that fits none may do everything
that the relay restrictions allow.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from mailroot.policy.limits import Quota
from mailroot.units import Doc


class Otherwise(StrEnum):
    """What becomes of a message with a sender that is not allowed."""

    REFUSE = "refuse"
    REWRITE = "rewrite"


@dataclass(frozen=True, slots=True)
class Permission:
    """An entry: whom it is about, and what they may do."""

    accounts: Annotated[
        tuple[str, ...], Doc("Accounts it is about; '*' is everybody who has logged in.", example='["crm"]')
    ] = ()
    networks: Annotated[
        tuple[str, ...],
        Doc("Clients it is about, written as in the relay restrictions.", example='["10.1.0.0/16"]'),
    ] = ()
    senders: Annotated[
        tuple[str, ...],
        Doc(
            "Sender addresses that may be used, in MAIL FROM and in From: 'crm@example.com', 'example.com' (any in "
            "that domain), '*.example.com', 'own address' (the account's name), 'own domain' (the account's, or "
            "the default domain), 'any'.",
            example='["crm@example.com", "own domain"]',
        ),
    ] = ("any",)
    otherwise: Annotated[
        Otherwise, Doc("A message with another sender: 'refuse' it, or 'rewrite' its sender to `rewrite_to`.")
    ] = Otherwise.REFUSE
    rewrite_to: Annotated[
        str,
        Doc(
            "The fixed sender for 'rewrite'; the original From becomes Reply-To, unless there is one.",
            example="noreply@example.com",
        ),
    ] = ""
    recipients: Annotated[
        tuple[str, ...],
        Doc("Recipient domains allowed. Empty: all.", example='["example.com", "*.example.org"]'),
    ] = ()
    quota: Annotated[Quota | None, Doc("How much, counted for each account, or for each client address.")] = None
