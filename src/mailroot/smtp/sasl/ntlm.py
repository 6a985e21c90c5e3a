"""The NTLM mechanism, the server's side: its three messages, and the proof in the third (MS-NLMP; MS-SMTPNTLM).

Only NTLMv2 is taken. Whose hash a proof is checked with is the caller's business, and so are chance and the time.
NTLM rests on MD4, MD5 and RC4: it is here for programs that know nothing better.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntFlag

from mailroot.smtp.sasl.base import BindingMismatch, SaslError

SIGNATURE = b"NTLMSSP\0"
_NEGOTIATE, _CHALLENGE, _AUTHENTICATE = 1, 2, 3
_LONGEST_NAME = 256


class Flag(IntFlag):
    """MS-NLMP 2.2.2.5, those that matter here."""

    UNICODE = 0x00000001
    OEM = 0x00000002
    REQUEST_TARGET = 0x00000004
    SIGN = 0x00000010
    SEAL = 0x00000020
    NTLM = 0x00000200
    ALWAYS_SIGN = 0x00008000
    TARGET_TYPE_SERVER = 0x00020000
    EXTENDED_SECURITY = 0x00080000
    TARGET_INFO = 0x00800000
    VERSION = 0x02000000
    KEY_128 = 0x20000000
    KEY_EXCHANGE = 0x40000000
    KEY_56 = 0x80000000


_GIVEN = Flag.REQUEST_TARGET | Flag.NTLM | Flag.TARGET_TYPE_SERVER | Flag.TARGET_INFO
_IF_ASKED = (
    Flag.SIGN
    | Flag.SEAL
    | Flag.ALWAYS_SIGN
    | Flag.EXTENDED_SECURITY
    | Flag.KEY_128
    | Flag.KEY_EXCHANGE
    | Flag.KEY_56
)

# AV_PAIR identifiers (MS-NLMP 2.2.2.1).
_END, _COMPUTER, _DOMAIN, _FLAGS, _TIMESTAMP, _BINDINGS = 0, 1, 2, 6, 7, 10
_MIC_PRESENT = 0x2
_NO_BINDINGS = bytes(16)


class NotTaken(SaslError):
    """A login of `user` in a form that is not taken, however good it is: anonymous, NTLMv1, LM."""

    def __init__(self, text: str, user: str = "") -> None:
        super().__init__(text)
        self.user = user


@dataclass(frozen=True, slots=True)
class Claim:
    """What the third message says. `user` and `domain` are as the client wrote them."""

    user: str
    domain: str
    flags: Flag
    proof: bytes = field(repr=False)
    blob: bytes = field(repr=False)
    sealed_key: bytes = field(repr=False)
    message: bytes = field(repr=False)
    bindings: bytes
    """MD5 of the channel bindings; 16 zeros where the client has none."""
    has_mic: bool


class NtlmServer:
    """The server's side of one login, used once: `challenge`, `read`, `verify`."""

    __slots__ = ("_challenge", "_flags", "_messages", "_name", "_time")

    def __init__(self, name: str, challenge: bytes, time: int) -> None:
        """`name`: what we call this computer, all that a stranger is told. `challenge`: 8 octets of chance. `time`:
        in units of 100 ns since 1601, so that clients send a MIC (MS-NLMP 3.1.5.1.2)."""
        self._name = name.upper()[:15]
        self._challenge = challenge
        self._time = time
        self._flags = Flag(0)
        self._messages = b""

    def challenge(self, negotiate: bytes) -> bytes:
        """The second message, for this first one. Raises SaslError."""
        _check_kind(negotiate, _NEGOTIATE, 16)
        asked = Flag(_u32(negotiate, 12))
        # MS-NLMP 2.2.2.5: Unicode if it is among what the client knows; curl knows OEM alone.
        self._flags = _GIVEN | (asked & _IF_ASKED) | (Flag.UNICODE if asked & Flag.UNICODE else Flag.OEM)
        name = self._name.encode(_charset(self._flags), "replace")
        wide = self._name.encode("utf-16-le")
        pairs = ((_DOMAIN, wide), (_COMPUTER, wide), (_TIMESTAMP, struct.pack("<Q", self._time)), (_END, b""))
        target = b"".join(struct.pack("<HH", what, len(value)) + value for what, value in pairs)
        head = 56
        message = (
            struct.pack(
                "<8sIHHII8s8x", SIGNATURE, _CHALLENGE, len(name), len(name), head, self._flags, self._challenge
            )
            + struct.pack("<HHI", len(target), len(target), head + len(name))
            + bytes(8)  # Version: nobody's business (MS-NLMP 2.2.2.10: zeros where the flag is not set)
            + name
            + target
        )
        self._messages = negotiate + message
        return message

    def read(self, message: bytes) -> Claim:
        """What the third message claims. Raises SaslError, NotTaken."""
        return read_claim(message, self._flags)

    def verify(
        self, claim: Claim, nt_hash: bytes, bindings: Iterable[tuple[str, bytes]] = ()
    ) -> "NtlmSession | None":
        """The session that follows if the client knows the password of this hash, None if not. `bindings`: those
        of this connection, by name. Raises SaslError, BindingMismatch."""
        key = _hmac(nt_hash, (_upper(claim.user) + claim.domain).encode("utf-16-le"))
        if not hmac.compare_digest(_hmac(key, self._challenge + claim.blob), claim.proof):
            return None
        if claim.bindings != _NO_BINDINGS and claim.bindings not in [hash_binding(*one) for one in bindings]:
            raise BindingMismatch("the channel binding is not that of this connection")
        session_key = _hmac(key, claim.proof)
        if claim.flags & Flag.KEY_EXCHANGE and claim.flags & (Flag.SIGN | Flag.SEAL):
            if len(claim.sealed_key) != 16:
                raise SaslError("an NTLM session key of a wrong length")
            session_key = Rc4(session_key).update(claim.sealed_key)
        if claim.has_mic:
            self._check_mic(claim.message, session_key)
        return NtlmSession(session_key, claim.flags)

    def _check_mic(self, message: bytes, session_key: bytes) -> None:
        at = _mic_place(message)
        # It covers all three messages, its own place zeroed (MS-NLMP 3.1.5.1.2).
        expected = _hmac(session_key, self._messages + message[:at] + bytes(16) + message[at + 16 :])
        if not hmac.compare_digest(expected, message[at : at + 16]):
            raise BindingMismatch("the NTLM messages were changed on their way")


