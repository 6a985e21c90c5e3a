"""Writes the tables of docs/configuration.md anew from the settings classes; what stands around them stays.

Run it when a setting was added or changed: `.venv/bin/python scripts/configuration_page.py`. A test says so, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mailroot.config.bind import example_of
from mailroot.config.model import ServiceSettings, VirtualServerSettings
from mailroot.config.sample import meaning, written
from mailroot.config.shape import REQUIRED, Setting, settings_of
from mailroot.config.tree import place

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
MARK = "## Every setting\n"


def tables() -> str:
    """A table for each section, in the order of the sample."""
    lines = [
        "Made from the settings classes by `scripts/configuration_page.py`; a default in brackets is an example of",
        "what could stand there, the setting itself being empty or not set.",
        "",
        *_section(ServiceSettings, ServiceSettings(), ("service",), ""),
    ]
    default = VirtualServerSettings("default")
    for setting in settings_of(VirtualServerSettings):
        if setting.is_section:
            lines += _section(setting.kind, getattr(default, setting.name), (setting.name,), setting.doc.text)
    return "\n".join(lines).rstrip() + "\n"


def with_tables(page: str) -> str:
    """The page with its tables as they should be."""
    return page.partition(MARK)[0] + MARK + "\n" + tables()


def _section(kind: type[Any], default: Any, path: tuple[str | int, ...], words: str) -> Iterator[str]:
    settings = settings_of(kind)
    plain = [setting for setting in settings if not setting.is_section]
    if plain:
        yield from (f"### `{place(path, table=True)}`", "", words or (kind.__doc__ or ""), "")
        yield from ("| Setting | Default | Meaning |", "|---|---|---|")
        for setting in plain:
            value = getattr(default, setting.name) if default is not None else setting.default
            yield f"| `{setting.name}` | {_default(setting, value)} | {meaning(setting)} |"
        yield ""
    for setting in settings:
        if setting.is_section:
            below = (*path, setting.name, 0) if setting.many else (*path, setting.name)
            start = getattr(default, setting.name) if default is not None else setting.default
            is_example = setting.many or start is None or start is REQUIRED
            yield from _section(setting.kind, None if is_example else start, below, setting.doc.text)


def _default(setting: Setting, value: Any) -> str:
    if value is REQUIRED:
        return f"must be set (`{example_of(setting)}`)"
    if value is None or value in ("", ()):
        return f"(`{example_of(setting)}`)"
    return f"`{written(setting, value)}`"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), encoding="utf-8", newline="\n")
