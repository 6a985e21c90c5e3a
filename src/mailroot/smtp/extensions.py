"""Service extensions: what EHLO offers and what the parameters of MAIL and RCPT mean.

SIZE (RFC 1870), PIPELINING (RFC 2920), 8BITMIME (RFC 6152), ENHANCEDSTATUSCODES (RFC 2034), DSN (RFC 3461),
CHUNKING and BINARYMIME (RFC 3030), SMTPUTF8 (RFC 6531), STARTTLS (RFC 3207), AUTH (RFC 4954), XCLIENT. Parameters
are understood also after a mere HELO; nothing unknown is taken (RFC 5321 §4.1.1.11).
"""

from dataclasses import dataclass

from mailroot.mail.envelope import Body, Notify, Return
from mailroot.smtp import answers, grammar
from mailroot.smtp import xclient as attributes
from mailroot.smtp.errors import ProtocolError

_MAX_AUTH = 500  # RFC 4954 §3
_MAX_ENVID = 100  # RFC 3461 §4.4
_MAX_ORCPT = 500  # RFC 3461 §4.2
_MAX_SIZE_DIGITS = 20  # RFC 1870 §3


@dataclass(frozen=True, slots=True)
class ServerOffer:
    """What a server offers and how it reads.

    `max_size` is the largest message in octets, 0 for no limit. `default_domain` completes addresses that have
    none. `repair` makes bare line ends CR LF; otherwise a message with any is refused. `strict`: commands are taken
    only as RFC 5321 writes them and in its order. `early_auth`: LOGIN is offered once more in the way of the drafts
    that came before RFC 2554.
    """

    default_domain: str
    max_size: int = 0
    starttls: bool = False
    repair: bool = False
    strict: bool = False
    early_auth: bool = False

    def lines(self, *, secured: bool, mechanisms: tuple[str, ...] = (), xclient: bool = False) -> tuple[str, ...]:
        """The EHLO lines, in the old service's order. STARTTLS is not offered twice (RFC 3207 §4.2).

        `mechanisms` are those of AUTH; it is not offered without any. `xclient`: this client may say XCLIENT.
        """
        return (
            f"SIZE {self.max_size}" if self.max_size else "SIZE",
            "PIPELINING",
            "DSN",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "BINARYMIME",
            "CHUNKING",
            "SMTPUTF8",
            "VRFY",
            *(("STARTTLS",) if self.starttls and not secured else ()),
            *((f"AUTH {' '.join(mechanisms)}",) if mechanisms else ()),
            # Outlook Express 4 and devices of its time look for this line, and would not log in without it.
            *(("AUTH=LOGIN",) if self.early_auth and "LOGIN" in mechanisms else ()),
            *((f"XCLIENT {' '.join(attributes.NAMES)}",) if xclient else ()),
            "HELP",
        )


@dataclass(frozen=True, slots=True)
class MailParameters:
    """The parameters of MAIL; `size` is what the client says the message will have, None where it does not.

    `auth` is who submitted the message first, as the client says: an address, or "<>" where that is not known. It
    is a client's word and nothing follows from it (RFC 4954 §5).
    """

    size: int | None = None
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    ret: Return | None = None
    envid: str | None = None
    auth: str | None = None


@dataclass(frozen=True, slots=True)
class RecipientParameters:
    """The parameters of RCPT; `original` is "type;address", decoded."""

    notify: Notify | None = None
    original: str | None = None


_NO_MAIL_PARAMETERS = MailParameters()
_NO_RECIPIENT_PARAMETERS = RecipientParameters()


def read_mail_parameters(text: str) -> MailParameters:
    """Raises ProtocolError: 501 for a bad or repeated parameter, 555 for one we do not know."""
    if not text:
        return _NO_MAIL_PARAMETERS
    size: int | None = None
    body = Body.SEVEN_BIT
    smtputf8 = False
    ret: Return | None = None
    envid: str | None = None
    auth: str | None = None
    for keyword, value in _split(text).items():
        try:
            match keyword:
                case "SIZE":
                    size = _read_size(value)
                case "BODY":
                    body = Body((value or "").upper())
                case "SMTPUTF8" if value is None:
                    smtputf8 = True
                case "RET":
                    ret = Return((value or "").upper())
                case "ENVID":
                    if not value or len(value) > _MAX_ENVID:
                        raise ValueError
                    envid = grammar.decode_xtext(value)
                case "AUTH":
                    auth = _read_submitter(value or "")
                case "SMTPUTF8":
                    raise ValueError
                case _:
                    raise ProtocolError(answers.unknown_parameter(keyword))
        except ValueError:
            raise ProtocolError(answers.bad_parameter(keyword)) from None
    return MailParameters(size, body, smtputf8, ret, envid, auth)


def read_recipient_parameters(text: str, *, smtputf8: bool) -> RecipientParameters:
    """Raises ProtocolError as `read_mail_parameters`. `smtputf8`: the transaction may hold UTF-8."""
    if not text:
        return _NO_RECIPIENT_PARAMETERS
    notify: Notify | None = None
    original: str | None = None
    for keyword, value in _split(text).items():
        try:
            match keyword:
                case "NOTIFY":
                    notify = _read_notify(value or "")
                case "ORCPT":
                    original = _read_original(value or "", smtputf8=smtputf8)
                case _:
                    raise ProtocolError(answers.unknown_parameter(keyword))
        except ValueError:
            raise ProtocolError(answers.bad_parameter(keyword)) from None
    return RecipientParameters(notify, original)


def _split(text: str) -> dict[str, str | None]:
    parameters: dict[str, str | None] = {}
    for parameter in text.split(" "):
        if not parameter:
            continue
        keyword, equals, value = parameter.partition("=")
        if not (keyword.isascii() and keyword.replace("-", "").isalnum()):
            # No keyword (RFC 5321 §4.1.2), and nothing to repeat to a client that may read ASCII only.
            raise ProtocolError(answers.SYNTAX)
        keyword = keyword.upper()
        if keyword in parameters:
            raise ProtocolError(answers.bad_parameter(keyword))
        parameters[keyword] = value if equals else None
    return parameters


def _read_size(value: str | None) -> int:
    if not value or len(value) > _MAX_SIZE_DIGITS or not (value.isascii() and value.isdecimal()):
        raise ValueError
    return int(value)


def _read_submitter(value: str) -> str:
    """RFC 4954 §5: "<>", or a mailbox without brackets, in xtext."""
    if not value or len(value) > _MAX_AUTH:
        raise ValueError
    decoded = grammar.decode_xtext(value)
    if decoded == "<>":
        return decoded
    if decoded.startswith("<"):
        raise ValueError
    return str(grammar.parse_mailbox(decoded, None))


_NOTIFY = {"SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}


def _read_notify(value: str) -> Notify:
    words = value.upper().split(",")
    if words == ["NEVER"]:
        return Notify.NEVER
    notify = Notify.NEVER
    for word in words:
        if word not in _NOTIFY:
            raise ValueError
        notify |= _NOTIFY[word]
    return notify


def _read_original(value: str, *, smtputf8: bool) -> str:
    kind, semicolon, address = value.partition(";")
    if len(value) > _MAX_ORCPT or not (
        semicolon and address and kind.isascii() and kind.replace("-", "").isalnum()
    ):
        raise ValueError
    if kind.lower() != "utf-8":
        return f"{kind};{grammar.decode_xtext(address)}"
    if not address.isascii() and not smtputf8:
        raise ValueError
    return f"{kind};{grammar.decode_unitext(address)}"
