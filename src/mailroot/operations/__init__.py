"""What an operator can do: one class, `Operations`, that the API, and so the command line, calls and nothing else.

Values in and out are frozen dataclasses; `as_json` turns any of them into what JSON knows. Operations knows no
queue engine, opens no socket but the DNS look-ups of `explain`, and never reads a configuration file.
"""

from mailroot.operations.operator import Operations
from mailroot.operations.servers import (
    Conflict,
    Folders,
    Invalid,
    NotFound,
    OperationError,
    Reload,
    ServerState,
    SessionRegistry,
    Unavailable,
    VirtualServer,
)
from mailroot.operations.values import as_json

__all__ = [
    "Conflict",
    "Folders",
    "Invalid",
    "NotFound",
    "OperationError",
    "Operations",
    "Reload",
    "ServerState",
    "SessionRegistry",
    "Unavailable",
    "VirtualServer",
    "as_json",
]
