"""How long a client may keep us waiting, and how much it may say without a message: the limits of one session.

Only the time we wait for the client counts, never our own. A time-out that any octet would move on is none (that is
how slowloris holds its sessions): a command has a time from its first octet to its last, a message has one for all
of it and a least speed on average (RFC 5321 §4.5.3.2 has the times a client may expect).
"""

from enum import Enum, auto

from mailroot.policy.limits import LimitSettings

_FIRST = 60.0
"""Seconds of a transfer before its speed counts."""

_SMALL_CHUNK = 512
"""Octets of a BDAT chunk below which it counts as a command like any other."""


class _Phase(Enum):
    BETWEEN = auto()
    COMMAND = auto()
    MESSAGE = auto()


class Pace:
    """One session's pace. Times in seconds."""

    __slots__ = (
        "_commands",
        "_idle",
        "_limits",
        "_octets",
        "_phase",
        "_refused",
        "_speaks",
        "_unproven",
        "_waited",
    )

    def __init__(self, limits: LimitSettings, idle_timeout: float) -> None:
        self._limits = limits
        self._idle = idle_timeout
        self._phase = _Phase.BETWEEN
        self._waited = 0.0
        self._octets = 0
        # Commands since the last message; recipients refused; octets before the client showed what it may do.
        self._commands = 0
        self._refused = 0
        self._unproven = 0
        self._speaks = False

    def patience(self, *, in_message: bool, in_command: bool) -> float:
        """How long to wait for the next octets. `in_message`: the message is not complete; `in_command`: a part of
        a command line has come."""
        phase = _Phase.MESSAGE if in_message else _Phase.COMMAND if in_command else _Phase.BETWEEN
        if phase is not self._phase:
            self._phase = phase
            self._waited = 0.0
            self._octets = 0
        if phase is _Phase.BETWEEN:
            return self._idle
        return max(0.0, min(self._idle, self._allowance() - self._waited))

    def _allowance(self) -> float:
        limits = self._limits
        if self._phase is _Phase.COMMAND:
            return limits.command_time
        if not limits.transfer_speed:
            return limits.transfer_time
        return min(limits.transfer_time, max(_FIRST, self._octets / limits.transfer_speed))

    def waited(self, seconds: float, octets: int) -> None:
        """So long we waited, and so many octets came."""
        self._waited += seconds
        self._octets += octets
        if not self._speaks:
            self._unproven += octets

    def overdue(self) -> tuple[str, str]:
        """After a time-out: which limit it was, as a key of the configuration, and its value in words."""
        limits = self._limits
        if self._waited + self._idle <= self._allowance() or self._phase is _Phase.BETWEEN:
            return "general.connection_timeout", f"{self._idle:g} s"
        if self._phase is _Phase.COMMAND:
            return "limits.command_time", f"{limits.command_time:g} s"
        if self._allowance() < limits.transfer_time:
            return "limits.transfer_speed", f"{limits.transfer_speed} octets/s"
        return "limits.transfer_time", f"{limits.transfer_time:g} s"

    # What it says

    def command(self) -> None:
        """The client gave a command: the next one has its own time."""
        self._commands += 1
        self._phase = _Phase.BETWEEN

    def chunk(self, size: int) -> None:
        """A chunk of a message that goes on. A message in small pieces is not the quicker for it."""
        if size < _SMALL_CHUNK:
            self._commands += 1

    def recipient_refused(self) -> None:
        self._refused += 1

    def proven(self) -> None:
        """The client has logged in, or may send to a recipient."""
        self._speaks = True

    def recipient_accepted(self) -> None:
        """The number of these has a limit of its own."""
        self._speaks = True
        self._commands -= 1

    def message_accepted(self) -> None:
        self._commands = 0

    def exceeded(self) -> tuple[str, str] | None:
        """The limit that has been passed, as a key of the configuration, and its value; None while all is well."""
        limits = self._limits
        if self._commands > limits.commands:
            return "limits.commands", str(limits.commands)
        if self._refused > limits.refused_recipients:
            return "limits.refused_recipients", str(limits.refused_recipients)
        if self._unproven > limits.octets_before_login:
            return "limits.octets_before_login", str(limits.octets_before_login)
        return None
