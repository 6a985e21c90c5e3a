"""An issuer of access tokens: its keys and metadata over HTTP on 127.0.0.1, and tokens good and bad.

It answers what a test tells it to, counts what it is asked, and can be down or keep silent. Start it in the event
loop of the test; the tokens need no loop.
"""

import asyncio
import json
from base64 import urlsafe_b64decode
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "api://mailroot"

_RSA = rsa.generate_private_key(65537, 2048)
_OTHER_RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _RSA),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "other": _OTHER_RSA,
}
"""Private keys by the algorithm they are for; "other" is nobody's that is known."""


def public(name: str, *, private: bool = False, **more: Any) -> dict[str, Any]:
    """One of KEYS as a JWK, public unless said otherwise, with these members."""
    key = KEYS[name]
    algorithm = {"R": RSAAlgorithm, "P": RSAAlgorithm, "o": RSAAlgorithm, "E": ECAlgorithm}[name[0]]
    if name == "EdDSA":
        algorithm = OKPAlgorithm
    jwk: dict[str, Any] = algorithm.to_jwk(key if private else key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return jwk | more


class Issuer:
    """`with_` … as an asynchronous context; `address` is its `iss`."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str], dict[str, list[str]]]] = []
        """Path, header (names in lower case) and form of each."""
        self.answers: dict[str, Any] = {}
        """By path: what is sent as JSON, or octets for the whole answer, or None for silence."""
        self.down = False
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> "Issuer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/tenant"
        self.answers |= {
            "/tenant/.well-known/openid-configuration": {
                "issuer": self.address,
                "jwks_uri": f"{self.address}/keys",
            },
            "/tenant/keys": {"keys": [public("RS256", kid="rsa", use="sig")]},
        }
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.close()
        await asyncio.gather(*filter(None, self._served))

    def keys(self, *jwks: dict[str, Any]) -> None:
        """Publish these."""
        self.answers["/tenant/keys"] = {"keys": list(jwks)}

    def token(
        self,
        now: float,
        *,
        algorithm: str = "RS256",
        key: Any = None,
        header: dict[str, Any] | None = None,
        without: tuple[str, ...] = (),
        **claims: Any,
    ) -> str:
        """A token for ann@example.com that is good for an hour, but for what is said otherwise."""
        said: dict[str, Any] = {
            "iss": self.address,
            "aud": AUDIENCE,
            "exp": int(now) + 3600,
            "nbf": int(now),
            "iat": int(now),
            "sub": "248289761001",
            "preferred_username": "ann@example.com",
        }
        said = {name: value for name, value in (said | claims).items() if name not in without}
        return jwt.encode(
            said,
            KEYS[algorithm] if key is None else key,
            algorithm,
            headers={"kid": "rsa"} if header is None else header,
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self._served.add(asyncio.current_task())
        try:
            while not self.down:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                fields = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
                }
                form = (await reader.readexactly(int(fields.get("content-length", 0)))).decode()
                if self.down:
                    break
                self.asked[path] += 1
                self.requests.append((path, fields, parse_qs(form)))
                writer.write(self._answer(path))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    def _answer(self, path: str) -> bytes:
        answer = self.answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        if answer is None:
            return b""
        if isinstance(answer, bytes):
            return answer
        body = json.dumps(answer).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def unsigned(token: str) -> str:
    """The same claims with `alg: none` and no signature."""
    claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
    return jwt.encode(claims, None, "none")
