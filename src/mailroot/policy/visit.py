"""A visit, what may be said about it, and the answers a rule may give.

A rule is a plain function or method over values; it does no I/O, so it can be asked "what if" by
`mailroot explain` as well as by a session. What needs a look-up (the client's name by reverse DNS) is in the
Visit before the rule is asked.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mailroot.mail.reply import Reply

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Visit:
    """Who is there. `client` is the peer (an IPv4-mapped IPv6 address already unmapped), `listener` the
    "address:port" it came to. `name` is its verified reverse DNS name, lower case, None where unknown or not
    looked up. `helo` is "" before HELO. `user` is its login, "" while anonymous, and `mechanism` how it logged in
    (a SASL name, "certificate" or "XCLIENT"). `proxy` is who speaks for the client, "" where nobody does."""

    client: IPAddress
    listener: str
    name: str | None = None
    helo: str = ""
    tls: bool = False
    user: str = ""
    mechanism: str = ""
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class Accept:
    """Yes. `rule` says which rule decided, in words for the log and for `mailroot explain`."""

    rule: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, with this reply; the session goes on."""

    rule: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Hangup:
    """No, with this reply, and the connection is closed."""

    rule: str
    reply: Reply


Decision = Accept | Refuse | Hangup
