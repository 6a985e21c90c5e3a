"""Where the loopback API listens and where its token is. The routes themselves are in web.routes: whoever only
reads the configuration does not load a web framework."""

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
