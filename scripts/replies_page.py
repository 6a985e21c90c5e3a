"""Write the tables of docs/replies.md from the table of replies in mailroot/deliver/replies.

    python scripts/replies_page.py

The rest of the page, above the marker, is written by hand.
"""

import re
from itertools import groupby
from pathlib import Path
from typing import assert_never

from mailroot.deliver.replies.base import Effect, Entry
from mailroot.deliver.replies.shipped import table

PAGE = Path(__file__).parent.parent / "docs" / "replies.md"
MARK = "<!-- From here on written by scripts/replies_page.py. -->\n"

_NAMES = re.compile(r"\[(?:Hostname=)?[A-Z0-9]{6,}[^\]]*\]|\(AS\d+\)| 5b1f17b1804b1-47a gsmtp| gsmtp$")
_LONGEST = 140


def shown(reply: str) -> str:
    """The example without the names of hosts, and not too long; as code, in a cell of a table."""
    text = " ".join(_NAMES.sub("", reply).split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rpartition(" ")[0] + " …"
    fence = "``" if "`" in text else "`"
    return f"{fence}{cell(text)}{fence}"


def done(entry: Entry) -> str:
    """What Mailroot does with the message."""
    match entry.effect:
        case None:
            words = "as the code says"
        case Effect.FAIL:
            words = "fails"
        case Effect.RETRY:
            words = "is tried again"
        case Effect.THROTTLE | Effect.PAUSE_ROUTE | Effect.RENEW_TOKEN:
            words = "waits"
        case _:
            assert_never(entry.effect)
    return f"{words} (smart host)" if entry.smart_host else words


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_replies(text: str) -> str:
    """The page with the tables below the marker as the table is now."""
    above, mark, _ = text.partition(MARK)
    assert mark, f"{PAGE} has no line {MARK!r}"
    lines: list[str] = []
    for service, below in groupby(table().entries, lambda entry: entry.service):
        entries = list(below)
        lines += ["", f"## {service}", "", "| reply | meaning | fault | what to do | the message |"]
        lines += ["|---|---|---|---|---|"]
        for entry in entries:
            cells = [shown(entry.reply), cell(entry.meaning), entry.fault, cell(entry.next), done(entry)]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"Last looked through: {max(entry.seen for entry in entries)}. More about them:", ""]
        lines += [f"- {source}" for source in dict.fromkeys(entry.source for entry in entries)]
    return above + mark + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(with_replies(PAGE.read_text("utf-8")), "utf-8")