class NtlmSession:
    """What both sides can sign and seal with after a login (MS-NLMP 3.4). For the few octets of SPNEGO and of
    RFC 4752; mail is never wrapped."""

    __slots__ = ("_flags", "_key", "_received", "_receiving", "_sending", "_sent")

    def __init__(self, key: bytes, flags: Flag) -> None:
        self._key = key
        self._flags = flags
        self._sent = 0
        self._received = 0
        self._sending, self._receiving = self._streams()

    def reset(self) -> None:
        """Begin the key streams anew; the counters go on. So it is after SPNEGO's MIC (MS-SPNG 3.3.5.1)."""
        self._sending, self._receiving = self._streams()

    @property
    def can_sign(self) -> bool:
        """Whether the client asked for what signing needs."""
        return bool(self._flags & Flag.SIGN and self._flags & Flag.EXTENDED_SECURITY)

    def sign(self, octets: bytes) -> bytes:
        """Our signature, 16 octets."""
        signature = self._signature(self._sending, b"server-to-client", self._sent, octets)
        self._sent += 1
        return signature

    def verify(self, octets: bytes, signature: bytes) -> bool:
        """Whether this is the client's signature."""
        expected = self._signature(self._receiving, b"client-to-server", self._received, octets)
        self._received += 1
        return hmac.compare_digest(expected, signature)

    def wrap(self, octets: bytes) -> bytes:
        """Signature and octets; sealed where that was agreed on, as clients then expect it."""
        sealed = self._sending.update(octets) if self._flags & Flag.SEAL else octets
        return self.sign(octets) + sealed

    def unwrap(self, token: bytes) -> bytes | None:
        """What the client wrapped, sealed or only signed; None if it did not."""
        if len(token) < 16:
            return None
        signature, body = token[:16], token[16:]
        before = self._receiving.copy()
        opened = self._receiving.update(body)
        if self.verify(opened, signature):
            return opened
        self._receiving, self._received = before, self._received - 1
        return body if self.verify(body, signature) else None

    def _signature(self, stream: "Rc4", direction: bytes, number: int, octets: bytes) -> bytes:
        counter = struct.pack("<I", number)
        key = _magic(self._key, direction, b"signing")
        checksum = _hmac(key, counter + octets)[:8]
        if self._flags & Flag.KEY_EXCHANGE:
            checksum = stream.update(checksum)
        return b"\1\0\0\0" + checksum + counter

    def _streams(self) -> "tuple[Rc4, Rc4]":
        return Rc4(self._seal_key(b"server-to-client")), Rc4(self._seal_key(b"client-to-server"))

    def _seal_key(self, direction: bytes) -> bytes:
        key = self._key
        if not self._flags & Flag.KEY_128:
            key = key[:7] if self._flags & Flag.KEY_56 else key[:5]
        return _magic(key, direction, b"sealing")


