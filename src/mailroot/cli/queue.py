"""`mailroot queue`: what waits, why, and what to do about it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from mailroot.cli.client import ServerOption, Service, on_service, segment
from mailroot.cli.search import SearchOptions, with_search
from mailroot.cli.tables import (
    Column,
    Failure,
    ago,
    ahead,
    complain,
    exact_time,
    json_text,
    local_time,
    many,
    octets,
    plain,
    put,
    say,
    say_json,
    show_facts,
    show_table,
    span,
    writing,
)

app = typer.Typer(
    help="List and search the queue, show, export, retry, hold, release and delete messages.", no_args_is_help=True
)

_PAGE = 200
_BATCH = 200
_PAST = {"retry": "due now", "hold": "held", "release": "released", "delete": "deleted"}

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Messages by id, as `mailroot queue list` shows them.")
]
AllOption = Annotated[
    bool, typer.Option("--all", help="All messages that this can be done to.", rich_help_panel="Which messages")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask when many messages are meant.")]


@app.command("list")
@on_service
@with_search
def list_messages(
    service: Service,
    search: SearchOptions,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many at most; 0: all.")] = 50,
    finished: Annotated[bool, typer.Option("--finished", help="Finished messages too.")] = False,
) -> None:
    """Show messages, newest first: those that are not finished, unless --finished or --state say otherwise."""
    parameters = search.parameters
    if "state" not in parameters and not finished:
        parameters["state"] = ["queued", "held"]
    pages = _pages(service, parameters, limit)
    if service.json:
        _show_json(pages)
        return
    count, more = 0, ""
    for messages, before in pages:
        if messages:
            show_table(_COLUMNS, [_row(message, time.time()) for message in messages])
        count, more = count + len(messages), before
    if not count:
        say("no messages" if search.conditions or search.server else "the queue is empty")
    elif more:
        complain(f"there are more than these {count}; --limit 0 shows all, or search: `mailroot queue list --help`")


_COLUMNS = [
    Column("ID"),
    Column("ARRIVED", rank=2, right=True),
    Column("FROM", rank=2, least=12),
    Column("TO", least=14),
    Column("SIZE", rank=4, right=True),
    Column("DOING", least=9),
    Column("NEXT TRY", rank=1, right=True),
    Column("SUBJECT", rank=3, least=12),
    Column("WHY", rank=5, least=24),
    Column("SERVER", rank=6),
]


def _row(message: dict[str, Any], now: float) -> list[str]:
    others = message["recipients_total"] - 1
    return [
        message["id"],
        ago(message["arrived"], now),
        message["sender"] or "<>",
        message["recipients"][0] + (f" +{others}" if others else ""),
        octets(message["size"]),
        message["doing"],
        ahead(message["due"], now) if message["due"] is not None and message["attempts"] else "",
        message["subject"],
        message["why"],
        message["server"],
    ]


def _pages(service: Service, parameters: dict[str, Any], limit: int) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Page by page: its messages, and where it would go on after it ("" at the end)."""
    before, left = "", limit
    while True:
        size = min(_PAGE, left) if limit else _PAGE
        page = service.get("/v1/messages", {**parameters, "limit": size, "before": before})
        before, left = page["next"] or "", left - len(page["messages"])
        yield page["messages"], before
        if not before or (limit and left <= 0):
            return


def _show_json(pages: Iterator[tuple[list[dict[str, Any]], str]]) -> None:
    """One JSON object, written as the pages come, so that memory stays constant."""
    next_page, separator = "", "\n"
    put('{"messages": [')
    for messages, before in pages:
        for message in messages:
            put(separator + json_text(message))
            separator = ",\n"
        next_page = before
    say(f'], "next": {json_text(next_page or None)}}}')


