"""What became of one recipient in one attempt: mail's ordinary fate, as values and never as exceptions.

`reply` is the remote host's reply, or one of ours that says why nobody answered; `host` is where it was
tried, "name [address]:port", or "" where no host was reached; `at` is seconds since the epoch.
"""

from dataclasses import dataclass

from mailroot.mail.reply import Reply


@dataclass(frozen=True, slots=True)
class Delivered:
    """The next hop took responsibility. `reports_on`: it speaks DSN and will report success itself
    (RFC 3461 §5.2.1); otherwise a wanted success report is ours to write, as "relayed" (§5.2.2)."""

    reply: Reply
    host: str
    at: float
    reports_on: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now; the schedule says when it is tried again."""

    reply: Reply
    host: str
    at: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Never; the sender is told."""

    reply: Reply
    host: str
    at: float


Outcome = Delivered | Deferred | Failed
