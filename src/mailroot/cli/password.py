"""Where a command gets a password from: the terminal, or one line of standard input. Never an argument: other
accounts of a computer can see those."""

import sys

from mailroot.cli.tables import Failure

_LONGEST_LINE = 4096


def password_line() -> str:
    """The first line of standard input. Raises Failure."""
    octets = sys.stdin.buffer.readline(_LONGEST_LINE + 1)
    if len(octets) > _LONGEST_LINE:
        raise Failure("the line on standard input is too long for a password")
    try:
        # What Windows PowerShell sends to a program may begin with a byte order mark.
        return octets.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure("the password on standard input is not UTF-8") from None


def ask_password(user: str) -> str:
    """What somebody types at the terminal, once. Raises Failure where there is none."""
    if not sys.stdin.isatty():
        raise Failure("there is no terminal to ask for the password; --password-stdin reads it from standard input")
    from getpass import getpass

    try:
        return getpass(f"Password of {user}: ")
    except EOFError:
        raise Failure("no password was given; nothing was sent") from None
