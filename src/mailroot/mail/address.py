"""A mailbox address as the envelope carries it (RFC 5321 §4.1.2, RFC 6531 §3.3).

The grammar that reads one from a command line is smtp.grammar; this is only the value.
"""

from dataclasses import dataclass

import idna


@dataclass(frozen=True, slots=True)
class Address:
    """Local part and domain, both as the client wrote them: what came in is what goes out.

    `local` keeps its quotes if it had any. `domain` is a name (ASCII or U-label), or an address literal
    with its brackets. The null reverse-path `<>` is no Address; where it may stand, the type is
    `Address | None`.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def domain_key(self) -> str:
        """The domain for comparisons and look-ups: see `domain_key`."""
        return domain_key(self.domain)

    @property
    def is_ascii(self) -> bool:
        """Whether the address can be sent to a peer without SMTPUTF8 as it stands."""
        return self.local.isascii() and self.domain.isascii()

    @property
    def is_literal(self) -> bool:
        """Whether the domain is an address literal such as `[192.0.2.1]` (RFC 5321 §4.1.3)."""
        return self.domain.startswith("[")


def domain_key(domain: str) -> str:
    """A domain name in the one form we compare: A-labels, lower case, no trailing dot (RFC 5890 §2.3.2.1).

    A name that IDNA refuses is only lower-cased, so that it equals itself and nothing else.
    """
    if domain.isascii():
        return domain.lower().rstrip(".")
    try:
        return idna.encode(domain, uts46=True).decode("ascii").lower().rstrip(".")
    except idna.IDNAError:
        return domain.lower().rstrip(".")
