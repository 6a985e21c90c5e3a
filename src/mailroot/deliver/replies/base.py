"""What a remote host's reply means, whose fault it is, what to do, and what becomes of the message.

Pure: the values, and the table that finds the entry a reply has. `shipped` has the table that comes with Mailroot.
Remote text is a stranger's: no more than `LOOKED_AT` characters of it are looked at, for plain fragments and
patterns that cannot run away, and nothing of it gets into what is said here.

Codes are those of RFC 5321 §4.2, enhanced status codes those of RFC 3463 and RFC 5248's registry.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from mailroot.mail.reply import Reply
from mailroot.mail.status import is_valid, quoted

LOOKED_AT = 2048
"""Characters of a reply's text that are looked at."""

_DEEPEST = 4
"""Replies of ours that quote a reply that quotes a reply, at most."""


class Fault(StrEnum):
    """Whose fault it is."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    SENDER = "sender"
    ROUTE = "route"
    """Our way there: its login, settings, limits or reputation. It is no message's fault."""
    HOST = "host"
    NOBODY = "nobody"
    """It passes by itself."""

    @property
    def words(self) -> str:
        """For people: what is to be looked at."""
        return _FAULTS[self]


_FAULTS = {
    Fault.RECIPIENT: "the recipient: its address, its mailbox, or what it accepts",
    Fault.MESSAGE: "the message: its size or its content",
    Fault.SENDER: "the sender: its address, and what it is allowed",
    Fault.ROUTE: "the way to that host: its login, settings, limits or reputation; no message's",
    Fault.HOST: "the host that answered, or did not, and the network to it",
    Fault.NOBODY: "nobody; it passes by itself",
}


class Effect(StrEnum):
    """What is to become of a message that got this reply."""

    FAIL = "fail"
    RETRY = "retry"
    THROTTLE = "throttle"
    """Tried again, and less of it at once."""
    PAUSE_ROUTE = "pause_route"
    """The whole route waits: every message would get the same reply."""
    RENEW_TOKEN = "renew_token"  # noqa: S105 - not a token
    """The access token is renewed once; if that does not help, the route waits."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which replies an entry is about: those that fit everything that is given.

    `codes`: "535", or a class, "5yz". `statuses`: "5.7.139"; "x.7.26" with either class; "5.7.x" and "x.7.x" all of
    a subject. `texts`: alternatives, each of fragments that all occur, in lower case. `pattern`: is found in the
    text in lower case. `hosts`: domains, of which the host's name is one or below one.
    """

    codes: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    pattern: re.Pattern[str] | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    `general`: it is about no service in particular. `reply` is an example. `meaning` is one sentence, `next` one or
    two: what to do. `effect` None: as the reply's code says, 4yz is tried again and 5yz fails. `smart_host`: the
    effect counts only for a host that all this mail is handed to by setting; from a recipient's own host the same
    words mean what their code says. `retry_after` is the least number of seconds worth waiting, None where the
    schedule knows as well. `seen` is the day on which the entry was last looked through, `source` where more is
    said of such replies.
    """

    service: str
    general: bool
    reply: str
    match: Match
    meaning: str
    fault: Fault
    next: str
    effect: Effect | None
    smart_host: bool
    retry_after: float | None
    seen: date
    source: str

    @property
    def words(self) -> str:
        """What it means and what to do, in a few sentences."""
        return f"{self.meaning} {self.next}"

    def effect_of(self, reply: Reply, *, smart_host: bool) -> Effect:
        """What is to become of a message that got `reply`, which this entry explains. `smart_host`: the host that
        said it is one that mail is handed to by setting, not a recipient's own."""
        if self.effect is None or (self.smart_host and not smart_host):
            return Effect.FAIL if reply.is_permanent else Effect.RETRY
        return self.effect


class Table:
    """Entries, found by reply.

    Of several that fit, a service's own is meant before a general one; of these the one that says most about the
    reply: a text before a status or a code of its own, and these before what only the class or the subject says; of
    equals the first.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        """`entries` must have one for every code and status, as "4yz" and "5yz" without more."""
        self.entries = tuple(entries)
        # An entry is looked for below what is most particular of its statuses and codes; below "" if it has none.
        self._below: dict[str, list[tuple[int, Entry]]] = {}
        for position, entry in enumerate(self.entries):
            for key in entry.match.statuses or entry.match.codes or ("",):
                self._below.setdefault(key, []).append((position, entry))

    def explain(self, reply: Reply, host: str = "") -> Entry:
        """The entry of this reply. One of our own that quotes what a host said is explained by that, unless our
        words say more. `host` is who said it, as an outcome has it, "" if unknown."""
        said = [reply]
        while len(said) < _DEEPEST and (inner := quoted(said[-1])) is not None:
            said.append(inner)
        name = host.partition(" ")[0].lower().rstrip(".")
        found = [self._best(one, name) for one in reversed(said)]
        return next((entry for rank, entry in found if rank > _BY_CLASS), found[0][1])

    def _best(self, reply: Reply, host: str) -> tuple[int, Entry]:
        kind = "5" if reply.is_permanent else "4"
        code, status = str(reply.code), ""
        keys = {"": 0, f"{kind}yz": _BY_CLASS, code: _BY_CODE}
        if is_valid(reply.status):
            # RFC 2034 §4: the classes of code and status agree; where they do not, the code decides.
            _, subject, detail = reply.status.split(".")
            status = f"{kind}.{subject}.{detail}"
            keys |= {f"x.{subject}.x": 1, f"{kind}.{subject}.x": 2, f"x.{subject}.{detail}": 3, status: 4}
        text = " ".join(reply.text[:LOOKED_AT].lower().split())
        best = (-1, len(self.entries))
        for key in keys:
            for position, entry in self._below.get(key, ()):
                rank = _rank(entry.match, keys, text, host)
                if rank >= 0 and not entry.general:
                    rank += _OF_SERVICE
                if rank > best[0] or (rank == best[0] and position < best[1]):
                    best = (rank, position)
        return best[0], self.entries[best[1]]


_BY_CLASS = 0
_BY_CODE = 4
_BY_HOST = 8
_BY_TEXT = 16
_OF_SERVICE = 64


def _rank(match: Match, keys: Mapping[str, int], text: str, host: str) -> int:
    """How much the match says about a reply, -1 if it does not fit. `keys`: what codes and statuses fit, and how
    much each says."""
    rank = 0
    for wanted in (match.statuses, match.codes):
        if wanted:
            fitting = [keys[key] for key in wanted if key in keys]
            if not fitting:
                return -1
            rank += max(fitting)
    if match.hosts:
        if not any(host == domain or host.endswith(f".{domain}") for domain in match.hosts):
            return -1
        rank += _BY_HOST
    if match.texts or match.pattern is not None:
        if not any(all(piece in text for piece in pieces) for pieces in match.texts) and (
            match.pattern is None or match.pattern.search(text) is None
        ):
            return -1
        rank += _BY_TEXT
    return rank
