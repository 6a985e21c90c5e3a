"""NTLM against the example that Microsoft publishes (MS-NLMP 4.2.4), and messages that are none."""

from dataclasses import replace

import pytest

from mailroot.smtp.sasl.base import BindingMismatch, SaslError
from mailroot.smtp.sasl.ntlm import Claim, Flag, NotTaken, NtlmServer, NtlmSession, Rc4, hash_binding, read_claim

pytestmark = pytest.mark.quick

CHALLENGE = bytes.fromhex("0123456789abcdef")
NT_HASH = bytes.fromhex("a4f49c406510bdcab6824ee7c30fd852")  # of "Password"
FLAGS = (
    Flag.KEY_56
    | Flag.KEY_EXCHANGE
    | Flag.KEY_128
    | Flag.VERSION
    | Flag.TARGET_INFO
    | Flag.EXTENDED_SECURITY
    | Flag.TARGET_TYPE_SERVER
    | Flag.ALWAYS_SIGN
    | Flag.NTLM
    | Flag.SEAL
    | Flag.SIGN
    | Flag.OEM
    | Flag.UNICODE
)
PAIRS = bytes.fromhex("02000c0044006f006d00610069006e0001000c0053006500720076006500720000000000")
CLAIM = Claim(
    user="User",
    domain="Domain",
    flags=FLAGS,
    proof=bytes.fromhex("68cd0ab851e51c96aabc927bebef6a1c"),
    blob=bytes.fromhex("01010000000000000000000000000000aaaaaaaaaaaaaaaa00000000") + PAIRS + bytes(4),
    sealed_key=bytes.fromhex("c5dad2544fc9799094ce1ce90bc9d03e"),
    message=b"",
    bindings=bytes(16),
    has_mic=False,
)


def verified(claim: Claim = CLAIM, nt_hash: bytes = NT_HASH) -> NtlmSession | None:
    return NtlmServer("Server", CHALLENGE, 0).verify(claim, nt_hash)


def field(octets: bytes, offset: int) -> bytes:
    return len(octets).to_bytes(2, "little") * 2 + offset.to_bytes(4, "little")


def authenticate(nt: bytes, *, user: str = "User", lm: bytes = bytes(24)) -> bytes:
    name = user.encode("utf-16-le")
    at = 72
    fields = field(lm, at) + field(nt, at + len(lm)) + field(b"", 0) + field(name, at + len(lm) + len(nt))
    rest = field(b"", 0) + field(b"", 0) + FLAGS.to_bytes(4, "little") + bytes(8)
    return b"NTLMSSP\0\3\0\0\0" + fields + rest + lm + nt + name


def test_the_published_example() -> None:
    session = verified()
    assert session is not None
    assert session.can_sign
    plain = "Plaintext".encode("utf-16-le")
    signature = bytes.fromhex("010000007fb38ec5c55d497600000000")
    assert session.unwrap(signature + bytes.fromhex("54e50165bf1936dc996020c1811b0f06fb5f")) == plain


def test_what_is_not_so_is_not_taken() -> None:
    assert verified(nt_hash=bytes(16)) is None
    assert verified(replace(CLAIM, user="Usher")) is None
    assert verified(replace(CLAIM, domain="DOMAIN")) is None, "the domain counts as it is written"
    assert verified(replace(CLAIM, user="USER")) is not None, "the user's name in any case"
    assert verified(replace(CLAIM, proof=bytes(16))) is None
    assert verified(replace(CLAIM, blob=CLAIM.blob + b"\0")) is None
    assert NtlmServer("Server", bytes(8), 0).verify(CLAIM, NT_HASH) is None, "an answer to another challenge"
    with pytest.raises(SaslError):
        verified(replace(CLAIM, sealed_key=b""))


def test_channel_bindings() -> None:
    bindings = (("tls-unique", b"finished"), ("tls-server-end-point", b"certificate"))
    server = NtlmServer("Server", CHALLENGE, 0)
    for one in bindings:
        assert server.verify(replace(CLAIM, bindings=hash_binding(*one)), NT_HASH, bindings) is not None
    for these in ((), bindings[:1]):
        with pytest.raises(BindingMismatch):
            server.verify(replace(CLAIM, bindings=hash_binding(*bindings[1])), NT_HASH, these)


def test_a_session_knows_what_was_wrapped_for_it() -> None:
    session = verified()
    assert session is not None
    assert session.unwrap(b"") is None
    assert session.unwrap(bytes(16)) is None
    assert session.unwrap(bytes(40)) is None


