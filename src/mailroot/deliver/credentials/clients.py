"""Who we are to a token endpoint: a client without a secret, with one, or with a certificate (RFC 6749 §2.3, RFC
7523).

Imported only where tokens are configured.
"""

import asyncio
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Ending, Fault, TokenTrouble
from mailroot.net.certificate_file import Certificate, look_at, read_certificate
from mailroot.net.tls import CertificateError, CertificateFile

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFE = 300
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class Client(Protocol):
    """A client of a token endpoint."""

    id: str

    async def sign(self, form: dict[str, str], audience: str) -> tuple[str, str] | None:
        """Put into a form who asks, and what proves it; or return name and password for Basic authentication.
        `audience` is the token endpoint's address. Raises TokenTrouble."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be repeated from an answer."""
        ...

    def stamp(self) -> object:
        """Changes when another proof is there."""
        ...

    def endings(self) -> tuple[Ending, ...]:
        """When what proves it ends. Reads files."""
        ...


class PublicClient:
    """A client that everybody could be: for logins by code, where somebody says yes."""

    secrets: tuple[str, ...] = ()

    def __init__(self, id: str) -> None:
        self.id = id

    async def sign(self, form: dict[str, str], audience: str) -> None:
        form["client_id"] = self.id

    def stamp(self) -> None:
        return None

    def endings(self) -> tuple[Ending, ...]:
        return ()


class SecretClient:
    """A client with a secret, in the form or as Basic authentication."""

    def __init__(self, id: str, secret: str, *, basic: bool = False, ending: tuple[Ending, ...] = ()) -> None:
        self.id = id
        self._secret = secret
        self._basic = basic
        self._ending = ending

    async def sign(self, form: dict[str, str], audience: str) -> tuple[str, str] | None:
        if self._basic:
            # RFC 6749 §2.3.1: both are encoded as in a form before they become Basic authentication.
            return quote_plus(self.id), quote_plus(self._secret)
        form["client_id"] = self.id
        form["client_secret"] = self._secret
        return None

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self._secret, f"{quote_plus(self.id)}:{quote_plus(self._secret)}")

    def stamp(self) -> None:
        return None

    def endings(self) -> tuple[Ending, ...]:
        return self._ending


class CertificateClient:
    """A client with a certificate and its key: each request is signed (`private_key_jwt`). The files are read each
    time, so that renewed ones are used from then on."""

    secrets: tuple[str, ...] = ()  # each assertion is another, and anything like one is taken out of texts

    def __init__(
        self,
        id: str,
        file: CertificateFile,
        clock: Clock,
        *,
        rsa_algorithm: str = "RS256",
        key_id: str = "",
        audience: str = "",
    ) -> None:
        """`rsa_algorithm`: for RSA keys. `key_id`: the `kid` that the issuer knows the key by, "" if by its
        certificate. `audience`: whom assertions are for, "" for the token endpoint's address."""
        self.id = id
        self._file = file
        self._clock = clock
        self._rsa_algorithm = rsa_algorithm
        self._key_id = key_id
        self._audience = audience

    async def sign(self, form: dict[str, str], audience: str) -> None:
        form["client_id"] = self.id
        form["client_assertion_type"] = _ASSERTION_TYPE
        form["client_assertion"] = await asyncio.to_thread(self._assertion, self._audience or audience)

    def stamp(self) -> object:
        return tuple(_modified(path) for path in (self._file.file, self._file.key))

    def endings(self) -> tuple[Ending, ...]:
        try:
            info = look_at(self._file.file, self._file.password)
        except CertificateError:
            return ()  # who needs it will say so
        return (Ending(f"certificate {self._file.file} of client {self.id}", info.ends),)

    def _assertion(self, audience: str) -> str:
        certificate = _read(self._file)
        now = self._clock.now()
        if certificate.info.ends <= now:
            raise TokenTrouble(
                f"The certificate {self._file.file} has expired, and the token endpoint would not take it. Make a "
                "new one, and register it with the client.",
                fault=Fault.OURS,
                code="certificate_expired",
                retry=False,
            )
        claims: dict[str, Any] = {"iss": self.id, "sub": self.id, "aud": audience, "jti": str(uuid.uuid4())}
        claims |= {"iat": int(now), "nbf": int(now), "exp": int(now) + _ASSERTION_LIFE}
        digest = bytes.fromhex(certificate.info.fingerprint.replace(":", ""))
        # RFC 7515 §4.1.8
        header = {"x5t#S256": urlsafe_b64encode(digest).rstrip(b"=").decode()}
        if self._key_id:
            header["kid"] = self._key_id
        try:
            return jwt.encode(claims, certificate.key, self._algorithm(certificate.key), header)
        except (jwt.PyJWTError, ValueError, TypeError):
            # From None: what it says of a key is nobody's business.
            raise _unusable(self._file) from None

    def _algorithm(self, key: object) -> str:
        match key:
            case rsa.RSAPrivateKey():
                return self._rsa_algorithm
            case ec.EllipticCurvePrivateKey() if key.curve.name in _CURVES:
                return _CURVES[key.curve.name]
            case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
                return "EdDSA"
        raise _unusable(self._file)


def _read(file: CertificateFile) -> Certificate:
    try:
        return read_certificate(file)
    except CertificateError as error:
        raise TokenTrouble(
            f"The certificate cannot be used: {error}", fault=Fault.OURS, code="certificate", retry=False
        ) from None


def _unusable(file: CertificateFile) -> TokenTrouble:
    reason = (
        f"The key of {file.file} cannot sign a request; right would be RSA, or ECDSA with P-256, P-384 or P-521."
    )
    return TokenTrouble(reason, fault=Fault.OURS, code="certificate", retry=False)


def _modified(path: Any) -> int:
    try:
        return 0 if path is None else int(path.stat().st_mtime_ns)
    except OSError:
        return 0


def signed_grant(claims: Mapping[str, Any], key: object, key_id: str) -> str:
    """Claims signed by RS256, as Google wants its grants (RFC 7523 §2.1). Raises ValueError for a key that
    cannot."""
    try:
        return jwt.encode(dict(claims), key, "RS256", {"kid": key_id} if key_id else None)  # type: ignore[arg-type]
    except (jwt.PyJWTError, TypeError):
        raise ValueError("the key cannot sign") from None
