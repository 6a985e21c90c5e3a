"""Where in a TOML file a key stands: a small scan for keys, so that an error can name its line.

The text has been read by tomllib before, so it is known to be well formed; this only finds where things are. A key
is known by its path: names of tables and keys, and numbers for the elements of arrays.
"""

import re
from collections.abc import Mapping

Path = tuple[str | int, ...]
"""("domains", "remote", 0, "smart_host", 1)"""

_BLANK = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_VALUE = re.compile(r"[^,\]}\n#]*")
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([btnfr"\\]))')
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every table, key and array element of a well-formed TOML text."""
    return _Scan(text).all()


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """The line of the key, or of the nearest thing around it that stands in the file; 1 if there is none."""
    while path:
        line = lines.get(path)
        if line is not None:
            return line
        path = path[:-1]
    return 1


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._elements: dict[Path, int] = {}

    def all(self) -> dict[Path, int]:
        table: Path = ()
        while not self._is_at_end():
            if self._take("[["):
                table = self._within(self._key())
                number = self._elements.get(table, -1) + 1
                self._elements[table] = number
                self._note(table)
                table = (*table, number)
                self._note(table)
                self._skip("]]")
            elif self._take("["):
                table = self._within(self._key())
                self._note(table)
                self._skip("]")
            else:
                self._pair(table)
        return self._lines

    def _within(self, path: Path) -> Path:
        """A header's path, with the number of the array element that it is in."""
        full: Path = ()
        for n, name in enumerate(path):
            full = (*full, name)
            if n < len(path) - 1 and full in self._elements:
                full = (*full, self._elements[full])
        return full

    def _note(self, path: Path) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        for n in range(1, len(path) + 1):
            self._lines.setdefault(path[:n], self._line)

    def _is_at_end(self) -> bool:
        self._blank()
        return self._at >= len(self._text)

    def _blank(self) -> None:
        self._at = _end(_BLANK, self._text, self._at)

    def _space(self) -> None:
        self._at = _end(_SPACE, self._text, self._at)

    def _take(self, mark: str) -> bool:
        if self._text.startswith(mark, self._at):
            self._at += len(mark)
            return True
        return False

    def _skip(self, mark: str) -> None:
        self._space()
        self._take(mark)

    def _key(self) -> Path:
        parts: list[str] = []
        while True:
            self._space()
            quote = self._text[self._at : self._at + 1]
            if quote in ('"', "'"):
                start = self._at
                self._string()
                inner = self._text[start + 1 : self._at - 1]
                parts.append(_ESCAPE.sub(_unescaped, inner) if quote == '"' else inner)
            else:
                end = max(_end(_BARE_KEY, self._text, self._at), self._at)
                parts.append(self._text[self._at : end])
                self._at = end
            self._space()
            if not self._take("."):
                return tuple(parts)

    def _pair(self, table: Path) -> None:
        start = self._at
        path = (*table, *self._key())
        self._note(path)
        self._skip("=")
        self._value(path)
        # Well formed or not, the scan goes on.
        self._at = max(self._at, start + 1)

    def _value(self, path: Path) -> None:
        self._space()
        mark = self._text[self._at : self._at + 1]
        if mark in ('"', "'"):
            self._string()
        elif mark == "[":
            self._at += 1
            number = 0
            while not self._is_at_end() and not self._take("]"):
                start = self._at
                self._note((*path, number))
                self._value((*path, number))
                self._at = max(self._at, start + 1)
                number += 1
        elif mark == "{":
            self._at += 1
            while not self._is_at_end() and not self._take("}"):
                self._pair(path)
        else:
            self._at = _end(_PLAIN_VALUE, self._text, self._at)

    def _string(self) -> None:
        """Past a string of any of the four kinds."""
        text, at = self._text, self._at
        quote = text[at]
        delimiter = quote * 3 if text.startswith(quote * 3, at) else quote
        at += len(delimiter)
        while at < len(text) and not text.startswith(delimiter, at):
            at += 2 if text[at] == "\\" and quote == '"' else 1
        at += len(delimiter)
        if len(delimiter) == 3:
            # Up to two quotes may stand before the closing three.
            for _ in range(2):
                at += text.startswith(quote, at)
        self._at = min(at, len(text))


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _ESCAPED[match[3]]
