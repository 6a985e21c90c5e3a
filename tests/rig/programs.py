"""Where the programs are that tests with real peers use."""

import os
import shutil
from pathlib import Path

_PEERS = Path(__file__).parents[2] / ".peers"
_FOLDERS = ("usr/sbin", "usr/lib/postfix/sbin", "usr/bin")


def find_program(name: str) -> Path | None:
    """A program of the system's, or of a server unpacked below .peers."""
    for folder in _FOLDERS:
        for peer in sorted(_PEERS.glob("*")):
            if (unpacked := peer / folder / name).is_file():
                return unpacked
    found = shutil.which(
        name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/lib/postfix/sbin"
    )
    return Path(found) if found else None
