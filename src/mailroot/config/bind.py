"""From the tables of a file to settings classes: types, units, bounds, secrets, and unknown keys.

Everything that is wrong is found in one pass; a setting that cannot be read is told, and stands at its default for
the rest of the pass. What settings mean together is `check`'s business. A secret is never part of a text here.
"""

import os
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from mailroot.config.quantities import format_duration, format_size, read_duration, read_size
from mailroot.config.shape import REQUIRED, Setting, settings_of
from mailroot.config.tree import Findings, Node, place
from mailroot.system import is_readable_by_others

T = TypeVar("T")

_LONGEST_SECRET = 64 * 1024
_BAD: Any = object()
_OTHER_WORDS = {
    "plain": "basic",
    "login": "basic",
    "scram-sha-256": "scram",
    "ntlm": "integrated",
    "gssapi": "integrated",
    "kerberos": "integrated",
    "negotiate": "integrated",
    "xoauth2": "oauth",
    "oauthbearer": "oauth",
    "external": "certificate",
    "ssl": "implicit",
    "smtps": "implicit",
    "none": "off",
    "optional": "starttls",
}
"""What the choices are called by protocols and other products."""
_OTHER_KEYS = {"clients": "networks", "users": "accounts", "user": "accounts", "certificate": "certificates"}
"""And what keys are."""
"""In place of a value that could not be read; it has been told."""

# RFC 4616 §2: it separates the parts of a login.
_NUL = "a secret cannot contain the character NUL"

_LARGEST_NUMBER = 2**31 - 1
"""Of what is counted; no setting means anything beyond."""

_DRIVE = re.compile(r"[A-Za-z]:")


