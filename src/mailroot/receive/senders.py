"""Who a message says it is from, against the senders that its client may use.

From and Sender must be allowed, each of their mailboxes, and so must Resent-From and Resent-Sender, which some
programs show as if they were From. A message without From claims nothing: whoever adds one later takes it from
MAIL FROM, which was checked by itself. Display names are free.

Where a wrong sender is rewritten:

- From becomes the fixed sender, with the original's display name, or the original address where it had none;
- the original From becomes Reply-To, if there is no Reply-To, and if it is made of addresses;
- Sender goes where From was rewritten, which now says the same; a wrong one by itself, or in Resent-From and
  Resent-Sender, becomes the fixed sender;
- DKIM signatures go. They sign From (RFC 6376 §5.4), so they could only fail, and a broken signature makes
  receivers more suspicious than none.

All other octets stay as they came.
"""

from dataclasses import dataclass

from mailroot.mail.address import Address
from mailroot.mail.header import decode_words
from mailroot.mail.mailboxes import NAME_LENGTH, Mailbox, read_originators
from mailroot.mail.originators import Field, copied_field, cut, named_field
from mailroot.policy.permissions import SenderRule
from mailroot.policy.visit import Refuse
from mailroot.smtp.grammar import parse_mailbox

_NAMES = {
    b"from": b"From",
    b"sender": b"Sender",
    b"resent-from": b"Resent-From",
    b"resent-sender": b"Resent-Sender",
}

_MOST_OCTETS = 16 * 1024
"""Of these fields, all together, that are read: it is done between the octets of other sessions."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A header with other senders. `original` is the first wrong one, as text for people."""

    header: bytes
    original: str


def check(header: bytes, rule: SenderRule) -> Rewritten | Refuse | None:
    """Whether a header, which ends with the CRLF of its last field, names only allowed senders: then None."""
    checking = _Checking(cut(header), rule)
    if not checking.wrong:
        return None
    first, original = checking.first()
    if rule.rewrite_to is None:
        # In ASCII: the client may not have said SMTPUTF8 (RFC 6531 §3.7.4).
        said = original.encode("ascii", "backslashreplace").decode("ascii")
        return rule.refuse(f"{said} in {_NAMES[first.name].decode()}")
    return Rewritten(checking.rewritten(rule.rewrite_to), original)


class _Checking:
    """A header's fields; by their places, whom those that say it name (None: it cannot be known), and which of them
    name somebody who is not allowed."""

    def __init__(self, fields: list[Field], rule: SenderRule) -> None:
        self._fields = fields
        self._rule = rule
        places = [place for place, field in enumerate(fields) if field.name in _NAMES]
        is_short = sum(len(fields[place].octets) for place in places) <= _MOST_OCTETS
        self._named = {place: read_originators(fields[place].value) if is_short else None for place in places}
        self.wrong = {place for place, named in self._named.items() if not self._is_allowed(place, named)}

    def _is_allowed(self, place: int, named: tuple[Mailbox, ...] | None) -> bool:
        # One without mailboxes is empty, or has something to show nevertheless, such as the name of a group.
        return all(map(self._allows, named)) if named else not self._fields[place].value

    def _allows(self, mailbox: Mailbox) -> bool:
        address = _address(mailbox)
        return address is not None and self._rule.allows(address)

    def first(self) -> tuple[Field, str]:
        """The first wrong field, and what is wrong in it."""
        place = min(self.wrong)
        named = [mailbox for mailbox in self._named[place] or () if not self._allows(mailbox)]
        words = named[0].address.encode() if named and named[0].address else self._fields[place].value
        return self._fields[place], decode_words(words, NAME_LENGTH)

    def rewritten(self, fixed: Address) -> bytes:
        """The header with `fixed` in place of whom is not allowed."""
        authors = [place for place in self._named if self._fields[place].name == b"from"]
        new_from = not self.wrong.isdisjoint(authors)
        octets: list[bytes] = []
        for place, field in enumerate(self._fields):
            match field.name:
                case b"dkim-signature":
                    pass
                case b"from" if new_from:
                    # One field, where the first one was.
                    octets += self._new_author(authors, fixed) if place == authors[0] else ()
                case b"sender" if new_from and place in self.wrong:
                    pass
                case name if place in self.wrong:
                    octets.append(named_field(_NAMES[name], "", str(fixed)))
                case _:
                    octets.append(field.octets)
        return b"".join(octets)

    def _new_author(self, authors: list[int], fixed: Address) -> list[bytes]:
        """The new From, and the Reply-To if it needs one."""
        named = [mailbox for place in authors for mailbox in self._named[place] or ()]
        name = (named[0].name or named[0].address) if named else ""
        name = name or decode_words(self._fields[authors[0]].value, NAME_LENGTH)
        octets = [named_field(b"From", name, str(fixed))]
        sources = [self._fields[place] for place in authors if _are_addresses(self._named[place])]
        if sources and not any(field.name == b"reply-to" for field in self._fields):
            octets.append(copied_field(b"Reply-To", sources))
        return octets


def _are_addresses(named: tuple[Mailbox, ...] | None) -> bool:
    return bool(named) and all(_address(mailbox) is not None for mailbox in named or ())


def _address(mailbox: Mailbox) -> Address | None:
    try:
        return parse_mailbox(mailbox.address, None)
    except ValueError:
        return None
