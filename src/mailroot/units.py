"""How settings are written in the configuration file, and what they are inside.

Settings are frozen dataclasses that live beside the code they set. A field's type says the unit; its
meaning stands in `Doc`, from which the sample configuration and `mailroot config check` take their
words:

    @dataclass(frozen=True, slots=True)
    class DeliverySettings:
        first_retry: Annotated[Duration, Doc("Wait after the first failed attempt.")] = 15 * MINUTE

Inside, a Duration is seconds (float) and a Size is octets (int); in the file they are written with their
unit: "15 min", "2 MiB". This module only marks the types; reading the file is config's business.
"""

from dataclasses import dataclass
from typing import Annotated

SECOND = 1.0
MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0
KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Doc:
    """What a setting means, in one or two sentences for an administrator; `example` is shown in the sample.
    `alternative`: the setting stands in place of the one before it, so the sample has it as words only."""

    text: str
    example: str | None = None
    alternative: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks a number that is written with a unit in the file: 'duration' or 'size'."""

    kind: str


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and largest value a number may take, both included; None: no bound."""

    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Secret:
    """Marks a value that must never be printed, and that should come from a file or the environment."""


Duration = Annotated[float, Unit("duration"), Range(least=0)]
"""Seconds; in the file "30 s", "15 min", "12 h", "2 days"."""

Size = Annotated[int, Unit("size"), Range(least=0)]
"""Octets; in the file "64 KiB", "2 MiB"; 0 means no limit where the setting says so."""

Port = Annotated[int, Range(least=1, most=65535)]
"""A TCP port."""

SecretText = Annotated[str, Secret()]
"""A password or token; in the file {file = "…"} or {env = "…"}; plain text is taken with a warning."""
