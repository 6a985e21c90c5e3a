"""The PLAIN mechanism (RFC 4616)."""

from typing import ClassVar


class Plain:
    """User name and password in one message."""

    __slots__ = ("_password", "_username")
    name: ClassVar[str] = "PLAIN"

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password

    def initial(self) -> bytes:
        return f"\0{self._username}\0{self._password}".encode()

    def respond(self, challenge: bytes) -> bytes:
        return self.initial()
