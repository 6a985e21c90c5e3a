"""The LOGIN mechanism: never standardised (draft-murchison-sasl-login), offered by every Microsoft server."""

from typing import ClassVar

USERNAME_CHALLENGE = b"Username:"
PASSWORD_CHALLENGE = b"Password:"
"""The texts that old clients compare, in base64 VXNlcm5hbWU6 and UGFzc3dvcmQ6. The draft's own texts are others."""


class Login:
    """User name, then password, whatever the two challenges say: their texts differ from server to server."""

    __slots__ = ("_answers",)
    name: ClassVar[str] = "LOGIN"
    proven = True

    def __init__(self, username: str, password: str) -> None:
        self._answers = [password.encode(), username.encode()]

    def initial(self) -> None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        # A third challenge gets an empty answer, which no server takes for a password.
        return self._answers.pop() if self._answers else b""


def read_login(response: bytes) -> str:
    """The server's side: a name or password. No character set was ever agreed on: what is not UTF-8 is taken for
    that of Windows in Western Europe, which programs of the time sent."""
    try:
        return response.decode()
    except UnicodeDecodeError:
        return response.decode("cp1252", "replace")
