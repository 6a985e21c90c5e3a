"""Addresses on the web that are asked for a little JSON, with bounds: time, size, certificates, no redirects.

Issuers of tokens are asked so, by who checks tokens and by who needs some. What answers mean is not known here.
Imported only where tokens are configured. An error's text names the address, never what was sent.
"""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 5.0
_LARGEST_ANSWER = 64 * 1024
_MOST_CONNECTIONS = 8


class EndpointError(Exception):
    """No usable answer; the text says from where and why. `status` is the answer's, 0 where there was none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whatever it says. `retry_after` and `challenge` are the fields Retry-After and WWW-Authenticate as
    they came, "" without; `body` is no longer than 64 KiB."""

    status: int
    body: bytes = field(repr=False)
    retry_after: str = ""
    challenge: str = field(default="", repr=False)

    def json(self) -> dict[str, Any] | None:
        """The JSON object it is, None where it is anything else."""
        try:
            said = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return said if isinstance(said, dict) else None


def check_address(setting: str, address: str) -> None:
    """Raise ValueError, naming the setting, unless `address` is https://, or http:// to this computer itself."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if not host or port == 0 or parts.username is not None or parts.fragment:
        raise ValueError(f"{setting}: '{address}' is not an address; right would be https://HOST/PATH")
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return
    raise ValueError(
        f"{setting}: '{address}' is not safe; right would be https:// (http:// is for 127.0.0.1 and [::1] only)"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Endpoints:
    """One client for all addresses of an issuer."""

    __slots__ = ("_clear", "_context", "_safe")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._safe: httpx.AsyncClient | None = None
        self._clear: httpx.AsyncClient | None = None

    async def get(self, address: str) -> dict[str, Any]:
        """The JSON object at `address`. Raises EndpointError."""
        return _object(address, await self.ask("GET", address))

    async def post(self, address: str, form: Mapping[str, str], login: tuple[str, str]) -> dict[str, Any]:
        """The JSON object that a form is answered with; `login` is name and password for Basic authentication.
        Raises EndpointError."""
        return _object(address, await self.ask("POST", address, form=form, login=login))

    async def ask(
        self,
        method: str,
        address: str,
        *,
        form: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer, also where it is a refusal or redirects. Raises EndpointError where there is none, or none
        that may be read: its `status` tells which."""
        body = {name: value for name, value in (("data", form), ("auth", login)) if value is not None}
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await self._read(method, address, body, headers or {})
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # TimeoutError is an OSError. Without the cause: a chain of exceptions would show the request.
            raise EndpointError(f"{address}: {_words(error)}") from None

    async def close(self) -> None:
        safe, clear, self._safe, self._clear = self._safe, self._clear, None, None
        for client in (safe, clear):
            if client is not None:
                await client.aclose()

    async def _read(self, method: str, address: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
        fields = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        async with self._client(address).stream(method, address, headers=fields, **body) as response:
            status = response.status_code
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise EndpointError(f"{address}: the answer is compressed, which was not asked for", status)
            octets = bytearray()
            async for block in response.aiter_raw():
                octets += block
                if len(octets) > _LARGEST_ANSWER:
                    raise EndpointError(
                        f"{address}: the answer is longer than {_LARGEST_ANSWER // 1024} KiB", status
                    )
            return Answer(
                status,
                bytes(octets),
                response.headers.get("Retry-After", ""),
                response.headers.get("WWW-Authenticate", ""),
            )

    def _client(self, address: str) -> httpx.AsyncClient:
        # What goes in the clear must not leave this computer by way of a proxy.
        if urlsplit(address).scheme == "http":
            if self._clear is None:
                self._clear = self._new_client(trust_env=False)
            return self._clear
        if self._safe is None:
            self._safe = self._new_client(trust_env=True)
        return self._safe

    def _new_client(self, *, trust_env: bool) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=self._context,
            trust_env=trust_env,
            follow_redirects=False,
            timeout=httpx.Timeout(_TIMEOUT, connect=_CONNECT_TIMEOUT),
            limits=httpx.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=2),
        )


def _object(address: str, answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        raise EndpointError(f"{address}: the answer is {answer.status}", answer.status)
    said = answer.json()
    if said is None:
        raise EndpointError(f"{address}: the answer is not a JSON object")
    return said


def _words(error: Exception) -> str:
    match error:
        case httpx.PoolTimeout():
            return "too many questions are open already"
        case httpx.TimeoutException() | TimeoutError():
            return f"no answer within {_TIMEOUT:g} s"
        case httpx.ConnectError():
            return f"cannot be reached ({error})"
    return f"no answer ({type(error).__name__})"
