"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), both sides, with channel bindings (RFC 5929).

Neither side learns what the other could log in with. Who the user is and where its verifier comes from is the
caller's business, and so is chance: nonces and salts are given.
"""

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import ClassVar

from mailroot.smtp.sasl.base import BindingMismatch, SaslError, ServerUntrusted
from mailroot.smtp.sasl.saslprep import saslprep

LEAST_ITERATIONS = 4096
"""RFC 7677 §4."""
MOST_ITERATIONS = 600_000
"""More would be work for its own sake: a server could hold a client up with it."""

_LONGEST_MESSAGE = 4096
_LONGEST_NONCE = 512
# RFC 5802 §7: printable is ASCII but for the comma; saslname has = and , written as =3D and =2C.
_NONCE = re.compile(r"[!-+\--~]+")
_SASLNAME = re.compile(r"(?:[^,=\0]|=2C|=3D)+")
_BINDING_NAME = re.compile(r"[A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password: enough to check a proof, not enough to make one (RFC 5802 §3)."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str, salt: bytes, iterations: int) -> "Verifier":
        """Takes `iterations` times the work of two hashes. Raises ValueError for a password SASLprep forbids."""
        salted = _salted(saslprep(password, stored=True), salt, iterations)
        return cls(salt, iterations, _hash(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))


class ScramServer:
    """The server's side of one login, used once: `first`, `challenge`, `final`."""

    __slots__ = (
        "_bare", "_bindings", "_challenge", "_gs2", "_nonce", "_plus", "_plus_offered", "_verifier", "authzid",
    )  # fmt: skip

    def __init__(
        self,
        nonce: str,
        *,
        plus: bool = False,
        plus_offered: bool = False,
        bindings: tuple[tuple[str, bytes], ...] = (),
    ) -> None:
        """`nonce`: our part of it, printable. `plus`: the mechanism is -PLUS; `plus_offered`: EHLO listed it.
        `bindings`: those this connection has, by name."""
        self._nonce = nonce
        self._plus = plus
        self._plus_offered = plus_offered
        self._bindings = dict(bindings)
        self._bare = ""
        self._challenge = ""
        self._gs2 = b""
        self._verifier: Verifier | None = None
        self.authzid = ""
        """Whom the client wants to act as; "" for itself."""

    def first(self, message: bytes) -> str:
        """Read client-first-message; the answer is the user's name. Raises SaslError, BindingMismatch."""
        text = _text(message)
        flag, comma, rest = text.partition(",")
        authzid, second, bare = rest.partition(",")
        if not comma or not second:
            raise SaslError("no GS2 header")
        self.authzid = _saslname(authzid, "a") if authzid else ""
        self._gs2 = f"{flag},{authzid},".encode() + self._binding(flag)
        attributes = bare.split(",")
        if attributes[0].startswith("m="):
            raise SaslError("an extension that is mandatory and not known")
        if len(attributes) < 2:
            raise SaslError("no name and nonce")
        user = _saslname(attributes[0], "n")
        nonce = _attribute(attributes[1], "r")
        if not _NONCE.fullmatch(nonce) or len(nonce) > _LONGEST_NONCE:
            raise SaslError("no nonce that can be used")
        self._nonce = nonce + self._nonce
        self._bare = bare
        return user

    def _binding(self, flag: str) -> bytes:
        """The octets that the client must repeat besides its GS2 header."""
        name = flag.removeprefix("p=")
        match flag:
            case "n" if not self._plus:
                return b""
            case "y" if not self._plus:
                if self._plus_offered:
                    # RFC 5802 §6: it could bind and did not see that we can; so somebody took it from our EHLO.
                    raise BindingMismatch("the client was not shown that channel binding is offered")
                return b""
            case "n" | "y":
                raise SaslError("-PLUS without a channel binding")
            case _ if flag.startswith("p=") and _BINDING_NAME.fullmatch(name):
                if not self._plus:
                    raise SaslError("a channel binding without -PLUS")
                if name not in self._bindings:
                    raise SaslError("a channel binding that there is not here")
                return self._bindings[name]
            case _:
                raise SaslError("no GS2 header")

    def challenge(self, verifier: Verifier) -> bytes:
        """server-first-message, for the user with this verifier."""
        self._verifier = verifier
        salt = b64encode(verifier.salt).decode()
        self._challenge = f"r={self._nonce},s={salt},i={verifier.iterations}"
        return self._challenge.encode()

    def final(self, message: bytes) -> bytes | None:
        """Read client-final-message: server-final-message if the client knows the password, None if not. Raises
        SaslError, BindingMismatch."""
        verifier = self._verifier
        assert verifier is not None
        text = _text(message)
        without_proof, _, proof_text = text.rpartition(",p=")
        attributes = without_proof.split(",")
        if len(attributes) < 2:
            raise SaslError("no channel binding, nonce and proof")
        binding = _octets(_attribute(attributes[0], "c"))
        nonce = _attribute(attributes[1], "r")
        proof = _octets(proof_text)
        if not hmac.compare_digest(nonce.encode(), self._nonce.encode()):
            raise SaslError("not our nonce")
        if not hmac.compare_digest(binding, self._gs2):
            raise BindingMismatch("the channel binding is not that of this connection")
        signed = f"{self._bare},{self._challenge},{without_proof}".encode()
        signature = _hmac(verifier.stored_key, signed)
        if len(proof) != len(signature):
            raise SaslError("a proof of another length")
        if not hmac.compare_digest(_hash(_xor(proof, signature)), verifier.stored_key):
            return None
        return b"v=" + b64encode(_hmac(verifier.server_key, signed))


