"""`mailroot server`: the virtual servers of the running service."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mailroot.cli.client import Service, on_service, segment
from mailroot.cli.tables import Column, ago, complain, plain, say, say_json, show_table

app = typer.Typer(
    help="List, start, stop, pause, continue, restart and reload virtual servers.", no_args_is_help=True
)

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Virtual servers by name; none: all of them.")
]


@app.command("list")
@on_service
def list_servers(service: Service, names: NamesArgument = None) -> None:
    """Show the virtual servers: state, sessions, what their queues hold; and what holds where they listen."""
    servers = service.get("/v1/servers", {"server": names or ()})["servers"]
    if service.json:
        say_json({"servers": servers})
        return
    import time

    now = time.time()
    columns = [
        Column("NAME"),
        Column("STATE"),
        Column("SESSIONS", rank=2, right=True),
        Column("QUEUED", right=True),
        Column("HELD", rank=1, right=True),
        Column("OLDEST", rank=3, right=True),
        Column("FOLDERS", rank=4, least=20),
    ]
    show_table(columns, [_row(server, now) for server in servers])
    _show_listeners(servers, now)
    _show_trouble(servers)


def _row(server: dict[str, Any], now: float) -> list[str]:
    counts = server["counts"]
    return [
        server["name"],
        server["state"],
        str(server["sessions"]),
        str(counts["queued"] + counts["leased"]) if counts else "?",
        str(counts["held"]) if counts else "?",
        ago(counts["oldest"], now) if counts and counts["oldest"] is not None else "",
        server["folders"]["mailroot"],
    ]


def _show_listeners(servers: Sequence[dict[str, Any]], now: float) -> None:
    columns = [
        Column("LISTENS ON", least=15),
        Column("PROFILE", rank=2),
        Column("TLS", least=16),
        Column("LOGIN"),
        Column("CERTIFICATE ENDS", rank=1),
        Column("BEHIND", rank=3),
        Column("SERVER", rank=4),
    ]
    rows = [
        _listener_row(listener, server["name"] if len(servers) > 1 else "", now)
        for server in servers
        for listener in server["listeners"]
    ]
    if rows:
        say()
        show_table(columns, rows)


def _listener_row(listener: dict[str, Any], server: str, now: float) -> list[str]:
    ends = listener["certificate_ends"]
    left = "" if ends is None else f"ended {ago(ends, now)}" if ends <= now else f"in {int((ends - now) / 86400)} d"
    return [
        listener["address"],
        listener["profile"],
        _tls_in_words(listener),
        "required, none possible" if _locked(listener) else listener["login"],
        left,
        "a proxy" if listener["proxy_protocol"] else "",
        server,
    ]


def _locked(listener: dict[str, Any]) -> bool:
    return listener["login"] == "required" and not listener["mechanisms"]


def _tls_in_words(listener: dict[str, Any]) -> str:
    """ "STARTTLS, required for mail", "implicit, from 1.0", "none"."""
    if listener["tls"] == "off":
        return "none, but required" if listener["require_tls"] == "mail" else "none"
    words = ["STARTTLS" if listener["tls"] == "starttls" else "implicit"]
    if listener["tls"] == "starttls" and listener["require_tls"] != "no":
        wanted = {"passwords": "passwords", "login": "logins", "mail": "mail"}[listener["require_tls"]]
        words.append(f"required for {wanted}")
    if listener["min_tls"] != "1.2":
        words.append(f"from {listener['min_tls']}")
    return ", ".join(words)


def _show_trouble(servers: Sequence[dict[str, Any]]) -> None:
    for server in servers:
        if server["trouble"]:
            complain(f"{server['name']}: {plain(server['trouble'])}")


@app.command()
@on_service
def start(service: Service, names: NamesArgument = None) -> None:
    """Start virtual servers that are stopped."""
    _control(service, "start", names)


@app.command()
@on_service
def stop(service: Service, names: NamesArgument = None) -> None:
    """Stop virtual servers: no listener, no session, no delivery. The queue is kept and can be worked on."""
    _control(service, "stop", names)


@app.command()
@on_service
def pause(service: Service, names: NamesArgument = None) -> None:
    """Refuse new connections. Sessions that are open go on, and so does delivery."""
    _control(service, "pause", names)


@app.command("continue")
@on_service
def continue_(service: Service, names: NamesArgument = None) -> None:
    """Accept connections again after a pause."""
    _control(service, "continue", names)


@app.command()
@on_service
def restart(service: Service, names: NamesArgument = None) -> None:
    """Stop and start virtual servers."""
    _control(service, "restart", names)


@app.command()
@on_service
def reload(service: Service, names: NamesArgument = None) -> None:
    """Read the configuration file again and apply it. A file with a mistake changes nothing."""
    _control(service, "reload", names)


def _control(service: Service, action: str, names: list[str] | None) -> None:
    servers = service.post(f"/v1/servers/{segment(action)}", {"server": names or ()})["servers"]
    if service.json:
        say_json({"servers": servers})
        return
    for server in servers:
        addresses = " ".join(listener["address"] for listener in server["listeners"])
        listens = f", listening on {addresses}" if addresses else ""
        say(f"{server['name']}: {server['state']}{listens}")
    _show_trouble(servers)