class Binder:
    """Reads settings for one file. `folder` is where its relative paths start."""

    def __init__(self, folder: Path, environment: Mapping[str, str], findings: Findings, elsewhere: "KeyIndex"):
        self._folder = folder
        self._environment = environment
        self._findings = findings
        self._elsewhere = elsewhere

    def section(self, kind: type[T], node: Node | None, default: T | None = None) -> T | None:
        """An instance of the settings class from a table; what the table does not say is as in `default`, or as
        the class has it. None if it cannot be made; that has been told."""
        tables: Mapping[str, Node] = {}
        if node is not None:
            if not isinstance(node.value, dict):
                names = ", ".join(setting.name for setting in settings_of(kind))
                self._findings.error(node.path, f"must be a table with keys in it; right would be some of {names}")
                return default
            tables = node.value
            known = [setting.name for setting in settings_of(kind)]
            self.refuse_unknown(tables, known)
        values: dict[str, Any] = {}
        for setting in settings_of(kind):
            start = getattr(default, setting.name) if default is not None else setting.default
            inner = tables.get(setting.name)
            if setting.is_section and not setting.many and (inner is not None or start is not None):
                values[setting.name] = self.section(setting.kind, inner, None if start is REQUIRED else start)
                continue
            value = self._value(setting, inner) if inner is not None else _located(start, self._folder)
            if value is _BAD:
                value = _located(start, self._folder)
            if value is REQUIRED:
                if inner is None and node is not None:
                    self._findings.error(
                        (*node.path, setting.name), f"is missing; right would be {example_of(setting)}"
                    )
                return None
            values[setting.name] = value
        return kind(**values)

    def refuse_unknown(self, tables: Mapping[str, Node], known: Iterable[str]) -> None:
        """Tell of the keys that nobody knows, with the name that was perhaps meant."""
        names = list(known)
        for key, node in tables.items():
            if key not in names:
                table = isinstance(node.value, dict)
                self._findings.error(
                    node.path, f"is not known; {self._elsewhere.advice(key, node, names)}", table=table
                )

    # Values

    def _value(self, setting: Setting, node: Node) -> Any:
        if setting.secret:
            return self._secret(node)
        if setting.many:
            return self._list(setting, node)
        return self._one(setting, node)

    def _list(self, setting: Setting, node: Node) -> Any:
        if not isinstance(node.value, list):
            if setting.is_section:
                where = place((*node.path, 0), table=True)
                return self._bad(node, f"must be a list of tables; right would be {where} above its keys")
            right = f"[{shown(node.value)}]" if isinstance(node.value, str) else "its elements in [ ]"
            return self._bad(node, f"must be a list; right would be {right}")
        found = []
        for inner in node.value:
            value = self.section(setting.kind, inner) if setting.is_section else self._one(setting, inner)
            found.append(value)
        return _BAD if any(value is _BAD or value is None for value in found) else tuple(found)

    def _one(self, setting: Setting, node: Node) -> Any:
        value = node.value
        if setting.unit:
            return self._quantity(setting, node)
        if setting.kind is bool:
            return (
                value if isinstance(value, bool) else self._bad(node, f"must be true or false, not {shown(value)}")
            )
        if setting.kind is int:
            if isinstance(value, bool) or not isinstance(value, int):
                return self._bad(node, f"must be a whole number, not {shown(value)}")
            return self._bounded(setting, node, value, str)
        if issubclass(setting.kind, StrEnum):
            return self._choice(setting.kind, node)
        if not isinstance(value, str):
            return self._bad(node, f"must be text in quotes, not {shown(value)}")
        if setting.kind is Path:
            return self._path(node)
        if not value.isprintable():
            return self._bad(node, f"{shown(value)} contains control characters")
        return value

    def _bad(self, node: Node, text: str) -> Any:
        self._findings.error(node.path, text)
        return _BAD

    def _choice(self, kind: type[StrEnum], node: Node) -> Any:
        by_name = {choice.value: choice for choice in kind}
        choices = ", ".join(map(shown, by_name))
        if not isinstance(node.value, str):
            number = shown(node.value) if isinstance(node.value, int | float) else ""
            right = f"{shown(number)}, in quotes" if number in by_name else f"one of {choices}"
            return self._bad(node, f"must be text, not {shown(node.value)}; right would be {right}")
        if node.value in by_name:
            return by_name[node.value]
        other = _OTHER_WORDS.get(node.value.lower())
        likely = other if other in by_name else nearest(node.value, by_name)
        right = f"right would be {shown(likely)} (of {choices})" if likely else f"right would be one of {choices}"
        return self._bad(node, f"{shown(node.value)} is none of the choices; {right}")

    def _path(self, node: Node) -> Any:
        text: str = node.value
        if not text:
            return self._bad(node, "is empty; right would be the name of a file or folder")
        if not text.isprintable():
            return self._bad(
                node,
                f"{shown(text)} contains control characters; in double quotes a backslash begins an escape: right "
                r"would be single quotes, as in 'C:\Mail\mailroot'",
            )
        if os.name != "nt" and _DRIVE.match(text):
            return self._bad(node, f"{shown(text)} is a path of Windows, and this is not Windows")
        try:
            path = Path(text).expanduser()
        except RuntimeError:
            return self._bad(node, f"{shown(text)} begins with the home folder of an account that is not known")
        # Not `absolute()`, which would leave "..": two names of one folder must be equal.
        return Path(os.path.normpath(self._folder / path))

    def _quantity(self, setting: Setting, node: Node) -> Any:
        value, duration = node.value, setting.unit == "duration"
        example = '"15 min"' if duration else '"2 MiB"'
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return self._bad(node, f"must be a {setting.unit}, not {shown(value)}; right would be {example}")
        if isinstance(value, int | float):
            if value != 0:
                right = example
                if 0 < value <= _LARGEST_NUMBER:
                    units = ("s", "min", "h") if duration else ("B", "KiB", "MiB")
                    right = ", ".join(f'"{value} {unit}"' for unit in units[:-1]) + f' or "{value} {units[-1]}"'
                return self._bad(node, f"{shown(value)} has no unit; right would be {right}")
            return self._bounded(setting, node, value, format_duration if duration else format_size)
        try:
            read: float | int = read_duration(value) if duration else read_size(value)
        except ValueError as error:
            return self._bad(node, f"{shown(value)} is {error}")
        return self._bounded(setting, node, read, format_duration if duration else format_size)

    def _bounded(self, setting: Setting, node: Node, value: Any, written: Any) -> Any:
        least, most = setting.least, setting.most
        if most is None and not setting.unit and value > _LARGEST_NUMBER:
            most = _LARGEST_NUMBER
        if (least is None or value >= least) and (most is None or value <= most):
            return float(value) if setting.kind is float else value
        bounds = [f"at least {written(type(value)(least))}"] if least is not None else []
        bounds += [f"at most {written(type(value)(most))}"] if most is not None else []
        fault = "too small" if least is not None and value < least else "too large"
        return self._bad(node, f"{shown(node.value)} is {fault}; right would be {' and '.join(bounds)}")

    # Secrets

    def _secret(self, node: Node) -> Any:
        match node.value:
            case str(text):
                if "\0" in text:
                    return self._bad(node, _NUL)
                self._findings.warn(
                    node.path,
                    "a secret stands in the configuration itself, for everybody to read who reads the file; better "
                    'would be { file = "NAME" } or { env = "NAME" }',
                )
                return text
            case {"file": Node(str(name)) as inner} if len(node.value) == 1:
                return self._secret_file(inner, name)
            case {"env": Node(str(name)) as inner} if len(node.value) == 1:
                text = self._environment.get(name, "")
                if not text:
                    return self._bad(inner, f"the environment has no variable {name!r}, or an empty one")
                return text
            case _:
                return self._bad(node, 'is not a secret; right would be { file = "NAME" } or { env = "NAME" }')

    def _secret_file(self, node: Node, name: str) -> Any:
        path = self._path(node)
        if path is _BAD:
            return _BAD
        try:
            with path.open("rb") as file:
                octets = file.read(_LONGEST_SECRET + 1)
            open_to_others = is_readable_by_others(path)
        except OSError as error:
            return self._bad(node, f"{path} cannot be read: {(error.strerror or str(error)).lower()}")
        try:
            text = octets.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            return self._bad(node, f"{path} is not UTF-8 text")
        if not text or len(octets) > _LONGEST_SECRET or "\n" in text:
            return self._bad(node, f"{path} must hold the secret in one line, and nothing else")
        if "\0" in text:
            return self._bad(node, f"{path}: {_NUL}")
        if open_to_others:
            self._findings.warn(
                node.path,
                f"{path} can be read by everybody on this computer; right would be: by this account alone",
            )
        return text


