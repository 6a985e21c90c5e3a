"""The format of tests/dialogs/*.txt: conversations of a client and the server, as text.

README.md there describes it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "dialogs"
WAYS = ("chunk", "bytes", "socket")
_STEP = re.compile(r"([CSQETD][:~\\*!=])(?: (.*)|$)")
_SETTING = re.compile(r"([a-z_]+) = (.*)")
_ESCAPE = re.compile(r"\\(r|n|t|\\|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|\{(.+?)\*(\d+)\})")


@dataclass(frozen=True)
class Step:
    """One line of a conversation; `kind` is its first two characters."""

    where: str
    kind: str
    text: str

    def fail(self, why: str) -> None:
        pytest.fail(f"{self.where}: {self.kind} {self.text}\n{why}", pytrace=False)

    @property
    def octets(self) -> bytes:
        return unescape(self.text) if self.kind == "C\\" else self.text.encode() + b"\r\n"


@dataclass
class Conversation:
    """A title, settings and steps."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    @property
    def ways(self) -> tuple[str, ...]:
        ways = tuple(self.settings.get("ways", " ".join(WAYS)).split())
        # Over a real connection the client is who it is.
        return tuple(way for way in ways if way != "socket" or "client" not in self.settings)


def unescape(text: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "{":
            return match[2] * int(match[3])
        if code[0] in "xu":
            return chr(int(code[1:], base=16))
        return {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}[code]

    # \xNN is an octet; everything else is UTF-8.
    pieces = re.split(r"(\\x[0-9a-fA-F]{2})", text)
    return b"".join(
        bytes.fromhex(p[2:]) if re.fullmatch(r"\\x[0-9a-fA-F]{2}", p) else _ESCAPE.sub(one, p).encode()
        for p in pieces
    )


def expand(step: Step) -> list[Step]:
    """The abbreviations: `T:` is a transaction's envelope, `D:` a DATA with its content; `$` shows a line's end."""

    def steps(*lines: tuple[str, str]) -> list[Step]:
        return [Step(step.where, kind, text) for kind, text in lines]

    if step.kind == "T:":
        sender, *recipients = (address for address in step.text.split() if address != ">")
        bare = sender.removeprefix("<>")
        accepted = [
            line
            for address in recipients
            for line in (("C:", f"RCPT TO:<{address}>"), ("S:", f"250 2.1.5 {address} "))
        ]
        return steps(("C:", f"MAIL FROM:<{bare}>"), ("S:", f"250 2.1.0 {bare or '<>'}....Sender OK"), *accepted)
    if step.kind == "D:":
        start = "354 Start mail input; end with <CRLF>.<CRLF>"
        return steps(("C:", "DATA"), ("S:", start), ("C\\", f"{step.text}\\r\\n.\\r\\n"))
    if step.kind == "S:" and step.text.endswith("$"):
        return steps(("S:", step.text[:-1]))
    return [step]


def read_file(path: Path) -> Iterator[Conversation]:
    """The conversations of a file. A line that is none of ours is an error, not a comment."""
    conversation: Conversation | None = None
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        where = f"{path.name}:{number}"
        if line.startswith("=== "):
            if conversation is not None:
                yield conversation
            conversation = Conversation(f"{path.stem}:{number} {line[4:].strip()}")
        elif not line.strip() or line.startswith("#"):
            continue
        elif conversation is None:
            raise ValueError(f"{where}: a conversation begins with '=== title'")
        elif step := _STEP.fullmatch(line):
            conversation.steps.extend(expand(Step(where, step[1], step[2] or "")))
        elif (setting := _SETTING.fullmatch(line)) and not conversation.steps:
            conversation.settings[setting[1]] = setting[2].strip()
        else:
            raise ValueError(f"{where}: {line!r} is no step and no setting")
    if conversation is not None:
        yield conversation


def conversations() -> list[Conversation]:
    """All that there are, file by file."""
    return [conversation for path in sorted(FOLDER.glob("*.txt")) for conversation in read_file(path)]