class Rc4:
    """The stream cipher, which OpenSSL does not give away any more."""

    __slots__ = ("_i", "_j", "_state")

    def __init__(self, key: bytes) -> None:
        state = list(range(256))
        j = 0
        for i in range(256):
            j = (j + state[i] + key[i % len(key)]) & 255
            state[i], state[j] = state[j], state[i]
        self._state, self._i, self._j = state, 0, 0

    def copy(self) -> "Rc4":
        twin = Rc4.__new__(Rc4)
        twin._state, twin._i, twin._j = self._state.copy(), self._i, self._j
        return twin

    def update(self, octets: bytes) -> bytes:
        state, i, j = self._state, self._i, self._j
        result = bytearray()
        for octet in octets:
            i = (i + 1) & 255
            j = (j + state[i]) & 255
            state[i], state[j] = state[j], state[i]
            result.append(octet ^ state[(state[i] + state[j]) & 255])
        self._i, self._j = i, j
        return bytes(result)


def read_claim(message: bytes, agreed: Flag) -> Claim:
    """What a third message claims, with these flags agreed on before. Raises SaslError, NotTaken."""
    _check_kind(message, _AUTHENTICATE, 64)
    lm, nt, domain, user, sealed_key = (_field(message, at) for at in (12, 20, 28, 36, 52))
    charset = _charset(agreed)
    name = _text(user, charset)
    if not name:
        raise NotTaken("anonymous NTLM")
    if len(nt) == 24 or (not nt and lm):
        raise NotTaken("NTLMv1: the program must learn NTLMv2", name)
    if len(nt) < 48:
        raise SaslError("an NTLM response of a wrong length")
    blob = nt[16:]
    if blob[:2] != b"\1\1":
        raise SaslError("an NTLM response of an unknown version")
    pairs = _pairs(blob[28:])
    marks = pairs.get(_FLAGS, bytes(4))
    bindings = pairs.get(_BINDINGS, _NO_BINDINGS)
    if len(marks) != 4 or len(bindings) != 16:
        raise SaslError("an NTLM response with a value of a wrong length")
    return Claim(
        user=name,
        domain=_text(domain, charset),
        flags=agreed & flags_of(message),
        proof=nt[:16],
        blob=blob,
        sealed_key=sealed_key,
        message=message,
        bindings=bindings,
        has_mic=bool(_u32(marks, 0) & _MIC_PRESENT),
    )


def flags_of(message: bytes) -> Flag:
    """The flags of a third message. Raises SaslError."""
    _check_kind(message, _AUTHENTICATE, 64)
    return Flag(_u32(message, 60))


def hash_binding(name: str, data: bytes) -> bytes:
    """A channel binding as NTLM sends it: MD5 of gss_channel_bindings_struct without addresses (RFC 2744 §3.11,
    RFC 5929)."""
    application = name.encode() + b":" + data
    return hashlib.md5(
        bytes(16) + struct.pack("<I", len(application)) + application, usedforsecurity=False
    ).digest()


def _check_kind(message: bytes, kind: int, least: int) -> None:
    if len(message) < least or not message.startswith(SIGNATURE) or _u32(message, 8) != kind:
        raise SaslError(f"not the NTLM message number {kind}")


def _u32(message: bytes, at: int) -> int:
    return int.from_bytes(message[at : at + 4], "little")


def _charset(flags: Flag) -> str:
    # Which OEM character set it is, nobody says; they have ASCII in common.
    return "utf-16-le" if flags & Flag.UNICODE else "ascii"


def _field(message: bytes, at: int) -> bytes:
    length, _, offset = struct.unpack_from("<HHI", message, at)
    if length and offset + length > len(message):
        raise SaslError("an NTLM message that ends too early")
    return message[offset : offset + length] if length else b""


def _mic_place(message: bytes) -> int:
    """Behind the version (MS-NLMP 2.2.1.3), or in its place: some clients leave the version out."""
    fields = [struct.unpack_from("<HHI", message, at) for at in (12, 20, 28, 36, 44, 52)]
    payload = min(offset for length, _, offset in fields if length)
    if payload < 80:
        raise SaslError("an NTLM message without the MIC it promises")
    return 72 if payload >= 88 else 64


def _text(octets: bytes, charset: str) -> str:
    try:
        text = octets.decode(charset)
    except UnicodeDecodeError:
        raise SaslError("an NTLM name that is not in the character set agreed on") from None
    if len(text) > _LONGEST_NAME or not text.isprintable():
        raise SaslError("an NTLM name that cannot be one")
    return text


def _pairs(octets: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(octets):
        what, length = struct.unpack_from("<HH", octets, at)
        if what == _END:
            return found
        at += 4
        if at + length > len(octets):
            break
        found[what] = octets[at : at + length]
        at += length
    raise SaslError("an NTLM response whose values do not end")


def _upper(text: str) -> str:
    # As Windows does it: one character for one.
    return "".join(upper if len(upper := character.upper()) == 1 else character for character in text)


def _hmac(key: bytes, octets: bytes) -> bytes:
    return hmac.digest(key, octets, "md5")


def _magic(key: bytes, direction: bytes, purpose: bytes) -> bytes:
    octets = key + b"session key to " + direction + b" " + purpose + b" key magic constant\0"
    return hashlib.md5(octets, usedforsecurity=False).digest()
