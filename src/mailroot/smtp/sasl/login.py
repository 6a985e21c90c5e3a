"""The LOGIN mechanism: never standardised (draft-murchison-sasl-login), offered by every Microsoft server."""

from typing import ClassVar


class Login:
    """User name, then password, whatever the two challenges say: their texts differ from server to server."""

    __slots__ = ("_answers",)
    name: ClassVar[str] = "LOGIN"

    def __init__(self, username: str, password: str) -> None:
        self._answers = [password.encode(), username.encode()]

    def initial(self) -> None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        # A third challenge gets an empty answer, which no server takes for a password.
        return self._answers.pop() if self._answers else b""
