"""What a client may send once it may hand in mail: which senders, which recipients, how much.

Entries are read in order; the first that fits the client holds, alone. A client that fits none may do everything
that the relay restrictions allow.

A sender is compared as a mailbox is (RFC 5321 §2.4): domains in the form of `mail.address.domain_key`, ASCII local
parts without regard to case, quotes that are not needed left away. A local part that really needs its quotes is
never within a domain that is allowed as a whole: `"ceo@other.example,"@example.com` is there to be misread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from mailroot.mail.address import Address, domain_key
from mailroot.mail.reply import Reply
from mailroot.policy.auth.account_file import account_key
from mailroot.policy.domains import DomainPatterns, LocalDomains
from mailroot.policy.limits import Quota
from mailroot.policy.networks import ClientList, unmapped
from mailroot.policy.visit import Accept, Refuse, Visit
from mailroot.smtp.grammar import parse_mailbox
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


_SHOWN = 3
"""Of a list, so many entries are named in a reply: its line holds 512 octets (RFC 5321 §4.5.3.1.5)."""

_LONGEST_SHOWN = 160
"""Characters of a refused address in a reply."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The message goes on with this sender in place of its own."""

    rule: str
    sender: Address


class SenderRule:
    """Which senders a client may use, and what becomes of a message with another one.

    `rule` says in words which entry it is from. `rewrite_to` None: a message with another sender is refused.
    """

    __slots__ = ("_domains", "_mailboxes", "_own_domain", "_words", "rewrite_to", "rule")

    def __init__(
        self,
        rule: str,
        mailboxes: frozenset[tuple[str, str]],
        domains: DomainPatterns,
        own_domain: str,
        words: str,
        rewrite_to: Address | None,
    ) -> None:
        self.rule = rule
        self.rewrite_to = rewrite_to
        self._mailboxes = mailboxes
        self._domains = domains
        self._own_domain = own_domain
        self._words = words

    def allows(self, sender: Address) -> bool:
        """Whether this is one of the senders. What others are rewritten to always is."""
        local, domain = key = _mailbox_key(sender)
        if key in self._mailboxes or (self.rewrite_to is not None and key == _mailbox_key(self.rewrite_to)):
            return True
        return not local.startswith('"') and (domain == self._own_domain or self._domains.find(domain) is not None)

    def decide(self, sender: Address) -> Accept | Refuse | Rewrite:
        """What becomes of a message with this sender."""
        if self.allows(sender):
            return Accept(f"{self.rule}: {sender} is an allowed sender")
        if self.rewrite_to is not None:
            return Rewrite(f"{self.rule}: {sender} is rewritten to {self.rewrite_to}", self.rewrite_to)
        return self.refuse(str(sender))

    def refuse(self, shown: str) -> Refuse:
        """The refusal of a sender; `shown` names it, or says what stands in its place, on one line."""
        shown = shown[:_LONGEST_SHOWN]
        # In the words of Exchange, which programs and their administrators may have seen before.
        text = f"Client does not have permissions to send as this sender: {shown}; {self._words}"
        return Refuse(f"{self.rule}: {shown} is no allowed sender", Reply(550, "5.7.60", text))


@dataclass(frozen=True, slots=True)
class Grant:
    """What one client may send. `rule` says in words which entry it is from.

    `senders` None: any sender. `recipients` None: any domain. `quota` is counted by `quota_key`; None: none of its
    own.
    """

    rule: str
    senders: SenderRule | None = None
    recipients: DomainPatterns | None = None
    recipient_words: str = ""
    quota: Quota | None = None
    quota_key: str = ""

    def may_send_as(self, sender: Address | None) -> Accept | Refuse | Rewrite:
        """Asked at MAIL. The null reverse-path is for everybody: it is what reports come with (RFC 5321 §4.5.5)."""
        if self.senders is None or sender is None:
            return Accept(f"{self.rule}: {'any sender' if self.senders is None else 'the null sender'} is allowed")
        return self.senders.decide(sender)

    def may_send_to(self, recipient: Address) -> Accept | Refuse:
        """Asked at RCPT, after the relay restrictions."""
        if self.recipients is None:
            return Accept(f"{self.rule}: any recipient is allowed")
        found = self.recipients.find(recipient.domain_key)
        if found is not None:
            return Accept(f"{self.rule}: recipients at {found} are allowed")
        text = (
            f"Client does not have permissions to send to {str(recipient)[:_LONGEST_SHOWN]}; {self.recipient_words}"
        )
        return Refuse(f"{self.rule}: {recipient} is no allowed recipient", Reply(550, "5.7.1", text))


class Permissions:
    """The entries, read. Raises ValueError for one that cannot be."""

    __slots__ = ("_entries", "_free")

    def __init__(self, entries: tuple[Permission, ...], local: LocalDomains) -> None:
        self._entries = [_Entry(number, entry, local) for number, entry in enumerate(entries, 1)]
        rule = "access.permissions: no entry fits this client" if entries else "access.permissions: there are none"
        self._free = Grant(rule)

    def of(self, visit: Visit) -> Grant:
        """What this client may send; it holds until its login or address changes."""
        for entry in self._entries:
            if entry.fits(visit):
                return entry.grant(visit)
        return self._free


