"""Write the list of events in docs/events.md from mailroot/events.py: each with its level, docstring and fields.

    python scripts/events_page.py

The rest of the page, above the marker, is written by hand.
"""

import inspect
import re
from dataclasses import fields
from pathlib import Path

from mailroot import events
from mailroot.events import Event

PAGE = Path(__file__).parent.parent / "docs" / "events.md"
MARK = "<!-- From here on written by scripts/events_page.py. -->\n"


def kinds() -> dict[str, list[type[Event]]]:
    """The kinds of events below their headings, in the order of the source."""
    found: dict[str, list[type[Event]]] = {}
    heading = ""
    for line in inspect.getsource(events).splitlines():
        if title := re.match(r"# (.+)", line):
            heading = title[1]
        elif name := re.match(r"class (\w+)\(Event\):", line):
            found.setdefault(heading, []).append(getattr(events, name[1]))
    return found


def own_fields(kind: type[Event]) -> list[str]:
    """The names of its fields, without `server`, which each has."""
    return [field.name for field in fields(kind) if field.name != "server"]


def with_events(text: str) -> str:
    """The page with the list below the marker as the classes are now."""
    above, mark, _ = text.partition(MARK)
    assert mark, f"{PAGE} has no line {MARK!r}"
    lines: list[str] = []
    for heading, below in kinds().items():
        lines += ["", f"## {heading}", "", "| event | level | what happened | fields |", "|---|---|---|---|"]
        for kind in below:
            said = " ".join(inspect.cleandoc(kind.__doc__ or "").split()).replace("|", "\\|")
            named = ", ".join(f"`{name}`" for name in own_fields(kind))
            lines.append(f"| `{kind.__name__}` | {kind.level} | {said} | {named} |")
    return above + mark + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(with_events(PAGE.read_text("utf-8")), "utf-8")
