"""Writes configuration files: the commented sample, made from the settings classes, and what is in effect.

In the sample, `# ` begins words and `#` without a space something that can be uncommented.
"""

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from textwrap import wrap
from typing import Any

from mailroot.config.bind import example_of
from mailroot.config.model import Configuration, ServiceSettings, VirtualServerSettings
from mailroot.config.quantities import format_duration, format_size
from mailroot.config.shape import REQUIRED, Setting, settings_of
from mailroot.config.tree import place

_WIDTH = 100
_HEAD = """\
Mailroot's configuration. This sample shows every setting with its default. A line that begins with a number sign
and no space after it is an example that can be uncommented.

Check a file with `mailroot config check FILE`, run it with `mailroot run --config FILE`.

Durations are written "30 s", "15 min", "12 h" or "2 days", sizes "64 KiB" or "2 MiB". Relative paths start at the
folder of this file. On Windows, write paths in single quotes: 'C:\\Mail\\mailroot'.
"""
_SERVERS = """\
Several virtual servers. What stands above holds for all of them; a section below the name of one overrides single
keys for that one. Without any such section there is one virtual server, named "default".
"""
_SERVER_EXAMPLES = (
    ("internal", ('listen = ["127.0.0.1:2525"]', 'mailroot = "mailroot/internal"')),
    ("partners", ('listen = ["127.0.0.1:2526"]', "listeners = []", 'mailroot = "mailroot/partners"')),
)


def sample() -> str:
    """A configuration file with every setting: its meaning, and its default or an example."""
    lines = [*_words(_HEAD), "", *_section(ServiceSettings, ServiceSettings(), ("service",))]
    default = VirtualServerSettings("default")
    for setting in settings_of(VirtualServerSettings):
        if setting.is_section:
            lines += _section(setting.kind, getattr(default, setting.name), (setting.name,))
    lines += _words(_SERVERS)
    for name, examples in _SERVER_EXAMPLES:
        lines += [f"#[virtual_server.{name}.general]", *(f"#{example}" for example in examples), ""]
    return "\n".join(lines).rstrip() + "\n"


def effective(configuration: Configuration) -> str:
    """The configuration as it is in effect, defaults and all, without secrets: for people, not to be read back."""
    lines = list(_effective(configuration.service, ("service",)))
    for server in configuration.virtual_servers:
        lines += _effective(server, ("virtual_server", server.name))
    return "\n".join(lines).lstrip() + "\n"


def _words(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += ["#"] if lines else []
        lines += [f"# {line}" for line in wrap(" ".join(paragraph.split()), _WIDTH, break_on_hyphens=False)]
    return lines


def _section(
    kind: type[Any], default: Any, path: tuple[str | int, ...], words: str = "", mark: str = ""
) -> Iterator[str]:
    """A section and those below it. `words` say what it is, `mark` is "#" where all of it is an example."""
    settings = settings_of(kind)
    plain = [setting for setting in settings if not setting.is_section]
    if plain:
        yield from _words(words or kind.__doc__ or "")
        yield mark + place(path, table=True)
        for setting in plain:
            yield from _words(meaning(setting))
            yield from _lines(setting, getattr(default, setting.name) if default else setting.default, mark)
        yield ""
    for setting in settings:
        if setting.is_section:
            below = (*path, setting.name, 0) if setting.many else (*path, setting.name)
            start = getattr(default, setting.name) if default else setting.default
            is_example = setting.many or start is None or start is REQUIRED
            inner_mark = "#" if is_example else mark
            yield from _section(setting.kind, None if is_example else start, below, setting.doc.text, inner_mark)


def _lines(setting: Setting, value: Any, mark: str) -> Iterator[str]:
    if setting.doc.alternative:
        yield f"# or: {setting.name} = {example_of(setting)}"
    elif value is REQUIRED or value is None or value in ("", ()):
        yield f"#{setting.name} = {example_of(setting)}"
    else:
        yield f"{mark}{setting.name} = {written(setting, value)}"


def meaning(setting: Setting) -> str:
    """What the documentation says, and the bounds of a number, where there are any worth saying."""
    least, most = setting.least, setting.most
    if least in (None, 0) and most is None:
        return setting.doc.text
    words = [f"at least {_quantity(setting, least)}"] if least else []
    words += [f"at most {_quantity(setting, most)}"] if most is not None else []
    return f"{setting.doc.text.rstrip('.')} ({', '.join(words)})."


def _quantity(setting: Setting, number: float) -> str:
    match setting.unit:
        case "duration":
            return format_duration(number)
        case "size":
            return format_size(int(number))
        case _:
            return str(int(number))


def written(setting: Setting, value: Any) -> str:
    """A value as it is written in TOML; a secret is not."""
    match value:
        case _ if setting.secret:
            return '"(hidden)"' if value else '""'
        case tuple():
            return f"[{', '.join(written(setting, one) for one in value)}]"
        case bool():
            return str(value).lower()
        case StrEnum() | str():
            return _text(str(value))
        case Path():
            return _text(value.as_posix() if not value.is_absolute() else str(value))
        case 0:
            return "0"
        case _ if setting.unit:
            return f'"{_quantity(setting, value)}"'
        case _:
            return str(value)


def _text(text: str) -> str:
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _effective(value: Any, path: tuple[str | int, ...]) -> Iterator[str]:
    """The settings of one table, then those of the tables below it."""
    # The name of a virtual server is in the names of its tables.
    settings = settings_of(type(value))[1 if isinstance(value, VirtualServerSettings) else 0 :]
    plain = [setting for setting in settings if not setting.is_section]
    if plain:
        yield ""
        yield place(path, table=True)
    for setting in plain:
        inner = getattr(value, setting.name)
        yield f"{setting.name} = {written(setting, inner)}" if inner is not None else f"# {setting.name} is not set"
    for setting in settings:
        if setting.is_section:
            inner = getattr(value, setting.name)
            if setting.many:
                for number, one in enumerate(inner):
                    yield from _effective(one, (*path, setting.name, number))
            elif inner is not None:
                yield from _effective(inner, (*path, setting.name))