class _Entry:
    """A Permission, read. `number` counts from 1, as people count. Raises ValueError."""

    __slots__ = (
        "_accounts",
        "_clients",
        "_domains",
        "_local",
        "_mailboxes",
        "_number",
        "_recipients",
        "_rewrite_to",
        "_settings",
    )

    def __init__(self, number: int, settings: Permission, local: LocalDomains) -> None:
        if not settings.accounts and not settings.networks:
            raise ValueError("is about nobody; right would be accounts, networks or both")
        self._number = number
        self._settings = settings
        self._local = local
        self._accounts = frozenset(account_key(account.strip()) for account in settings.accounts)
        self._clients = ClientList(settings.networks) if settings.networks else None
        read = [read_sender(text) for text in settings.senders if text not in SENDER_WORDS]
        self._mailboxes = frozenset(_mailbox_key(one) for one in read if isinstance(one, Address))
        self._domains = DomainPatterns(tuple(one for one in read if isinstance(one, str)))
        self._rewrite_to = None
        if settings.otherwise is Otherwise.REWRITE and "any" not in settings.senders:
            self._rewrite_to = read_fixed_sender(settings.rewrite_to)
        self._recipients = DomainPatterns(settings.recipients) if settings.recipients else None

    def fits(self, visit: Visit) -> bool:
        """Whether the entry is about this client: by its account and by its address, where it says both."""
        if self._accounts and not (
            visit.user and ("*" in self._accounts or account_key(visit.user) in self._accounts)
        ):
            return False
        return self._clients is None or self._clients.find(unmapped(visit.client), visit.name) is not None

    def grant(self, visit: Visit) -> Grant:
        """What the entry says, to a client that it fits."""
        settings = self._settings
        rule = f"access.permissions, entry {self._number}"
        who = f"account {account_key(visit.user)}" if visit.user else f"client {unmapped(visit.client)}"
        return Grant(
            rule,
            None if "any" in settings.senders else self._sender_rule(rule, visit.user),
            self._recipients,
            f"allowed are {_shown(settings.recipients)}",
            settings.quota,
            f"permission {self._number}, {who}",
        )

    def _sender_rule(self, rule: str, user: str) -> SenderRule:
        mailboxes, own_domain = self._mailboxes, ""
        own = _own_address(user, self._local)
        words = [text for text in self._settings.senders if text not in SENDER_WORDS]
        if "own address" in self._settings.senders and own is not None:
            mailboxes |= {_mailbox_key(own)}
            words.append(str(own))
        if "own domain" in self._settings.senders:
            own_domain = domain_key(self._local.default if own is None else own.domain)
            words.append(own_domain)
        allowed = f"allowed are {_shown(words)}" if words else "none is allowed"
        return SenderRule(rule, mailboxes, self._domains, own_domain, allowed, self._rewrite_to)


SENDER_WORDS = frozenset({"any", "own address", "own domain"})


def read_sender(text: str) -> Address | str:
    """One entry of `senders` that is no word: an address, or a domain pattern as it is written. Raises ValueError,
    which says what would be right."""
    entry = text.strip()
    if "@" in entry:
        local, _, domain = entry.rpartition("@")
        if local in ("", "*"):
            raise ValueError(f"{text!r}: any address of a domain is written as {domain!r}")
        return parse_mailbox(entry, None)
    try:
        DomainPatterns((entry,))
    except ValueError as error:
        raise ValueError(f"{error}; also 'someone@example.com', 'own address', 'own domain' or 'any'") from None
    return entry


def read_fixed_sender(text: str) -> Address:
    """The address of `rewrite_to`. Its domain is in ASCII form, so that every next hop takes it (RFC 6531 §3.2).
    Raises ValueError, which says what would be right."""
    if not text.strip():
        raise ValueError("'rewrite' needs an address; right would be rewrite_to = \"noreply@example.com\"")
    address = parse_mailbox(text, None)
    if not address.local.isascii():
        raise ValueError(f"{text!r} is not ASCII before the @, and few hosts take such a sender")
    return Address(address.local, address.domain_key)


def _mailbox_key(address: Address) -> tuple[str, str]:
    """An address as it is compared."""
    local = address.local
    if local.startswith('"'):
        # RFC 5321 §4.1.2: quoted and plain forms of the same characters are the same mailbox.
        bare = _unquoted(local)
        try:
            plain = parse_mailbox(f"{bare}@{address.domain}", None)
        except ValueError:
            plain = address
        local = bare if plain.local == bare and not bare.startswith('"') else '"' + bare
    return local.lower() if local.isascii() else local, address.domain_key


def _unquoted(local: str) -> str:
    characters = iter(local[1:-1])
    return "".join(next(characters, "") if character == "\\" else character for character in characters)


def _own_address(user: str, local: LocalDomains) -> Address | None:
    """The address that an account's name is: its own, or with the default domain (that of Windows, before the
    backslash, is none of mail)."""
    try:
        return parse_mailbox(user.rpartition("\\")[2], local.default) if user else None
    except ValueError:
        return None


def _shown(entries: Sequence[str]) -> str:
    """A list in a reply's words."""
    shown = ", ".join(entry[:64] for entry in entries[:_SHOWN])
    return shown if len(entries) <= _SHOWN else f"{shown} and {len(entries) - _SHOWN} more"
