"""The tables of a configuration file, each value with the place it stands at; and what is wrong there.

A virtual server's tables are laid over the shared ones, so a value may come from either: it brings its path along,
and an error names the line it is really written in.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec

from mailroot.config.lines import Path, line_of

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file: a dict of nodes for a table, a list of nodes for an array, else what TOML gives."""

    value: Any
    path: Path

    @property
    def tables(self) -> Mapping[str, "Node"]:
        """Its keys, if it is a table; none otherwise."""
        return self.value if isinstance(self.value, dict) else {}


def tree(value: Any, path: Path = ()) -> Node:
    """What tomllib read, as nodes."""
    match value:
        case dict():
            return Node({key: tree(inner, (*path, key)) for key, inner in value.items()}, path)
        case list():
            return Node([tree(inner, (*path, number)) for number, inner in enumerate(value)], path)
        case _:
            return Node(value, path)


def over(below: Node, above: Node) -> Node:
    """`above` laid over `below`: key by key where both are tables, else the upper one as it is (lists too)."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = over(below.value[key], node) if key in below.value else node
    return Node(merged, above.path)


def find(node: Node, *names: str | int) -> Path:
    """Where a setting stands, or would have to."""
    for n, name in enumerate(names):
        inner = _within(node, name)
        if inner is None:
            return (*node.path, *names[n:])
        node = inner
    return node.path


def is_written(node: Node, *names: str | int) -> bool:
    """Whether the setting is in the file, or left to its default."""
    for name in names:
        inner = _within(node, name)
        if inner is None:
            return False
        node = inner
    return True


def _within(node: Node, name: str | int) -> Node | None:
    if isinstance(name, str):
        return node.tables.get(name)
    return node.value[name] if isinstance(node.value, list) and name < len(node.value) else None


def place(path: Path, *, table: bool = False) -> str:
    """How a path is named to people: "[general] listen", "[[domains.remote]] name", "[delivery.retries]"."""
    while path and isinstance(path[-1], int) and not table:
        path = path[:-1]
    section, key = (path, "") if table else (path[:-1], _quoted(path[-1]) if path else "")
    names = ".".join(_quoted(name) for name in section if isinstance(name, str))
    if not names:
        return key
    bracketed = f"[[{names}]]" if isinstance(section[-1], int) else f"[{names}]"
    return f"{bracketed} {key}" if key else bracketed


def _quoted(name: str | int) -> str:
    text = str(name)
    bare = text.isascii() and text.replace("-", "").replace("_", "").isalnum()
    return text if bare else '"' + "".join(c if c.isprintable() else "?" for c in text) + '"'


@dataclass
class Findings:
    """What is wrong in a file, and what is only worth a warning. The same thing is said once, also where a shared
    section is read for several virtual servers."""

    errors: dict[tuple[Path, str], str] = field(default_factory=dict)
    warnings: dict[tuple[Path, str], str] = field(default_factory=dict)

    def error(self, path: Path, text: str, *, table: bool = False) -> None:
        """`text`: what is wrong; what would be right."""
        self.errors.setdefault((path, text), place(path, table=table))

    def warn(self, path: Path, text: str, *, table: bool = False) -> None:
        self.warnings.setdefault((path, text), place(path, table=table))

    def attempt(self, path: Path, read: Callable[P, object], *of: P.args, **options: P.kwargs) -> bool:
        """Whether it can be read; if not, what the ValueError says is told at that place."""
        try:
            read(*of, **options)
        except ValueError as error:
            self.error(path, str(error))
            return False
        return True

    @staticmethod
    def lines(found: Mapping[tuple[Path, str], str], file: str, lines: Mapping[Path, int]) -> list[str]:
        """The lines for people, in the order of the file: "FILE:LINE: [section] key: text"."""
        placed: Iterable[tuple[int, str, str]] = (
            (line_of(lines, path), where, text) for (path, text), where in found.items()
        )
        return [
            f"{file}:{line}: {where}: {text}" if where else f"{file}:{line}: {text}"
            for line, where, text in sorted(placed, key=lambda one: one[0])
        ]