class KeyIndex:
    """All keys there are, so that a key in the wrong place can be told its right one."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, kind: type[Any], path: tuple[str, ...] = ()) -> None:
        """A settings class whose table has this path."""
        for setting in settings_of(kind):
            inner = (*path, setting.name)
            if setting.is_section:
                self._places.setdefault(setting.name, []).append(place(inner, table=True))
                if not setting.many:
                    self.add(setting.kind, inner)
            elif path:
                self._places.setdefault(setting.name, []).append(place(inner))

    def advice(self, key: str, node: Node, known: list[str]) -> str:
        """What would be right instead of an unknown key."""
        other = _OTHER_KEYS.get(key)
        likely = other if other in known else nearest(key, known)
        if likely:
            return f"right would be {likely}, perhaps"
        places = self._places.get(key) or self._places.get(nearest(key, self._places, 0.9) or "")
        if places:
            return f"right would be {' or '.join(places)}, perhaps"
        return f"known here are {', '.join(known)}"


def nearest(name: str, known: Iterable[str], likeness: float = 0.7) -> str | None:
    """The known name that was perhaps meant; `likeness` from 0 to 1, see difflib."""
    from difflib import get_close_matches

    plain = {_plain(one): one for one in known}
    found = get_close_matches(_plain(name), plain, 1, likeness)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def shown(value: object) -> str:
    """A value of the file as people wrote it, cut to a reasonable length; never for a secret."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            text = "".join(c if c.isprintable() else "\\" + f"u{ord(c):04x}" for c in value)
            return f'"{text[:60]}…"' if len(text) > 60 else f'"{text}"'
        case int() if abs(value) >= 10**20:
            return "a number of more than 20 digits"
        case int() | float():
            return str(value)
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return "a date or time"


def example_of(setting: Setting) -> str:
    """What could stand for a setting, as TOML."""
    example = setting.doc.example
    if example is None:
        return "its value" if not setting.is_section else "a table"
    as_it_is = setting.many or setting.secret or (setting.kind is int and not setting.unit)
    return example if as_it_is else f'"{example}"'


def _located(value: Any, folder: Path) -> Any:
    """A default as it is in effect: a relative path starts at the file's folder."""
    if isinstance(value, Path):
        return Path(os.path.normpath(folder / value))
    return value
