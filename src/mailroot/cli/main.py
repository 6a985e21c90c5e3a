"""The command `mailroot`, and the border where errors become words.

Exit codes: 0 it was done, 1 it could not be done (the reason is on standard error), 2 the command line is wrong.
The server itself is started without the libraries that the other commands want: they would be a quarter of its
memory.
"""

import os
import sys
from pathlib import Path

from mailroot.cli.tables import Failure, OutputLost, complain, plain


def main(arguments: list[str] | None = None) -> int:
    """The console script. `arguments`: without the program's name; None: the process's own."""
    _open_streams()
    _speak_utf8()
    try:
        match sys.argv[1:] if arguments is None else arguments:
            case ["run"]:
                _run(os.environ.get("MAILROOT_CONFIG", ""))
            case ["run", "--config", file] if file and not file.startswith("-"):
                _run(file)
            case other:
                from mailroot.cli.commands import app

                app(args=other, prog_name="mailroot")
    except SystemExit as end:
        # How the command line library says what it is done with: 0, 2 for a wrong command line, what Exit carries.
        return end.code if isinstance(end.code, int) else 1
    except OutputLost as lost:
        lost.silence()
        if not lost.reader_left:
            complain(f"mailroot: {lost}")
        return 1
    except Failure as failure:
        complain("mailroot: " + "\n".join(map(plain, str(failure).split("\n"))))
        return 1
    except KeyboardInterrupt:
        complain("mailroot: interrupted")
        return 1
    return 0


def _run(config: str) -> None:
    """What `commands.run` does, for the usual ways to say it."""
    from mailroot.cli.run import run

    run(Path(config) if config else None)


def _open_streams() -> None:
    """Whoever starts us may have closed them, and pythonw.exe has none: no socket must become standard output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - for good


def _speak_utf8() -> None:
    """A console or pipe on Windows may have a code page of its own; and no letter may ever end the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8" if os.name == "nt" else None, errors="replace")
