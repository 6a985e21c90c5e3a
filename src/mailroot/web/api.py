"""The loopback API: operations over HTTP, for the command line and for programs; JSON, with a token."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mailroot.units import Doc, Port


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Where the API listens; it answers loopback addresses only, and only with the token."""

    address: Annotated[str, Doc("A loopback address.")] = "127.0.0.1"
    port: Annotated[Port, Doc("TCP port.")] = 2580
    token_file: Annotated[
        Path, Doc("Holds the token; made at the first start, readable by the service's account alone.")
    ] = Path("mailroot/api-token")