@app.command()
@on_service
def show(service: Service, id: Annotated[str, typer.Argument(metavar="ID", help="The message.")]) -> None:
    """Show one message: what is happening to it, why, when it is tried next, and all that happened so far."""
    message = service.get(f"/v1/messages/{segment(id)}")
    if service.json:
        say_json(message)
        return
    now = time.time()
    summary = message["summary"]
    show_facts(
        [
            ("Message", summary["id"]),
            ("Now", doing_in_words(summary, now)),
            (
                "Because",
                summary["why"] if summary["state"] != "finished" or summary["doing"] != "delivered" else "",
            ),
            ("Means", message["meaning"]),
            ("At fault", message["fault_in_words"]),
            ("To do", to_do_in_words(message)),
            ("From", summary["sender"] or "<> (a delivery report)"),
            ("Subject", summary["subject"]),
            ("Size", octets(summary["size"])),
            ("Arrived", f"{exact_time(summary['arrived'])} ({ago(summary['arrived'], now)}) {_whence(message)}"),
            ("Message-ID", message["message_id"]),
            ("Envelope id", message["envid"]),
            ("Attempts", str(summary["attempts"])),
            ("Delay", "the sender was told of it" if message["delay_reported"] else ""),
            ("Server", summary["server"]),
        ]
    )
    say()
    columns = [
        Column("RECIPIENT", least=14, wraps=True),
        Column("IS"),
        Column("HOST", rank=2, least=24, wraps=True),
        Column("LAST REPLY", rank=1, least=20, wraps=True),
    ]
    rows = [[r["address"], r["fate"], r["host"], r["reply"]] for r in message["recipients"]]
    if len(rows) > 1 and any(r["meaning"] for r in message["recipients"]):
        # Of one recipient, it stands above.
        columns.append(Column("MEANS", rank=3, least=24, wraps=True))
        rows = [[*row, r["meaning"]] for row, r in zip(rows, message["recipients"], strict=True)]
    show_table(columns, rows)
    if message["story"]:
        say()
        show_table(
            [
                Column("TIME"),
                Column("OUTCOME"),
                Column("RECIPIENTS", rank=2, least=17, wraps=True),
                Column("HOST", rank=1, least=24, wraps=True),
                Column("REPLY", least=18, wraps=True),
            ],
            [_story_row(line, len(message["recipients"])) for line in message["story"]],
        )


def _story_row(line: dict[str, Any], recipients: int) -> list[str]:
    named = line["recipients"]
    who = "all" if len(named) == recipients > 1 else ", ".join(named[:2]) + (" …" if len(named) > 2 else "")
    return [local_time(line["at"], time.time()), line["outcome"], who, line["host"], line["reply"]]


def _whence(message: dict[str, Any]) -> str:
    match message["door"]:
        case "smtp":
            user = f", logged in as {message['user']}" if message["user"] else ""
            helo = f" ({message['helo']})" if message["helo"] else ""
            return f"by SMTP from {message['client']}{helo}{user}"
        case "pickup":
            return "from the Pickup folder"
        case _:
            return "as a report of Mailroot's own"


def doing_in_words(summary: dict[str, Any], now: float) -> str:
    """What is happening to a message, as a sentence with times."""
    doing = str(summary["doing"])
    waiting = ""
    if 0 < summary["pending"] < summary["recipients_total"]:
        waiting = f" ({summary['pending']} of {many(summary['recipients_total'], 'recipient')} left)"
    match summary["state"]:
        case "held":
            return "held; it waits until it is released"
        case "finished":
            return f"{doing}, {ago(summary['finished'], now)}" if summary["finished"] is not None else doing
        case _ if summary["due"] is not None and summary["due"] > now:
            when = local_time(summary["due"], now)
            return f"{doing}{waiting}; next try {ahead(summary['due'], now)}, at {when}"
        case _:
            return doing + waiting


def to_do_in_words(message: dict[str, Any]) -> str:
    """What can be done about a message that is not delivered; "" where nothing has to be done."""
    summary = message["summary"]
    match summary["doing"]:
        case "held":
            return f"`mailroot queue release {summary['id']}` lets it go on"
        case "deleted":
            return ""
        case "deferred":
            return f"{message['advice']} `mailroot queue retry {summary['id']}` tries at once"
        case _:
            return str(message["advice"])


@app.command()
@on_service
def count(service: Service, server: ServerOption = None) -> None:
    """Show how many messages the queues hold."""
    queues = service.get("/v1/counts", {"server": server or ()})["queues"]
    if service.json:
        say_json({"queues": queues})
        return
    now = time.time()
    show_table(
        [
            Column("SERVER"),
            Column("WAITING", right=True),
            Column("BEING DELIVERED", right=True),
            Column("HELD", right=True),
            Column("FINISHED", right=True),
            Column("OLDEST", right=True),
        ],
        [
            [
                queue["server"],
                *(str(queue["counts"][name]) for name in ("queued", "leased", "held", "finished")),
                span(now - queue["counts"]["oldest"]) if queue["counts"]["oldest"] is not None else "-",
            ]
            for queue in queues
        ],
    )


@app.command()
@on_service
def export(
    service: Service,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The messages.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="PATH", help="A file, a folder, or - for standard output."),
    ] = ".",
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist.")] = False,
) -> None:
    """Write messages to files, as they would be sent: ID.eml in this folder, or where --output says."""
    if output != "-" and len(ids) > 1 and not Path(output).is_dir():
        raise typer.BadParameter("with several messages, --output is a folder")
    for name in ids:
        with service.octets(f"/v1/messages/{segment(name)}/content") as (size, chunks):
            if output == "-":
                with writing():
                    _copy(chunks, size, sys.stdout.buffer, name)
                continue
            file = Path(output)
            if file.is_dir():
                file /= f"{name.strip().upper()}.eml"
            _write_file(file, force, chunks, size)
        complain(f"{name}: {octets(size)} written to {file}")
    if service.json and output != "-":
        say_json({"exported": ids})


