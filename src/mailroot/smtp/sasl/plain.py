"""The PLAIN mechanism (RFC 4616)."""

from typing import ClassVar

from mailroot.smtp.sasl.base import Credentials, SaslError


class Plain:
    """User name and password in one message."""

    __slots__ = ("_password", "_username")
    name: ClassVar[str] = "PLAIN"
    proven = True

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password

    def initial(self) -> bytes:
        return f"\0{self._username}\0{self._password}".encode()

    def respond(self, challenge: bytes) -> bytes:
        return self.initial()


def read_plain(message: bytes) -> Credentials:
    """The server's side: `[authzid] NUL authcid NUL passwd`, in UTF-8 (RFC 4616 §2). Raises SaslError."""
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise SaslError("PLAIN is three texts with a NUL between them")
    try:
        authzid, username, password = (part.decode() for part in parts)
    except UnicodeDecodeError:
        # From None: the octets in that exception are the secret.
        raise SaslError("PLAIN is not UTF-8") from None
    if not username:
        raise SaslError("PLAIN without a user name")
    return Credentials(username, password, authzid)
