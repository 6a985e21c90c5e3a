"""Where a server's session stands, and which command leads where: a table with its rules on top.

- `(state, verb) -> state`: the command may be given; that is the state once it is answered positively.
- `(state, verb) -> reply`: it may not; that is the refusal, and the state stays.
- A command that is refused by its answer leaves the state as it is, except for those in AFTER_REFUSAL.
- QUIT, NOOP, HELP, VRFY and RSET may be given at any time; HELO and EHLO too, and they end a transaction like RSET
  (RFC 5321 §4.1.4).
- MAIL may be given without HELO, as the Windows service allowed; only after STARTTLS must EHLO come first,
  because nothing that was said before counts (RFC 3207 §4.2).
- A strict server wants HELO or EHLO before MAIL (RFC 5321 §4.1.4).
- STARTTLS, AUTH and XCLIENT only outside of a transaction.
- After AUTH come challenges and their answers, which are no commands: none is read before the exchange is over
  (RFC 4954 §4).
- After a first BDAT only further ones finish the message, or one of the above ends it (RFC 3030 §2).
- Only server.py changes the state.
"""

from enum import StrEnum
from typing import Final

from mailroot.mail.reply import Reply
from mailroot.smtp import answers


class State(StrEnum):
    """Where a session stands; the words are shown to operators."""

    CONNECTED = "connected"  # the banner is owed
    GREETED = "greeted"  # EHLO must follow
    READY = "ready"  # outside of a transaction
    SENDER = "sender given"
    UNWANTED = "recipients refused"  # all recipients so far
    RECIPIENTS = "recipients given"
    DATA = "data"  # after 354
    CHUNKS = "chunks"  # after a BDAT that was not the last
    AUTHENTICATING = "logging in"  # after a 334
    SECURING = "starting TLS"
    SECURED = "TLS started"  # EHLO must follow
    CLOSED = "closed"


class Verb(StrEnum):
    """The commands we know."""

    HELO = "HELO"
    EHLO = "EHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BDAT = "BDAT"
    RSET = "RSET"
    NOOP = "NOOP"
    HELP = "HELP"
    VRFY = "VRFY"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    XCLIENT = "XCLIENT"
    QUIT = "QUIT"


_READY, _SENDER, _RECIPIENTS, _SECURED = State.READY, State.SENDER, State.RECIPIENTS, State.SECURED
_NO_HELLO, _NO_MAIL, _NO_RCPT = answers.NEED_HELLO, answers.NEED_MAIL, answers.NEED_RECIPIENT
_UNVALID, _GIVEN, _MIDDLE, _MORE = (
    answers.NO_VALID_RECIPIENTS,
    answers.SENDER_GIVEN,
    answers.IN_TRANSACTION,
    answers.BDAT_GOES_ON,
)
_GREETED, _SECURING, _LOGIN, _TWICE = State.GREETED, State.SECURING, State.AUTHENTICATING, answers.ALREADY_TLS

_COLUMNS: tuple[Verb, ...] = (
    Verb.MAIL,
    Verb.RCPT,
    Verb.DATA,
    Verb.BDAT,
    Verb.RSET,
    Verb.STARTTLS,
    Verb.AUTH,
    Verb.XCLIENT,
)
# fmt: off
_ROWS: dict[State, tuple[State | Reply, ...]] = {
    #                  MAIL       RCPT         DATA        BDAT          RSET      STARTTLS   AUTH       XCLIENT
    State.GREETED:    (_NO_HELLO, _NO_HELLO,   _NO_HELLO,  _NO_HELLO,    _GREETED, _NO_HELLO, _NO_HELLO, _GREETED),
    State.READY:      (_SENDER,   _NO_MAIL,    _NO_MAIL,   _NO_MAIL,     _READY,   _SECURING, _LOGIN,    _READY),
    State.SECURED:    (_NO_HELLO, _NO_HELLO,   _NO_HELLO,  _NO_HELLO,    _SECURED, _TWICE,    _NO_HELLO, _NO_HELLO),
    State.SENDER:     (_GIVEN,    _RECIPIENTS, _NO_RCPT,   _NO_RCPT,     _READY,   _MIDDLE,   _MIDDLE,   _MIDDLE),
    State.UNWANTED:   (_GIVEN,    _RECIPIENTS, _UNVALID,   _UNVALID,     _READY,   _MIDDLE,   _MIDDLE,   _MIDDLE),
    State.RECIPIENTS: (_GIVEN,    _RECIPIENTS, State.DATA, State.CHUNKS, _READY,   _MIDDLE,   _MIDDLE,   _MIDDLE),
    State.CHUNKS:     (_MORE,     _MORE,       _MORE,      State.CHUNKS, _READY,   _MORE,     _MORE,     _MORE),
}
# fmt: on

TABLE: Final[dict[tuple[State, Verb], State | Reply]] = {
    (state, verb): target for state, row in _ROWS.items() for verb, target in zip(_COLUMNS, row, strict=True)
}
for _state in _ROWS:
    for _verb in (Verb.NOOP, Verb.HELP, Verb.VRFY):
        TABLE[_state, _verb] = _state
    for _verb in (Verb.HELO, Verb.EHLO):
        TABLE[_state, _verb] = _READY
    TABLE[_state, Verb.QUIT] = State.CLOSED

AFTER_REFUSAL: Final[dict[tuple[State, Verb], State]] = {(State.SENDER, Verb.RCPT): State.UNWANTED}
"""Where a refused command leads, if not nowhere: a DATA after it deserves a better answer (RFC 2920 §3.1)."""