class Scram:
    """The client's side of SCRAM-SHA-256."""

    __slots__ = ("_bare", "_binding", "_gs2", "_nonce", "_password", "_signature", "_step", "proven")
    name: ClassVar[str] = "SCRAM-SHA-256"

    def __init__(self, username: str, password: str, nonce: str, *, could_bind: bool = False) -> None:
        """`nonce`: printable, new for every login. `could_bind`: this connection has a channel binding, but the
        server did not offer -PLUS; it will notice if it did (RFC 5802 §6). Raises ValueError for what SASLprep
        forbids."""
        written = saslprep(username).replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={written},r={nonce}"
        self._nonce = nonce
        self._password = saslprep(password)
        self._gs2 = "y,," if could_bind else "n,,"
        self._binding = b""
        self._signature = b""
        self._step = 0
        self.proven = False

    def initial(self) -> bytes:
        return f"{self._gs2}{self._bare}".encode()

    def respond(self, challenge: bytes) -> bytes:
        """Takes as many hashes as the server says, up to MOST_ITERATIONS: that is up to a third of a second."""
        self._step += 1
        try:
            match self._step:
                case 1:
                    return self._prove(_text(challenge))
                case 2:
                    return self._believe(_text(challenge))
                case _:
                    raise ServerUntrusted("the server goes on after its last message")
        except ServerUntrusted:
            raise
        except SaslError as error:
            raise ServerUntrusted(f"the server's SCRAM cannot be read: {error}") from None

    def _prove(self, challenge: str) -> bytes:
        attributes = challenge.split(",")
        if len(attributes) < 3:
            raise SaslError("no nonce, salt and count")
        nonce = _attribute(attributes[0], "r")
        salt = _octets(_attribute(attributes[1], "s"))
        count = _attribute(attributes[2], "i")
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ServerUntrusted("the server's nonce does not go on from ours")
        if not (count.isascii() and count.isdigit() and len(count) < 10):
            raise SaslError("no count")
        iterations = int(count)
        if not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
            raise ServerUntrusted(f"the server wants {iterations} iterations")
        salted = _salted(self._password, salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        binding = b64encode(self._gs2.encode() + self._binding).decode()
        without_proof = f"c={binding},r={nonce}"
        signed = f"{self._bare},{challenge},{without_proof}".encode()
        proof = _xor(client_key, _hmac(_hash(client_key), signed))
        self._signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={b64encode(proof).decode()}".encode()

    def _believe(self, challenge: str) -> bytes:
        last = challenge.split(",")[0]
        if last.startswith("e="):
            raise ServerUntrusted(f"the server says {last[2:][:60]!r}")
        if not hmac.compare_digest(_octets(_attribute(last, "v")), self._signature):
            raise ServerUntrusted("the server does not know our password")
        self.proven = True
        return b""


class ScramPlus(Scram):
    """The client's side of SCRAM-SHA-256-PLUS: good on this TLS connection only."""

    __slots__ = ()
    name: ClassVar[str] = "SCRAM-SHA-256-PLUS"

    def __init__(self, username: str, password: str, nonce: str, binding: tuple[str, bytes]) -> None:
        """`binding`: the channel binding's name and octets, "tls-unique" or "tls-server-end-point"."""
        super().__init__(username, password, nonce)
        kind, octets = binding
        self._gs2 = f"p={kind},,"
        self._binding = octets


def _text(message: bytes) -> str:
    if len(message) > _LONGEST_MESSAGE:
        raise SaslError("too long a message")
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise SaslError("not UTF-8") from None
    if "\0" in text:
        raise SaslError("a NUL")
    return text


def _attribute(text: str, letter: str) -> str:
    if text[:2] != f"{letter}=":
        raise SaslError(f"no {letter}= where it belongs")
    return text[2:]


def _saslname(text: str, letter: str) -> str:
    name = _attribute(text, letter)
    if not _SASLNAME.fullmatch(name):
        raise SaslError(f"no name in {letter}=")
    return name.replace("=2C", ",").replace("=3D", "=")


def _octets(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise SaslError("not base64") from None


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


def _hash(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


def _hmac(key: bytes, octets: bytes) -> bytes:
    return hmac.digest(key, octets, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
