"""The CRAM-MD5 mechanism (RFC 2195), the client's side.

The password is not sent, but whoever listens can try passwords at home, and the server has to keep it readable. For
hosts that have nothing better; the server's side is not offered.
"""

import hmac
from typing import ClassVar


class CramMd5:
    """The server sends a challenge, the answer is a keyed hash of it."""

    __slots__ = ("_password", "_username")
    name: ClassVar[str] = "CRAM-MD5"
    proven = True

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password

    def initial(self) -> None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        # RFC 2195 §2: the name, a space, the digest in lower-case hexadecimal.
        digest = hmac.new(self._password.encode(), challenge, "md5").hexdigest()
        return f"{self._username} {digest}".encode()
