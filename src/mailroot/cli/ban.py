"""`mailroot ban`: which addresses and accounts are banned after failed logins."""

import time
from typing import Annotated

import typer

from mailroot.cli.client import ServerOption, Service, on_service
from mailroot.cli.tables import Column, Failure, ahead, many, say, say_json, show_table

app = typer.Typer(
    help="List and lift the bans of addresses and accounts that failed to log in too often.", no_args_is_help=True
)


@app.command("list")
@on_service
def list_bans(service: Service, server: ServerOption = None) -> None:
    """Show who is banned now, the ban that ends first in front."""
    bans = service.get("/v1/bans", {"server": server or ()})["bans"]
    if service.json:
        say_json({"bans": bans})
        return
    if not bans:
        say("no bans")
        return
    now = time.time()
    columns = [
        Column("BANNED", least=15),
        Column("WHAT"),
        Column("FAILURES", right=True, rank=1),
        Column("ENDS", right=True),
        Column("SERVER", rank=2),
    ]
    rows = [
        [ban["who"], ban["kind"], str(ban["failures"]), ahead(ban["until"], now), ban["server"]] for ban in bans
    ]
    show_table(columns, rows)


@app.command()
@on_service
def lift(
    service: Service,
    who: Annotated[
        list[str] | None, typer.Argument(metavar="WHO", help="Addresses, IPv6 networks or accounts, as listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Lift all bans.")] = False,
    server: ServerOption = None,
) -> None:
    """Lift bans. The failures are forgotten too; whoever fails again begins anew."""
    if every == bool(who):
        raise typer.BadParameter("say whose bans: their addresses or accounts, or --all")
    lifted, failures = 0, []
    for query in [{"all": "true"}] if every else [{"who": name} for name in who or ()]:
        try:
            lifted += service.delete("/v1/bans", {**query, "server": server or ()})["lifted"]
        except Failure as failure:
            failures.append(str(failure))
    if failures:
        raise Failure("\n".join(failures))
    if service.json:
        say_json({"lifted": lifted})
    else:
        say(f"{many(lifted, 'ban')} lifted")
