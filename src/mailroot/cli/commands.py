"""Which commands there are, and their options, by typer. `main` is in front of it.

Modules are imported where they are needed: a command is there sooner.
"""

from pathlib import Path
from typing import Annotated

import typer

from mailroot.cli import ban, certificate, config, queue, server, session, user
from mailroot.cli.client import ConfigOption, Service, on_service
from mailroot.cli.tables import say, say_json

app = typer.Typer(
    name="mailroot",
    help="Mailroot: an SMTP relay for programs that only speak plain SMTP.\n\n"
    "`mailroot run` is the server; config, user and certificate make work on its files; all other commands talk to "
    "a server that is running on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(config.app, name="config")
app.add_typer(server.app, name="server")
app.add_typer(session.app, name="session")
app.add_typer(queue.app, name="queue")
app.add_typer(ban.app, name="ban")
app.add_typer(certificate.app, name="certificate")
app.add_typer(user.app, name="user")


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the server in the foreground, until Ctrl+C. Without a configuration file: with embedded defaults."""
    from mailroot.cli.run import run as run_service

    run_service(config)


@app.command()
@on_service
def send(
    service: Service,
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="The sender; '' is the null sender.")],
    recipients: Annotated[list[str], typer.Option("--to", metavar="ADDRESS", help="A recipient; may be repeated.")],
    subject: Annotated[str, typer.Option("--subject", metavar="TEXT")] = "Test message from Mailroot",
    body: Annotated[str, typer.Option("--body", metavar="TEXT")] = "This is a test message.",
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE.eml", help="Send this message, header and all, instead."),
    ] = None,
    server: Annotated[str, typer.Option("--server", metavar="NAME", help="The virtual server to hand in to.")] = "",
    listener: Annotated[
        str,
        typer.Option(
            "--listener",
            metavar="ADDRESS:PORT",
            help="The listener to hand in to, or :PORT alone. None: one that asks for the least, with --user one "
            "that asks for a login.",
        ),
    ] = "",
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="Log in to this account; the password is asked for.")
    ] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password, one line, from standard input.")
    ] = False,
    tls: Annotated[
        bool, typer.Option("--tls", help="By TLS, also where the listener does not ask for it.")
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE.pem",
            help="Trust certificates of this authority, as a client would that was given it, instead of the one "
            "that the service says is its own.",
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Trust any certificate.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Follow it for so long; 0: do not follow.")
    ] = 60.0,
) -> None:
    """Hand in a test message by SMTP and follow it until it is delivered, or say why it is not.

    Exit code 0 only when every recipient's next hop took it (with --timeout 0: when it was accepted).
    """
    from mailroot.cli.hand_in import Wish
    from mailroot.cli.password import ask_password, password_line
    from mailroot.cli.send import send as hand_in

    if password_stdin and not user:
        raise typer.BadParameter("--password-stdin is for an account: --user NAME")
    if ca is not None and insecure:
        raise typer.BadParameter("one of --ca and --insecure, not both")

    def password() -> str:
        return password_line() if password_stdin else ask_password(user)

    # A certificate is looked at where there is TLS.
    wish = Wish(server, listener, tls or ca is not None or insecure, ca, insecure, user)
    if not hand_in(service, sender, recipients, subject, body, file, wish, password, timeout):
        raise typer.Exit(1)


@app.command()
@on_service
def explain(
    service: Service,
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="The sender; '' is the null sender.")],
    recipient: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="The recipient.")],
    client: Annotated[str, typer.Option("--client", metavar="IP", help="The client's address.")] = "127.0.0.1",
    helo: Annotated[str, typer.Option("--helo", metavar="NAME", help="What it says in HELO or EHLO.")] = "",
    tls: Annotated[bool, typer.Option("--tls", help="As if it had said STARTTLS.")] = False,
    size: Annotated[int, typer.Option("--size", min=0, metavar="OCTETS", help="The message's size.")] = 0,
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="As if logged in to this account.")] = "",
    from_header: Annotated[
        str, typer.Option("--from-header", metavar="TEXT", help="What the From field of its message says.")
    ] = "",
    listener: Annotated[
        str, typer.Option("--listener", metavar="ADDRESS:PORT", help="The listener it comes to, or :PORT alone.")
    ] = "",
    server: Annotated[str, typer.Option("--server", metavar="NAME", help="The virtual server.")] = "",
) -> None:
    """Say what would become of a message: who lets it in, which route it takes, to which hosts, and how.

    Nothing is sent; names are looked up in DNS. Exit code 0 if it would be taken, 1 if it would be refused.
    """
    from mailroot.cli.explain import explain as ask

    question: dict[str, str | int] = {
        "from": sender,
        "to": recipient,
        "client": client,
        "helo": helo,
        "tls": "true" if tls else "",
        "size": size or "",
        "user": user,
        "from_header": from_header,
        "listener": listener,
        "server": server,
    }
    if not ask(service, question):
        raise typer.Exit(1)


@app.command()
def version(json: Annotated[bool, typer.Option("--json", help="Answer with JSON, for programs.")] = False) -> None:
    """Print the version."""
    from mailroot import __version__

    if json:
        say_json({"product": "Mailroot", "version": __version__})
    else:
        say(f"Mailroot {__version__}")