def test_without_encryption_a_session_signs() -> None:
    session = verified(replace(CLAIM, flags=FLAGS & ~Flag.SEAL))
    assert session is not None
    wrapped = session.wrap(b"\1\0\0\0")
    assert wrapped[16:] == b"\1\0\0\0"


@pytest.mark.parametrize(("asked", "length"), [(Flag.KEY_128, 16), (Flag.KEY_56, 7), (Flag(0), 5)])
def test_keys_as_long_as_agreed_on(asked: Flag, length: int) -> None:
    """Two sessions that have the used octets of their key in common seal alike."""
    flags = Flag.SIGN | Flag.SEAL | Flag.EXTENDED_SECURITY | asked
    one, other = NtlmSession(b"k" * 16, flags), NtlmSession(b"k" * length + b"x" * (16 - length), flags)
    assert one.wrap(b"octets")[16:] == other.wrap(b"octets")[16:]


def test_rc4() -> None:
    # RFC 6229 has streams for keys of these lengths; the first 16 octets.
    assert Rc4(bytes.fromhex("0102030405")).update(bytes(16)).hex() == "b2396305f03dc027ccc3524a0a1118a8"
    assert Rc4(bytes(range(1, 17))).update(bytes(16)).hex() == "9ac7cc9a609d1ef7b2932899cde41b97"


def test_a_stranger_is_told_one_name() -> None:
    asked = Flag.UNICODE | Flag.OEM | Flag.VERSION | Flag.SIGN
    message = NtlmServer("relay", CHALLENGE, 7).challenge(b"NTLMSSP\0\1\0\0\0" + asked.to_bytes(4, "little"))
    assert message[24:32] == CHALLENGE
    flags = Flag(int.from_bytes(message[20:24], "little"))
    assert Flag.VERSION not in flags
    assert Flag.OEM not in flags
    assert Flag.SIGN in flags
    assert message[48:56] == bytes(8)
    name = "RELAY".encode("utf-16-le")
    pairs = b"\2\0\x0a\0" + name + b"\1\0\x0a\0" + name + b"\7\0\x08\0" + (7).to_bytes(8, "little") + bytes(4)
    assert message[56:] == name + pairs


def test_what_is_no_first_message() -> None:
    server = NtlmServer("relay", CHALLENGE, 0)
    for message in (b"", b"NTLMSSP\0", b"NTLMSSP\0\1\0\0\0", b"NTLMSSP\0\3\0\0\0" + bytes(80), bytes(40)):
        with pytest.raises(SaslError):
            server.challenge(message)


def test_old_and_nameless_logins() -> None:
    with pytest.raises(NotTaken, match="NTLMv1") as caught:
        read_claim(authenticate(bytes(24)), FLAGS)
    assert caught.value.user == "User"
    with pytest.raises(NotTaken, match="NTLMv1"):
        read_claim(authenticate(b""), FLAGS)  # LM alone
    with pytest.raises(NotTaken, match="anonymous") as caught:
        read_claim(authenticate(b"", user="", lm=b"\0"), FLAGS)
    assert caught.value.user == ""


def test_what_is_no_third_message() -> None:
    good = CLAIM.proof + CLAIM.blob
    assert read_claim(authenticate(good), FLAGS).user == "User"
    bad = [
        authenticate(good)[:60],
        authenticate(good[:40]),
        authenticate(CLAIM.proof + b"\2\2" + CLAIM.blob[2:]),
        authenticate(good[: 16 + 28] + b"\2\0\xff\xff"),
        authenticate(good[: 16 + 28] + b"\2\0\2\0ab"),  # values without an end
        authenticate(good[: 16 + 28] + b"\6\0\1\0\2\0\0\0\0"),  # flags of one octet
        authenticate(good, user="a\nb"),
        authenticate(good, user="x" * 300),
        authenticate(good)[:-1],
    ]
    for message in bad:
        with pytest.raises(SaslError) as caught:
            read_claim(message, FLAGS)
        assert not isinstance(caught.value, NotTaken)
    with pytest.raises(SaslError):
        read_claim(authenticate(good, user="ж"), FLAGS & ~Flag.UNICODE)


def test_nothing_secret_is_shown() -> None:
    shown = repr(CLAIM)
    assert "blob" not in shown
    assert "proof" not in shown
    assert "key" not in shown
