"""Who may use the API: the holder of the token, from this machine, under a loopback name.

The token proves that the caller can read a file that only the service's account (and root, or Administrators) can.
The Host field is checked too: a web page that has its own name point to 127.0.0.1 (DNS rebinding) is turned away
even if it should ever learn the token. There is no CORS: no web page of another origin may read an answer.
"""

import hmac
import os
import secrets
from ipaddress import ip_address
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mailroot import system
from mailroot.operations import OperationError

_SHORTEST = 32


def open_token(file: Path) -> str:
    """The token; made of 32 random bytes where there is none yet, in a file for this account alone.
    Raises OperationError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            # It gets its name when it is whole: a crash in between must not leave an empty one.
            new = file.with_name(f"{file.name}.{os.getpid()}")
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as text:
                # Private before the secret is in it.
                system.make_private(new)
                text.write(secrets.token_urlsafe(32) + "\n")
                text.flush()
                os.fsync(text.fileno())
            new.replace(file)
        return _read(file)
    except OSError as error:
        raise OperationError(f"the API's token file {file} cannot be used: {error.strerror or error}") from error


def _read(file: Path) -> str:
    token = file.read_bytes().strip()
    if len(token) < _SHORTEST or not token.isascii():
        raise OperationError(
            f"the API's token file {file} holds no token ({_SHORTEST} characters or more); delete it, and the next "
            "start makes a new one"
        )
    return token.decode("ascii")


def is_loopback(host: str) -> bool:
    """Whether a host, as in an address or a Host field without its port, means this machine and no other."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request through to `app` that comes under a loopback name and with the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_loopback(_without_port(hosts[0])):
            answer = _refusal(403, "host", "the API answers under 127.0.0.1, [::1] and localhost alone")
        elif not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), self._expected):
            answer = _refusal(401, "token", "the token is missing or wrong: Authorization: Bearer TOKEN")
            answer.headers["WWW-Authenticate"] = "Bearer"
        else:
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
