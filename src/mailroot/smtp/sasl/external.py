"""The EXTERNAL mechanism (RFC 4422 appendix A): who the client is was shown outside, by its TLS certificate."""

from typing import ClassVar

from mailroot.smtp.sasl.base import SaslError


class External:
    """The client's side: whom to act as, "" for whom the certificate says."""

    __slots__ = ("_authzid",)
    name: ClassVar[str] = "EXTERNAL"
    proven = True

    def __init__(self, authzid: str = "") -> None:
        self._authzid = authzid

    def initial(self) -> bytes:
        return self._authzid.encode()

    def respond(self, challenge: bytes) -> bytes:
        return self.initial()


def read_external(message: bytes) -> str:
    """The server's side: whom the client wants to act as, "" for whom its certificate says. Raises SaslError."""
    try:
        authzid = message.decode()
    except UnicodeDecodeError:
        raise SaslError("EXTERNAL is not UTF-8") from None
    if "\0" in authzid:
        raise SaslError("EXTERNAL with a NUL in it")
    return authzid
