"""Lists of addresses in a message's header: To, From, Sender (RFC 5322 §3.4, RFC 6854 for groups in From).

`mailboxes` makes the best of what programs write. `read_originators` must not be deceived: it is for fields that
say who a message is from, where two programs may see two different authors in the same octets.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mailroot.mail.header import decode, decode_words

NAME_LENGTH = 200
"""Characters of a display name that are kept."""

_PIECE = re.compile(
    r'(?P<quoted>"(?:[^"\\]|\\.)*+"?)'
    r"|(?P<space>\s++)"
    r"|(?P<word>=\?[^?\s]++\?[bBqQ]\?[^?\s]*+\?=)"
    r"|(?P<literal>\[[^\[\]\s]*+\])"
    r"|(?P<special>[<>,;:@()\[\].])"
    r'|(?P<atom>[^\s"<>,;:@()\[\].]++)',
    re.DOTALL,
)

_PARENTHESIS = re.compile(r"\\.|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_CLOSED_QUOTE = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\n-\x1f\x7f]")


def mailboxes(value: bytes) -> list[str]:
    """The addresses in the value of a field such as To: "local@domain", or "local" where there is no domain.

    Groups, comments, display names, routes, quoted local parts and empty places in the list are understood. What
    is no address is not dropped but comes back as text that no address parser takes: the caller can name it.
    """
    found: list[str] = []
    plain: list[str] = []
    angle: list[str] | None = None
    closed = False

    def finish() -> None:
        nonlocal plain, angle, closed
        address = _joined(plain if angle is None else angle)
        # "undisclosed-recipients:;" and a trailing comma leave nothing; "Bob <>" leaves what is no address.
        if address or angle is not None:
            found.append(address or "<>")
        plain, angle, closed = [], None, False

    for piece in _pieces(value.decode("utf-8", "replace")):
        if angle is not None and not closed:
            in_route = angle[:1] == ["@"]
            if piece == ">":
                closed = True
            elif piece == ":" and in_route:
                angle = []  # RFC 5321 §4.1.2: the route of <@a,@b:user@c> is ignored
            elif piece == ";" or (piece == "," and not in_route):
                finish()  # the bracket was never closed
            elif angle or piece != " ":
                angle.append(piece)
        elif piece in {",", ";"}:
            finish()
        elif piece == "<":
            if angle is not None:
                finish()
            angle = []
        elif piece == ":":
            plain = []  # the name of a group
        elif angle is None:
            plain.append(piece)
    finish()
    return found


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An author as a header names them: the display name for people, "" where there is none, and what stands for
    the address, in whatever form."""

    name: str
    address: str


def read_originators(value: bytes) -> tuple[Mailbox, ...] | None:
    """All whom the (unfolded) value of From, Sender or the like can be taken to name, in their order.

    None: it has brackets, quotes or comments that do not close, controls, or text where none belongs, and programs
    will disagree about what it means. An address outside of the brackets counts as one more: `ceo@a <clerk@b>`
    names both. `()` for a value with nobody in it.
    """
    text = decode(value)
    reading = _Reading()
    if _CONTROL.search(text) or not all(map(reading.take, _tokens(text))) or not reading.end():
        return None
    if any(one.address.encode() not in value for one in reading.found if not one.address.isascii()):
        return None  # not UTF-8: a name may be guessed, an address may not
    return tuple(reading.found)


class _Reading:
    """`read_originators` on its way. What it takes piece by piece is False where the value cannot be trusted."""

    def __init__(self) -> None:
        self.found: list[Mailbox] = []
        self._plain: list[str] = []
        self._angle: list[str] | None = None
        self._comment = ""
        self._closed = False
        self._in_group = False

    def take(self, token: tuple[str, str]) -> bool:
        kind, piece = token
        if kind == "unclosed":
            return False
        if kind == "comment":
            self._comment, piece = self._comment or piece[1:-1], " "
        if self._angle is not None and not self._closed:
            return self._inside(self._angle, piece)
        match piece:
            case ",":
                self._finish()
            case ";" if self._in_group:
                self._finish()
                self._in_group = False
            case "<" if self._angle is None:
                self._angle = []
            case ":" if not self._in_group and "@" not in self._plain and self._angle is None:
                self._plain, self._in_group = [], True
            case "<" | ">" | ";" | ":":
                return False
            case _ if self._closed:
                return piece == " "
            case _:
                self._plain.append(piece)
        return True

    def _inside(self, angle: list[str], piece: str) -> bool:
        """Between the brackets."""
        in_route = angle[:1] == ["@"]
        if piece == ">":
            self._closed = True
        elif piece in {"<", ";"} or (piece in {",", ":"} and not in_route):
            return False
        elif piece == ":":
            self._angle = []  # RFC 5321 §4.1.2: the route of <@a,@b:user@c> is ignored
        elif angle or piece != " ":
            angle.append(piece)
        return True

    def end(self) -> bool:
        if self._angle is not None and not self._closed:
            return False
        self._finish()
        return True

    def _finish(self) -> None:
        comment = decode_words(self._comment.encode(), NAME_LENGTH)
        if self._angle is not None:
            self.found.append(Mailbox(_name(self._plain) or comment, _joined(self._angle)))
        if (self._angle is None or "@" in self._plain) and (words := _joined(self._plain)):
            self.found.append(Mailbox(comment if self._angle is None else "", words))
        self._plain, self._angle, self._comment, self._closed = [], None, "", False


def _name(pieces: list[str]) -> str:
    """A display name from its words and quoted strings."""
    bare = [_QUOTED_PAIR.sub(r"\1", piece[1:-1]) if piece.startswith('"') else piece for piece in pieces]
    return decode_words("".join(bare).encode(), NAME_LENGTH)


def _pieces(text: str) -> list[str]:
    """Words, quoted strings, literals and specials; each white space or comment is one " "."""
    return [" " if piece[0] == "(" else piece for _, piece in _tokens(text)]


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """What the text is made of, each with its kind; white space is one " ". A comment or quoted string without its
    end reaches to that of the text and is "unclosed"."""
    at = 0
    while match := _PIECE.match(text, at):
        start, at = match.span()
        if match.group() == "(":
            at = _comment_end(text, start)
            yield "comment" if at > 0 else "unclosed", text[start : at if at > 0 else None]
            if at < 0:
                return
        elif match["quoted"] and not _CLOSED_QUOTE.fullmatch(match.group()):
            yield "unclosed", match.group()
        else:
            yield match.lastgroup or "", " " if match["space"] else match.group()


def _comment_end(text: str, start: int) -> int:
    """Where the comment that opens at `start` is over, -1: nowhere. Comments nest, and a backslash quotes."""
    depth = 0
    for match in _PARENTHESIS.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(match.group(), 0)
        if not depth:
            return match.end()
    return -1


def _joined(pieces: list[str]) -> str:
    """Pieces as one address: white space beside "@" and "." goes (RFC 5322 §4.4); of several words without
    brackets ("Bob bob@example.com") the one with an "@" is meant."""
    words: list[list[str]] = []
    spaced = True
    for piece in pieces:
        if piece == " ":
            spaced = True
            continue
        if words and (not spaced or piece in {"@", "."} or words[-1][-1] in {"@", "."}):
            words[-1].append(piece)
        else:
            words.append([piece])
        spaced = False
    with_at = [word for word in words if "@" in word]
    return "".join(with_at[0]) if len(with_at) == 1 else " ".join(map("".join, words))
