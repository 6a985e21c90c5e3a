"""Changes to octets on their way, the same for octets of any length and content."""

from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Change:
    """One change: octets cut off, flipped, put in, or something else instead."""

    kind: str
    place: int
    flip: int
    noise: bytes

    def made(self, octets: bytes) -> bytes:
        """The octets, changed; never the same."""
        at = self.place % (len(octets) or 1)
        match self.kind:
            case "cut" if octets:
                return octets[:at]
            case "flip" if octets:
                return octets[:at] + bytes([octets[at] ^ self.flip]) + octets[at + 1 :]
            case "insert":
                return octets[:at] + self.noise + octets[at:]
            case _:
                return self.noise if self.noise != octets else octets + b"x"


CHANGES = st.builds(
    Change,
    kind=st.sampled_from(["cut", "flip", "insert", "instead"]),
    place=st.integers(0, 10_000),
    flip=st.integers(1, 255),
    noise=st.binary(min_size=1, max_size=100),
)
