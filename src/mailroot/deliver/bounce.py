"""Delivery reports: who is told what when a message failed, is late, or has arrived (RFC 3461 to 3464)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mailroot.units import KIB, Doc, Size


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What the Messages tab says about reports and bad mail."""

    copy_to: Annotated[
        str,
        Doc("Send copy of Non-Delivery Report to this address; empty: nobody.", example="postmaster@example.com"),
    ] = ""
    postmaster: Annotated[str, Doc("From address of reports; empty: postmaster at the default domain.")] = ""
    max_returned_size: Annotated[Size, Doc("A larger message is reported with its header only.")] = 64 * KIB
    badmail: Annotated[Path | None, Doc("The Badmail directory; not set: Badmail below the mailroot folder.")] = (
        None
    )
