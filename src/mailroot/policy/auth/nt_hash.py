"""The NT hash, the only form of a password that NTLM can do with: MD4 (RFC 1320) of its UTF-16.

It is as good as the password itself to whoever gets hold of it, and is kept only where NTLM is allowed.
"""

import struct

_MASK = 0xFFFFFFFF


def nt_hash(password: str) -> bytes:
    """16 octets ([MS-NLMP] §3.3.1, NTOWFv1)."""
    return _md4(password.encode("utf-16-le"))


def _md4(message: bytes) -> bytes:
    """RFC 1320 §3. OpenSSL has it no more, but for old times' sake."""
    length = len(message)
    padded = message + b"\x80" + bytes((55 - length) % 64) + struct.pack("<Q", 8 * length)
    state = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
    for start in range(0, len(padded), 64):
        mixed = _block(state, struct.unpack_from("<16I", padded, start))
        state = tuple((one + other) & _MASK for one, other in zip(state, mixed, strict=True))  # type: ignore[assignment]
    return struct.pack("<4I", *state)


def _block(state: tuple[int, int, int, int], words: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for order, turns, constant, mix in _ROUNDS:
        for n, word in enumerate(order):
            total = (a + mix(b, c, d) + words[word] + constant) & _MASK
            turn = turns[n % 4]
            a, b, c, d = d, (total << turn | total >> (32 - turn)) & _MASK, b, c
    return a, b, c, d


def _choose(x: int, y: int, z: int) -> int:
    return x & y | ~x & z


def _most(x: int, y: int, z: int) -> int:
    return x & y | x & z | y & z


def _parity(x: int, y: int, z: int) -> int:
    return x ^ y ^ z


_ROUNDS = (
    (range(16), (3, 7, 11, 19), 0, _choose),
    ((0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), (3, 5, 9, 13), 0x5A827999, _most),
    ((0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15), (3, 9, 11, 15), 0x6ED9EBA1, _parity),
)
