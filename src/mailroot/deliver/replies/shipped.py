"""The table that comes with Mailroot: the TOML files beside this module, read when first needed, once.

Whatever is wrong with a file raises ValueError here; the tests read them all, so that no running server does.
"""

import re
import tomllib
from datetime import date
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from mailroot.deliver.replies.base import LOOKED_AT, Effect, Entry, Fault, Match, Table
from mailroot.mail.reply import Reply

FILES = ("microsoft365", "google", "ses", "azure", "tokens", "general")
"""Of entries that fit a reply equally well, that of the earlier file is meant."""


def explain(reply: Reply, host: str = "") -> Entry:
    """What `reply` means, whose fault it is, and what to do; `host` said it, as an outcome has it."""
    if len(reply.text) > LOOKED_AT:
        reply = Reply(reply.code, reply.status, reply.text[:LOOKED_AT])
    return _explained(reply, host)


@lru_cache(maxsize=64)
def _explained(reply: Reply, host: str) -> Entry:
    # The same is asked for the decision, the event and the report, and for each recipient.
    return table().explain(reply, host)


def effect_of(reply: Reply, host: str, *, smart_host: bool) -> Effect:
    """What is to become of a message that got `reply` from `host`, which is one that mail is handed to by setting
    (`smart_host`), or a recipient's own."""
    return explain(reply, host).effect_of(reply, smart_host=smart_host)


@cache
def table() -> Table:
    """The table."""
    folder = files(__package__)
    return Table(
        entry for name in FILES for entry in read_entries((folder / f"{name}.toml").read_text(encoding="utf-8"))
    )


def read_entries(text: str) -> tuple[Entry, ...]:
    """The entries of one file: `service`, `general` if that is no service in particular, and a [[reply]] for each.
    Raises ValueError for what is wrong with it."""
    file = tomllib.loads(text)
    service, general = file.pop("service", ""), file.pop("general", False)
    rows = file.pop("reply", [])
    if file or not service or not isinstance(service, str):
        raise ValueError(
            f"a file has `service`, `general` and [[reply]], nothing else; here is also {sorted(file)}"
        )
    return tuple(_entry(service, general, row) for row in rows)


_CODE = re.compile(r"[45]\d\d|[45]yz")
_STATUS = re.compile(r"[45x]\.\d{1,3}\.(?:\d{1,3}|x)")
_BOUNDED = re.compile(r"(?:[^*+{}]|(?<!\))\{\d{1,2}(?:,\d{1,2})?\})*")
"""Patterns that repeat one thing a few times at most, so that no text makes them slow."""


def _entry(service: str, general: bool, row: dict[str, Any]) -> Entry:
    example = _text(row, "reply")
    try:
        entry = Entry(
            service=service,
            general=general,
            reply=example,
            match=_match(row),
            meaning=_sentence(row, "meaning"),
            fault=Fault(_text(row, "fault")),
            next=_sentence(row, "next"),
            effect=Effect(_text(row, "effect")) if "effect" in row else None,
            smart_host=bool(row.pop("smart_host", False)),
            retry_after=float(row.pop("retry_after")) if "retry_after" in row else None,
            seen=_day(row),
            source=_text(row, "source"),
        )
    except (ValueError, TypeError, re.error) as error:
        raise ValueError(f"{example!r}: {error}") from None
    if row:
        raise ValueError(f"{example!r}: {sorted(row)} is not known")
    return entry


def _match(row: dict[str, Any]) -> Match:
    texts = tuple((text,) if isinstance(text, str) else tuple(text) for text in row.pop("text", ()))
    for pieces in texts:
        for piece in pieces:
            if not piece or piece != " ".join(piece.lower().split()):
                raise ValueError(f"the text {piece!r} is not in lower case with single spaces")
    pattern = row.pop("pattern", None)
    if pattern is not None and not _BOUNDED.fullmatch(pattern):
        raise ValueError(f"the pattern {pattern!r} repeats a group, or without a bound of at most two digits")
    match = Match(
        codes=_all(_CODE, row.pop("code", ())),
        statuses=_all(_STATUS, row.pop("status", ())),
        texts=texts,
        pattern=None if pattern is None else re.compile(pattern, re.ASCII),
        hosts=tuple(row.pop("host", ())),
    )
    if match == Match(hosts=match.hosts):
        raise ValueError("it fits every reply")
    return match


def _all(form: re.Pattern[str], values: Any) -> tuple[str, ...]:
    for value in values:
        if not form.fullmatch(value):
            raise ValueError(f"{value!r} has not the form {form.pattern}")
    return tuple(values)


def _text(row: dict[str, Any], key: str) -> str:
    value = row.pop(key, "")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is missing")
    return value


def _sentence(row: dict[str, Any], key: str) -> str:
    value = _text(row, key)
    if not value.endswith(".") or not value.isprintable():
        raise ValueError(f"{key} is not a sentence on one line")
    return value


def _day(row: dict[str, Any]) -> date:
    value = row.pop("seen", None)
    if not isinstance(value, date):
        raise ValueError("seen is not a date, as in 2026-11-24")  # noqa: TRY004 - it is a fault of the text
    return value
