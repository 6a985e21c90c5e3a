"""`mailroot config`: a sample configuration file, a file checked, and what is in effect."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mailroot.cli.client import ConfigOption
from mailroot.cli.tables import Failure, complain, many, plain, say

app = typer.Typer(help="Print a sample configuration file, check one, show what is in force.", no_args_is_help=True)

FileArgument = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="The configuration file; none: the embedded defaults.")
]


@app.command()
def sample() -> None:
    """Print a configuration file with every setting, its meaning and its default."""
    from mailroot.config.sample import sample as text

    say(text().rstrip("\n"))


@app.command()
def check(file: FileArgument = None, config: ConfigOption = None) -> None:
    """Say what is wrong with a configuration file: line, key, and what would be right.

    Exit code 0 if it is fine, 1 if not.
    """
    from mailroot.config.load import ConfigurationError, load

    file = file or config
    try:
        configuration = load(file, os.environ)
    except ConfigurationError as error:
        for problem in error.problems:
            complain(plain(problem))
        found = many(len(error.problems), "mistake")
        raise Failure(f"{file} has {found}; nothing of it would be taken") from None
    for warning in configuration.warnings:
        complain(plain(f"warning: {warning}"))
    name = f"{file} is fine" if file is not None else "The embedded defaults are fine"
    servers = configuration.virtual_servers
    but = f", with {many(len(configuration.warnings), 'warning')}" if configuration.warnings else ""
    say(f"{name}{but}: {many(len(servers), 'virtual server')}.")
    for server in servers:
        hosts = server.delivery.advanced.smart_host
        onwards = f"through {', '.join(hosts)}" if hosts else "to the recipients' own servers"
        listeners = (listener.address for listener in server.general.listeners)
        where = ", ".join((*server.general.listen, *listeners)) or "nowhere"
        say(plain(f"  {server.name}: listens on {where}; mailroot {server.general.mailroot}; delivers {onwards}"))


@app.command()
def show(file: FileArgument = None, config: ConfigOption = None) -> None:
    """Print the configuration that is in effect with a file, defaults and all; secrets are hidden."""
    from mailroot.config.load import ConfigurationError, load
    from mailroot.config.sample import effective

    try:
        configuration = load(file or config, os.environ)
    except ConfigurationError as error:
        raise Failure(str(error)) from None
    say(effective(configuration).rstrip("\n"))
