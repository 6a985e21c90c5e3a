"""SPNEGO, the acceptor's side, as far as NTLM needs it (RFC 4178; MS-SPNG): the frames around its messages.

Where Kerberos is chosen, the system's GSSAPI or SSPI reads these frames itself.
"""

from dataclasses import dataclass
from enum import IntEnum

from mailroot.smtp.sasl.base import BindingMismatch, SaslError
from mailroot.smtp.sasl.ntlm import NtlmSession

_SPNEGO = bytes.fromhex("2b0601050502")
KERBEROS = frozenset({bytes.fromhex("2a864886f712010202"), bytes.fromhex("2a864882f712010202")})
"""Kerberos, and as Windows 2000 wrote it by mistake; contents of DER object identifiers."""
NTLM = bytes.fromhex("2b06010401823702020a")

_APPLICATION, _OID, _OCTETS, _SEQUENCE, _ENUMERATED = 0x60, 0x06, 0x04, 0x30, 0x0A
_MOST_MECHANISMS = 32


class State(IntEnum):
    """negState (RFC 4178 §4.2.2)."""

    COMPLETED = 0
    INCOMPLETE = 1
    REJECT = 2
    REQUEST_MIC = 3


@dataclass(frozen=True, slots=True)
class Opening:
    """NegTokenInit. `listed` is the list of mechanisms in DER, which the MIC is over; `token` is for the first."""

    mechanisms: tuple[bytes, ...]
    listed: bytes
    token: bytes | None
    mic: bytes | None

    @property
    def prefers_ntlm(self) -> bool:
        """Whether NTLM is its first choice, or the only one of those there are."""
        return NTLM in self.mechanisms and (self.mechanisms[0] == NTLM or KERBEROS.isdisjoint(self.mechanisms))


@dataclass(frozen=True, slots=True)
class Answer:
    """NegTokenResp of a client."""

    token: bytes | None
    mic: bytes | None


def read_opening(octets: bytes) -> Opening | None:
    """The first token of a client; None if it is not SPNEGO but a mechanism's own. Raises SaslError."""
    if octets[:1] != bytes([_APPLICATION]):
        return None
    content, _ = _element(octets, 0, _APPLICATION)
    mechanism, at = _element(content, 0, _OID)
    if mechanism != _SPNEGO:
        return None
    chosen, _ = _element(content, at, 0xA0)
    fields = _fields(chosen)
    listed = fields.get(0xA0)
    if listed is None:
        raise SaslError("SPNEGO without mechanisms")
    inner, _ = _element(listed, 0, _SEQUENCE)
    mechanisms = []
    at = 0
    while at < len(inner):
        one, at = _element(inner, at, _OID)
        mechanisms.append(one)
    if not 0 < len(mechanisms) <= _MOST_MECHANISMS:
        raise SaslError("SPNEGO with no mechanisms, or too many")
    return Opening(tuple(mechanisms), listed, _octets(fields.get(0xA2)), _octets(fields.get(0xA3)))


def read_answer(octets: bytes) -> Answer:
    """A later token of a client. Raises SaslError."""
    content, _ = _element(octets, 0, 0xA1)
    fields = _fields(content)
    state = fields.get(0xA0)
    if state is not None and _element(state, 0, _ENUMERATED)[0] == bytes([State.REJECT]):
        raise SaslError("the client broke SPNEGO off")
    token, mic = _octets(fields.get(0xA2)), _octets(fields.get(0xA3))
    # Old clients repeat the token where the MIC belongs.
    return Answer(token, None if mic == token else mic)


def write_answer(state: State, *, chosen: bytes = b"", token: bytes = b"", mic: bytes = b"") -> bytes:
    """NegTokenResp of ours; `chosen` is the mechanism, in the first alone."""
    fields = _der(0xA0, _der(_ENUMERATED, bytes([state])))
    if chosen:
        fields += _der(0xA1, _der(_OID, chosen))
    if token:
        fields += _der(0xA2, _der(_OCTETS, token))
    if mic:
        fields += _der(0xA3, _der(_OCTETS, mic))
    return _der(0xA1, _der(_SEQUENCE, fields))


class SpnegoServer:
    """The frames of one login in which NTLM was chosen: `opened`, `answered`, and `done` at its end."""

    __slots__ = ("_listed", "_mic", "_must_check", "_said", "_token")

    def __init__(self, opening: Opening) -> None:
        self._listed = opening.listed
        # RFC 4178 §5: what the client wanted first was not taken; only the MIC shows that nobody else wanted it so.
        self._must_check = opening.mechanisms[0] != NTLM
        self._token = None if self._must_check else opening.token
        self._mic: bytes | None = None
        self._said = False

    def opened(self) -> bytes | None:
        """The client's NTLM message in its first token; None if there is none yet."""
        return self._token

    def ask(self, token: bytes = b"") -> bytes:
        """Our token around this NTLM message, with more to come."""
        state = State.REQUEST_MIC if self._must_check and not self._said else State.INCOMPLETE
        chosen = b"" if self._said else NTLM
        self._said = True
        return write_answer(state, chosen=chosen, token=token)

    def answered(self, octets: bytes) -> bytes:
        """The NTLM message in a later token. Raises SaslError."""
        answer = read_answer(octets)
        if answer.token is None:
            raise SaslError("SPNEGO without an NTLM message")
        self._mic = answer.mic
        return answer.token

    def done(self, session: NtlmSession) -> bytes:
        """Our last token, after NTLM's last message was found good. Raises BindingMismatch."""
        if self._mic is None:
            if self._must_check:
                raise BindingMismatch("SPNEGO without the MIC over its mechanisms")
            return write_answer(State.COMPLETED)
        if not session.can_sign or not session.verify(self._listed, self._mic):
            raise BindingMismatch("the mechanisms of SPNEGO were changed on their way")
        mic = session.sign(self._listed)
        session.reset()
        return write_answer(State.COMPLETED, mic=mic)


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + content


def _element(octets: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """The content of the element there, which must have this tag, and where the next begins."""
    if len(octets) < at + 2 or octets[at] != tag:
        raise SaslError("not a SPNEGO token")
    length = octets[at + 1]
    at += 2
    if length >= 0x80:
        digits = length & 0x7F
        if not 1 <= digits <= 4 or len(octets) < at + digits:
            raise SaslError("a SPNEGO token with a length that is none")
        length = int.from_bytes(octets[at : at + digits], "big")
        at += digits
    if at + length > len(octets):
        raise SaslError("a SPNEGO token that ends too early")
    return octets[at : at + length], at + length


def _fields(content: bytes) -> dict[int, bytes]:
    """The tagged fields of a sequence."""
    inner, _ = _element(content, 0, _SEQUENCE)
    found: dict[int, bytes] = {}
    at = 0
    while at < len(inner):
        tag = inner[at]
        if tag in found:
            raise SaslError("a SPNEGO token with a field twice")
        found[tag], at = _element(inner, at, tag)
    return found


def _octets(field: bytes | None) -> bytes | None:
    if field is None:
        return None
    # Windows' NegTokenInit2 has hints where the MIC stands otherwise: no octets, and nothing for an acceptor.
    return None if field[:1] == bytes([_SEQUENCE]) else _element(field, 0, _OCTETS)[0]
