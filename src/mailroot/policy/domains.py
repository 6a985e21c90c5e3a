"""Which domains are ours, and how a domain is written in a list: `example.com`, or `*.example.com`.

Only names are compared here, in the form of `mail.address.domain_key`. Nothing in an address can pass for
another domain: the local part is never looked into (`user%other.example`, `other.example!user` and
`"user@other.example"` stay mailboxes of the domain behind the last @; RFC 5321 §2.3.11), and an address literal
is no domain of ours, also where it is an address of this machine.
"""

import re

from mailroot.mail.address import domain_key

# Underscores are not in RFC 1123 §2.1, but stand in names of real Windows machines.
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def read_domain(text: str) -> str:
    """A domain name from the configuration in its compared form (`domain_key`). Raises ValueError."""
    key = domain_key(text.strip())
    if "@" in key:
        raise ValueError(
            f"{text!r} is an address; a domain name is its part after the @: {key.rpartition('@')[2]!r}"
        )
    if not key or len(key) > 253 or not all(map(_LABEL.fullmatch, key.split("."))):
        raise ValueError(f"{text!r} is not a domain name; right would be 'example.com'")
    if "." in key and key.rpartition(".")[2].isdecimal():
        # A single label may be a number: containers get such computer names.
        raise ValueError(
            f"{text!r} is not a domain name, its last part being a number; right would be 'example.com'"
        )
    return key


def read_pattern(text: str) -> str:
    """`example.com` or `*.example.com` from the configuration in compared form. Raises ValueError."""
    text = text.strip()
    if "*" not in text:
        return read_domain(text)
    if not text.startswith("*.") or "*" in text[2:]:
        # The star is legal only as first character and must be followed by a dot, as in the old dialog.
        raise ValueError(f"{text!r}: a star stands only in front, before a dot; right would be '*.example.com'")
    return "*." + read_domain(text[2:])


def matches(pattern: str, domain_key: str) -> bool:
    """Whether a pattern (as `read_pattern` gives it) means this domain; `*.example.com` wants a label before."""
    if pattern.startswith("*."):
        return domain_key.endswith(pattern[1:]) and len(domain_key) >= len(pattern)
    return domain_key == pattern


class DomainPatterns:
    """A list of patterns, asked for the one that fits a domain best. Raises ValueError for a bad pattern."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        read = [read_pattern(pattern) for pattern in patterns]
        self._names = frozenset(pattern for pattern in read if not pattern.startswith("*."))
        self._below = frozenset(pattern[2:] for pattern in read if pattern.startswith("*."))

    def find(self, domain_key: str) -> str | None:
        """The pattern that means this domain: the name itself before `*.`, the longer `*.` before the shorter."""
        if domain_key in self._names:
            return domain_key
        if self._below:
            label, dot, rest = domain_key.partition(".")
            while label and dot:
                if rest in self._below:
                    return f"*.{rest}"
                label, dot, rest = rest.partition(".")
        return None


class LocalDomains:
    """The default local domain and its aliases; mail for them goes to the Drop folder.

    `default` is what unqualified addresses get, as it is written in the configuration. An alias may be a
    pattern. Raises ValueError for a bad name.
    """

    __slots__ = ("_patterns", "default")

    def __init__(self, default: str, aliases: tuple[str, ...] = ()) -> None:
        self.default = default.strip()
        self._patterns = DomainPatterns((read_domain(default), *aliases))

    def is_local(self, domain_key: str) -> bool:
        """Whether this domain (a `domain_key`) is the default domain or an alias."""
        return self._patterns.find(domain_key) is not None
