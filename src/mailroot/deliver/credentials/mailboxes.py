"""Which mailbox logs in for which sender: XOAUTH2's `user`, and Google's `sub`.

Pure. Usually a sender's own mailbox sends; a sender that has none is mapped to one that may send for it.
"""

from dataclasses import dataclass
from typing import Annotated

from mailroot.deliver.credentials.base import LoginImpossible
from mailroot.mail.address import Address
from mailroot.policy.domains import DomainPatterns
from mailroot.policy.permissions import read_sender
from mailroot.units import Doc

_NULL = "<>"


@dataclass(frozen=True, slots=True)
class MailboxRule:
    """Which mailbox logs in for some senders."""

    senders: Annotated[
        tuple[str, ...],
        Doc(
            'Addresses, domains ("example.com", "*.example.com"), or "<>" for messages without a sender, as are '
            "reports.",
            example='["printer@example.com", "*.apps.example.com"]',
        ),
    ]
    mailbox: Annotated[
        str, Doc("The mailbox that logs in. Empty: the sender's own.", example="relay@example.com")
    ] = ""


class Mailboxes:
    """The rules of a route: the first that fits, else one mailbox for all, else the sender's own."""

    __slots__ = ("_default", "_rules")

    def __init__(self, setting: str, rules: tuple[MailboxRule, ...], default: str) -> None:
        """Raises ValueError, beginning with `setting`, for what cannot be read."""
        self._default = default
        self._rules = tuple(_read(setting, rule) for rule in rules)
        for mailbox in (default, *(rule.mailbox for rule in rules)):
            if mailbox and not _is_sendable(mailbox):
                raise ValueError(f"{setting}: '{mailbox}' is not a mailbox; right would be 'relay@example.com'")

    @property
    def fixed(self) -> str:
        """The one mailbox for all senders, "" where it depends."""
        return "" if self._rules else self._default

    def of(self, sender: Address | None) -> str:
        """Who logs in. Raises LoginImpossible."""
        mailbox = self._default
        for addresses, domains, has_null, chosen in self._rules:
            if sender is None:
                fits = has_null
            else:
                fits = _key(sender) in addresses or domains.find(sender.domain_key) is not None
            if fits:
                mailbox = chosen
                break
        if mailbox:
            return mailbox
        if sender is None:
            raise LoginImpossible(
                'A message without a sender has no mailbox to log in as; right would be a rule for "<>" under '
                "mailboxes.",
                mailbox=True,
            )
        own = str(sender)
        if not _is_sendable(own):
            raise LoginImpossible(f"{own!r} cannot be a mailbox's name in a login.", mailbox=True)
        return own


_Rule = tuple[frozenset[tuple[str, str]], DomainPatterns, bool, str]


def _read(setting: str, rule: MailboxRule) -> _Rule:
    addresses: set[tuple[str, str]] = set()
    patterns: list[str] = []
    if not rule.senders:
        raise ValueError(f"{setting}: a rule without 'senders' fits nobody")
    for text in rule.senders:
        if text.strip() == _NULL:
            continue
        try:
            entry = read_sender(text)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None
        if isinstance(entry, Address):
            addresses.add(_key(entry))
        else:
            patterns.append(entry)
    has_null = any(text.strip() == _NULL for text in rule.senders)
    return frozenset(addresses), DomainPatterns(tuple(patterns)), has_null, rule.mailbox


def _key(address: Address) -> tuple[str, str]:
    return address.local.lower(), address.domain_key


def _is_sendable(mailbox: str) -> bool:
    # A control character would end the name in the octets of XOAUTH2.
    return "@" in mailbox and mailbox.isprintable() and len(mailbox) <= 320
