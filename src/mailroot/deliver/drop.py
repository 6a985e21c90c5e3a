"""The Drop folder: mail for the local domains, one file per message."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mailroot.units import Doc, Size


@dataclass(frozen=True, slots=True)
class DropSettings:
    """Where mail for local domains goes."""

    folder: Annotated[Path | None, Doc("The Drop directory; not set: Drop below the mailroot folder.")] = None
    quota: Annotated[
        Size | None,
        Doc("Limit of the Drop directory; 0: no limit; not set: ten times the message size limit."),
    ] = None
