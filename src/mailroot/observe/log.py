"""The log: one line per event, as text for people or JSON for programs."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from mailroot.units import MIB, Doc, Size


class LogFormat(StrEnum):
    """Text for people, JSON for programs."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and where to."""

    format: Annotated[LogFormat, Doc("'text' or 'json'.")] = LogFormat.TEXT
    level: Annotated[str, Doc("The least important events that are logged: debug, info, warning or error.")] = (
        "info"
    )
    file: Annotated[Path | None, Doc("The file to log to; not set: standard error.")] = None
    max_size: Annotated[Size, Doc("The file is rotated when it is larger; 0: never.")] = 50 * MIB
    keep_files: Annotated[int, Doc("How many rotated files are kept.")] = 5
