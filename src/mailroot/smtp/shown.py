"""A client's line as people may see it, in logs and events: cut, without controls and without a secret.

Secrets come where nobody expects them: behind a misspelt AUTH, as a line of their own after a login that the client
did not see fail, or as `PASS secret` from a program that takes us for another kind of server. So of a line that
is no command of ours nothing but its first word is shown, and even that only where no login went before it.
"""

import re

HIDDEN = "(not shown: it followed AUTH)"
"""Stands for a line that may hold the answer to a challenge that was never given."""

_MOST = 200
_FIRST_WORD = re.compile(rb"[!-~]{1,40}")
_NOISE = bytes(range(0x21)) + b"\x7f\"'<([{="
# A word behind AUTH may be a password that stands in the mechanism's place: only names of mechanisms are shown.
_MECHANISM = re.compile(
    r"LOGIN|PLAIN|ANONYMOUS|EXTERNAL|GSSAPI|GS2-KRB5(?:-PLUS)?|GSS-SPNEGO|KERBEROS_V[45]|NEGOTIATE|NTLM|WDIGEST"
    r"|CRAM-MD5|DIGEST-MD5|SCRAM-SHA-(?:1|224|256|384|512)(?:-PLUS)?|XOAUTH2?|OAUTHBEARER|SRP|OTP|SECURID|SKEY"
)


def is_login(line: bytes) -> bool:
    """Whether this line is AUTH, or what is left of one: `auth<TAB>login`, `AUTHPLAIN …`, UTF-16."""
    return line[:64].translate(None, _NOISE)[:4].upper() == b"AUTH"


def login(mechanism: str) -> str:
    """AUTH as it may be shown: with its mechanism if that is the name of one."""
    mechanism = mechanism.upper()
    return "AUTH" if _MECHANISM.fullmatch(mechanism) is None else f"AUTH {mechanism}"


def command(line: bytes) -> str:
    """A command with all that it says; of AUTH only the mechanism."""
    if is_login(line):
        words = line.split(maxsplit=2)
        return login(words[1].decode("ascii", "replace") if len(words) > 1 else "")
    text = line[:_MOST].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def first_word(line: bytes) -> str:
    """A line that is no command of ours."""
    word = _FIRST_WORD.match(line)
    return command(line[:1]) if word is None else word[0].decode()