def _write_file(file: Path, force: bool, chunks: Iterator[bytes], size: int) -> None:
    """Whole or not at all: what broke off is removed."""
    try:
        with file.open("wb" if force else "xb") as target:
            try:
                _copy(chunks, size, target, file.name)
            except BaseException:
                target.close()
                with suppress(OSError):
                    file.unlink()
                raise
    except FileExistsError:
        raise Failure(f"{file} exists; --force writes over it") from None
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror or error}") from None


def _copy(chunks: Iterator[bytes], size: int, target: BinaryIO, title: str) -> None:
    with _progress(title, size, "octets") as advance:
        for chunk in chunks:
            target.write(chunk)
            advance(len(chunk))
    target.flush()


@contextmanager
def _progress(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn() if unit == "octets" else MofNCompleteColumn()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        amount,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(plain(title), total=total)
        yield lambda step: progress.advance(task, step)


@app.command()
@on_service
@with_search
def retry(
    service: Service,
    search: SearchOptions,
    ids: IdsArgument = None,
    every: AllOption = False,
    yes: YesOption = False,
) -> None:
    """Try messages again now, without waiting for their next time."""
    _change(service, "retry", search, ids, every, yes)


@app.command()
@on_service
@with_search
def hold(
    service: Service,
    search: SearchOptions,
    ids: IdsArgument = None,
    every: AllOption = False,
    yes: YesOption = False,
) -> None:
    """Keep messages from being delivered until they are released."""
    _change(service, "hold", search, ids, every, yes)


@app.command()
@on_service
@with_search
def release(
    service: Service,
    search: SearchOptions,
    ids: IdsArgument = None,
    every: AllOption = False,
    yes: YesOption = False,
) -> None:
    """Let held messages go on."""
    _change(service, "release", search, ids, every, yes)


@app.command()
@on_service
@with_search
def delete(
    service: Service,
    search: SearchOptions,
    ids: IdsArgument = None,
    every: AllOption = False,
    yes: YesOption = False,
) -> None:
    """Remove messages that are not finished. Nobody is told; the record of each stays."""
    _change(service, "delete", search, ids, every, yes)


def _change(
    service: Service, action: str, search: SearchOptions, ids: list[str] | None, every: bool, yes: bool
) -> None:
    ways = sum((bool(ids), bool(search.conditions), every))
    if ways != 1:
        raise typer.BadParameter("say which messages: their ids, or a search, or --all")
    if ids:
        changed, skipped = _change_named(service, action, ids, search)
    else:
        meant = service.get(f"/v1/queue/{action}", search.parameters)
        if meant["count"] > 1 and not yes:
            _confirm(action, meant)
        changed, skipped = _change_found(service, action, search, None if meant["more"] else meant["count"])
    if service.json:
        say_json({"changed": changed, "skipped": skipped})
    else:
        say(f"{many(len(changed), 'message')} {_PAST[action]}")
        for one in skipped:
            complain(f"{one['id']}: {one['why']}")
    if ids and skipped:
        raise typer.Exit(1)


def _confirm(action: str, meant: dict[str, Any]) -> None:
    number = f"more than {meant['count']}" if meant["more"] else str(meant["count"])
    if not sys.stdin.isatty():
        raise Failure(f"this would {action} {number} messages; --yes says that this is meant")
    if not typer.confirm(f"This will {action} {number} messages. Go on?", err=True):
        raise Failure("nothing was done")


def _change_named(
    service: Service, action: str, ids: list[str], search: SearchOptions
) -> tuple[list[str], list[dict[str, str]]]:
    changed: list[str] = []
    skipped: list[dict[str, str]] = []
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        done = service.post(
            f"/v1/queue/{action}", body={"id": batch, "server": list(search.server), "limit": _BATCH}
        )
        changed += done["changed"]
        skipped += done["skipped"]
    return changed, skipped


def _change_found(
    service: Service, action: str, search: SearchOptions, total: int | None
) -> tuple[list[str], list[dict[str, str]]]:
    changed: list[str] = []
    skipped: list[dict[str, str]] = []
    body = {**search.parameters, "limit": _BATCH, "all": not search.conditions}
    with _progress(action, total, "messages") as advance:
        while True:
            done = service.post(f"/v1/queue/{action}", body=body)
            changed += done["changed"]
            skipped += done["skipped"]
            advance(len(done["changed"]) + len(done["skipped"]))
            if done["next"] is None:
                return changed, skipped
            body["before"] = done["next"]
