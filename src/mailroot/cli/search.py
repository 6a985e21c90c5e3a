"""The options of a search for messages, shared by `queue list` and the verbs that change messages."""

import functools
import inspect
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import time as time_of_day
from typing import Annotated, Any

import typer

from mailroot.cli.client import ServerOption

_PANEL = "Which messages"
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|days?|hours?|minutes?|seconds?)(?:\s+ago)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _option(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=_PANEL)


_WHEN = "'2 h', '3 d' (ago), '14:05', '2027-01-15' or '2027-01-15 14:05'"

_OPTIONS: dict[str, Any] = {
    "sender": Annotated[str, _option("--sender", "--from", metavar="TEXT", help="Part of the sender's address.")],
    "recipient": Annotated[
        str, _option("--recipient", "--to", metavar="TEXT", help="Part of a recipient's address.")
    ],
    "subject": Annotated[str, _option("--subject", metavar="TEXT", help="Part of the subject.")],
    "message_id": Annotated[str, _option("--message-id", metavar="TEXT", help="Part of the Message-ID.")],
    "text": Annotated[str, _option("--text", metavar="TEXT", help="Part of any of these.")],
    "state": Annotated[
        list[str] | None,
        _option("--state", metavar="STATE", help="queued, held or finished; may be repeated."),
    ],
    "since": Annotated[str, _option("--since", metavar="TIME", help=f"Arrived since: {_WHEN}.")],
    "until": Annotated[str, _option("--until", metavar="TIME", help=f"Arrived until: {_WHEN}.")],
    "server": ServerOption,
}


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What the user asked for, as parameters of the API; `server` is not a condition, but a place to look."""

    conditions: dict[str, Any]
    server: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        return {**self.conditions, "server": list(self.server)} if self.server else dict(self.conditions)


def with_search(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a search to `command(service, search, …)`."""

    @functools.wraps(command)
    def searching(service: object, **options: Any) -> None:
        found = {name: options.pop(name) for name in _OPTIONS}
        server = tuple(found.pop("server") or ())
        for name in ("since", "until"):
            found[name] = read_when(found[name], time.time()) if found[name] else None
        conditions = {name: value for name, value in found.items() if value}
        command(service, SearchOptions(conditions, server), **options)

    signature = inspect.signature(command)
    service, _, *own = signature.parameters.values()
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if name in ("state", "server") else "",
            annotation=annotation,
        )
        for name, annotation in _OPTIONS.items()
    ]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    searching.__signature__ = signature.replace(parameters=[service, *keyword, *added])  # type: ignore[attr-defined]
    return searching


def read_when(text: str, now: float) -> float:
    """A point in time as people write it, on this machine's clock; seconds since the epoch. Raises BadParameter."""
    text = text.strip()
    if match := _AGO.fullmatch(text):
        return now - float(match[1]) * _SECONDS[match[2][0]]
    today = datetime.fromtimestamp(now, UTC).astimezone().date()
    try:
        if len(text) <= 8 and ":" in text:
            return datetime.combine(today, time_of_day.fromisoformat(text)).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time; right would be {_WHEN}") from None
