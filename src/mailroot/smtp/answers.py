"""What a server says, and how a reply looks on the wire (RFC 5321 §4.2, RFC 2034, RFC 3463).

The texts are those administrators and client software know from the Windows SMTP service; the product names itself.
Reading a remote host's replies is the client's business.
"""

from mailroot.mail.address import Address
from mailroot.mail.reply import Reply


def encode(reply: Reply) -> bytes:
    """The wire form: every line has three digits, a hyphen or space, and the status again (RFC 2034 §4).

    The space after the code stands even where no text follows: .NET refuses a line without it.
    """
    status = f"{reply.status} " if reply.status else ""
    text = reply.text
    if "\r" in text:
        text = text.replace("\r", " ")
    if "\n" not in text:
        return f"{reply.code} {status}{text}\r\n".encode()
    *lines, last = text.split("\n")
    head = "".join(f"{reply.code}-{status}{line}\r\n" for line in lines)
    return f"{head}{reply.code} {status}{last}\r\n".encode()


# Commands that cannot be taken as they stand

UNRECOGNIZED = Reply(500, "5.3.3", "Unrecognized command")
LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
BAD_CHARACTERS = Reply(500, "5.5.2", "Control characters or bare line ends in command")
NOT_UTF8 = Reply(500, "5.5.2", "Command is neither ASCII nor UTF-8")
BARE_LF = Reply(500, "5.5.2", "Lines must end with CR LF")
TLS_UNEXPECTED = Reply(500, "5.5.1", "TLS handshake where a command was expected: use STARTTLS")
HTTP_UNEXPECTED = Reply(500, "5.5.1", "This is SMTP, not HTTP")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
SYNTAX = Reply(501, "5.5.4", "Invalid arguments")
INVALID_ADDRESS = Reply(501, "5.5.4", "Invalid Address")
INVALID_NAME = Reply(501, "5.5.4", "Invalid domain name")
BDAT_SYNTAX = Reply(501, "5.5.4", "Invalid arguments: BDAT size [LAST]")
UTF8_ADDRESS = Reply(553, "5.6.7", "Internationalized address needs SMTPUTF8")

# Commands out of order

NEED_HELLO = Reply(503, "5.5.2", "Send hello first")
NEED_MAIL = Reply(503, "5.5.2", "Need mail command")
NEED_RECIPIENT = Reply(503, "5.5.2", "Need Rcpt command")
NO_VALID_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
SENDER_GIVEN = Reply(503, "5.5.2", "Sender already specified")
IN_TRANSACTION = Reply(503, "5.5.2", "Not in the middle of a message")
BDAT_GOES_ON = Reply(503, "5.5.2", "Expecting another BDAT command")
BINARY_NEEDS_BDAT = Reply(503, "5.5.2", "BODY=BINARYMIME needs BDAT")
ALREADY_TLS = Reply(503, "5.5.1", "TLS is active already")
NO_TLS = Reply(454, "4.7.0", "TLS not available")
EARLY_DATA = Reply(554, "5.5.1", "Commands sent before TLS was started")

# Logins (RFC 4954 §4 and §6) and introductions

AUTH_OK = Reply(235, "2.7.0", "Authentication successful.")
AUTH_FAILED = Reply(535, "5.7.3", "Authentication unsuccessful.")
AUTH_UNKNOWN = Reply(504, "5.7.4", "Unrecognized authentication type")
AUTH_NEEDS_TLS = Reply(538, "5.7.11", "Encryption required for requested authentication mechanism")
AUTH_UNAVAILABLE = Reply(454, "4.7.0", "Temporary authentication failure")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_SYNTAX = Reply(501, "5.5.2", "Cannot decode authentication exchange")
AUTH_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
AUTH_AGAIN = Reply(503, "5.5.1", "Already authenticated")
NEED_EHLO = Reply(503, "5.5.1", "Send EHLO first")
NEED_TLS = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
NEED_LOGIN = Reply(530, "5.7.0", "Authentication required")
NO_XCLIENT = Reply(550, "5.7.0", "XCLIENT is not for this client")

# Content

START_INPUT = Reply(354, "", "Start mail input; end with <CRLF>.<CRLF>")
TOO_LARGE = Reply(552, "5.3.4", "Message size exceeds fixed maximum message size")
BARE_LINE_END = Reply(550, "5.6.11", "Bare CR or LF in message: lines must end with CR LF")
LF_SESSION = Reply(554, "5.6.11", "Lines must end with CR LF; this message could never end")

# The good news

OK = Reply(250, "2.0.0", "OK")
RESETTING = Reply(250, "2.0.0", "Resetting")
READY_FOR_TLS = Reply(220, "2.0.0", "SMTP server ready")
HELP = Reply(
    214,
    "",
    "This server supports the following commands:\n"
    "HELO EHLO STARTTLS RCPT DATA RSET MAIL QUIT HELP AUTH BDAT VRFY NOOP",
)


def banner(fqdn: str, date: str) -> Reply:
    """The greeting; `date` as in a Date header field."""
    return Reply(220, "", f"{fqdn} Mailroot ESMTP ready at {date}")


def hello(fqdn: str, client: str, extensions: tuple[str, ...] = ()) -> Reply:
    """The answer to HELO, or with `extensions` to EHLO. `client` is the peer's IP address."""
    lines = (f"{fqdn} Hello [{client}]", *extensions)
    return Reply(250, "", "\n".join((*lines, "OK") if extensions else lines))


def sender_ok(sender: Address | None) -> Reply:
    return Reply(250, "2.1.0", f"{'<>' if sender is None else sender}....Sender OK")


def recipient_ok(recipient: Address) -> Reply:
    return Reply(250, "2.1.5", f"{recipient} ")


def queued(message_id: str, *, supplied: bool) -> Reply:
    """The acknowledgement. Two spaces tell that the client supplied the Message-ID, as in the old service."""
    return Reply(250, "2.6.0", f"{' ' if supplied else ''}{message_id} Queued mail for delivery")


def chunk_ok(size: int) -> Reply:
    return Reply(250, "2.6.0", f"CHUNK received OK, {size} octets")


def cannot_verify(address: Address) -> Reply:
    return Reply(252, "2.1.5", f"Cannot VRFY user, but will take message for <{address}>")


def goodbye(fqdn: str) -> Reply:
    return Reply(221, "2.0.0", f"{fqdn} Service closing transmission channel")


def unknown_parameter(keyword: str) -> Reply:
    return Reply(555, "5.5.4", f"Unsupported parameter {keyword[:40]}")


def bad_parameter(keyword: str) -> Reply:
    return Reply(501, "5.5.4", f"Invalid parameter {keyword[:40]}")
