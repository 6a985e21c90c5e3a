"""`mailroot session`: who is connected now."""

import time
from typing import Annotated, Any

import typer

from mailroot.cli.client import ServerOption, Service, on_service, segment
from mailroot.cli.tables import Column, Failure, many, say, say_json, show_table, span

app = typer.Typer(help="List the sessions of clients, and end them.", no_args_is_help=True)


@app.command("list")
@on_service
def list_sessions(service: Service, server: ServerOption = None) -> None:
    """Show who is connected now, longest first."""
    sessions = service.get("/v1/sessions", {"server": server or ()})["sessions"]
    if service.json:
        say_json({"sessions": sessions})
        return
    if not sessions:
        say("no sessions")
        return
    now = time.time()
    columns = [
        Column("ID"),
        Column("CLIENT"),
        Column("HELO", rank=1, least=12),
        Column("USER", rank=3, least=8),
        Column("TLS", rank=4),
        Column("CONNECTED", right=True),
        Column("MESSAGES", right=True),
        Column("DOING", least=8),
        Column("LISTENER", rank=5),
        Column("PROXY", rank=6),
        Column("SERVER", rank=2),
    ]
    show_table(columns, [_row(session, now) for session in sessions])


def _row(session: dict[str, Any], now: float) -> list[str]:
    return [
        session["id"],
        session["client"],
        session["helo"],
        session["user"],
        "yes" if session["tls"] else "",
        span(now - session["since"]),
        str(session["messages"]),
        session["state"],
        session["listener"],
        session["proxy"],
        session["server"],
    ]


@app.command()
@on_service
def end(
    service: Service,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Sessions by id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="End all sessions.")] = False,
    server: ServerOption = None,
) -> None:
    """End sessions. A message that was not acknowledged yet is not kept; its client will send it again."""
    if every == bool(ids):
        raise typer.BadParameter("say which sessions: their ids, or --all")
    if every:
        ended = service.delete("/v1/sessions", {"server": server or ()})["ended"]
    else:
        ended, failures = 0, []
        for name in ids or ():
            try:
                ended += service.delete(f"/v1/sessions/{segment(name)}")["ended"]
            except Failure as failure:
                failures.append(str(failure))
        if failures:
            raise Failure("\n".join(failures))
    if service.json:
        say_json({"ended": ended})
    else:
        say(f"{many(ended, 'session')} ended")
