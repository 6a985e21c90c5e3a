"""`mailroot user`: the accounts file, with or without a running service, which takes a change at its next login.

A password is never an argument: other accounts of a computer can see those.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mailroot.cli.client import JsonOption
from mailroot.cli.password import password_line
from mailroot.cli.tables import (
    Column,
    Failure,
    complain,
    exact_time,
    plain,
    say,
    say_json,
    show_table,
)

if TYPE_CHECKING:
    from mailroot.config.model import VirtualServerSettings
    from mailroot.operations.accounts import AccountInfo, AccountList

T = TypeVar("T")

app = typer.Typer(
    help="Make, list, disable and remove accounts that may log in, and set their passwords.", no_args_is_help=True
)

_PANEL = "Which accounts file"

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The account, in any case.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="MAILROOT_CONFIG",
        metavar="FILE",
        help="The configuration file; it says where the accounts file is.",
        rich_help_panel=_PANEL,
    ),
]
ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="NAME",
        help="The virtual server; needed where several have accounts of their own.",
        rich_help_panel=_PANEL,
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="This accounts file instead.", rich_help_panel=_PANEL),
]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password, one line, from standard input.")
]
GenerateOption = Annotated[bool, typer.Option("--generate", help="Make a password and print it.")]


@app.command()
def add(
    name: NameArgument,
    ntlm: Annotated[
        bool,
        typer.Option("--ntlm", help="Let it log in by NTLM: keeps the NT hash, which is as good as the password."),
    ] = False,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What it is for.")] = "",
    password_stdin: StdinOption = False,
    generate: GenerateOption = False,
    config: ConfigOption = None,
    server: ServerOption = "",
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Make an account. Its password is asked for, twice and unseen, if the options do not say otherwise."""
    accounts = _accounts(config, server, file)
    password = _password(password_stdin, generate)
    account = _do(lambda: accounts.add(name, password, ntlm=ntlm, note=note))
    _warn(accounts, account)
    _tell(account, f"account '{account.name}' made in {accounts.file}; {_may(account)}", password, generate, json)


@app.command()
def passwd(
    name: NameArgument,
    ntlm: Annotated[
        bool | None,
        typer.Option("--ntlm/--no-ntlm", help="Keep the NT hash, or do not; neither: as it was."),
    ] = None,
    password_stdin: StdinOption = False,
    generate: GenerateOption = False,
    config: ConfigOption = None,
    server: ServerOption = "",
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Set an account's password. Whoever is logged in stays so; the old password lets nobody in any more."""
    accounts = _accounts(config, server, file)
    _do(lambda: accounts.known(name))
    password = _password(password_stdin, generate)
    account = _do(lambda: accounts.set_password(name, password, ntlm=ntlm))
    _warn(accounts, account)
    _tell(account, f"account '{account.name}' has a new password; {_may(account)}", password, generate, json)


@app.command()
def remove(
    name: NameArgument,
    config: ConfigOption = None,
    server: ServerOption = "",
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Remove an account."""
    accounts = _accounts(config, server, file)
    account = _do(lambda: accounts.remove(name))
    _tell(account, f"account '{account.name}' removed", "", False, json)


@app.command()
def disable(
    name: NameArgument,
    config: ConfigOption = None,
    server: ServerOption = "",
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Let an account log in no more; it keeps its password. From outside it looks like a wrong password."""
    accounts = _accounts(config, server, file)
    account = _do(lambda: accounts.set_disabled(name, True))
    _tell(account, f"account '{account.name}' disabled; `mailroot user enable` lets it in again", "", False, json)


@app.command()
def enable(
    name: NameArgument,
    config: ConfigOption = None,
    server: ServerOption = "",
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Let a disabled account log in again."""
    accounts = _accounts(config, server, file)
    account = _do(lambda: accounts.set_disabled(name, False))
    _tell(account, f"account '{account.name}' enabled; {_may(account)}", "", False, json)


@app.command("list")
def list_accounts(
    config: ConfigOption = None, server: ServerOption = "", file: FileOption = None, json: JsonOption = False
) -> None:
    """Show the accounts, and by which kinds of login each may come in."""
    accounts = _accounts(config, server, file)
    found = _do(accounts.accounts)
    if accounts.warning:
        complain(plain(f"warning: {accounts.warning}"))
    if json:
        from mailroot.operations import as_json

        say_json({"file": str(accounts.file), "accounts": [as_json(account) for account in found]})
        return
    if not found:
        say(plain(f"no accounts in {accounts.file}"))
        return
    columns = [
        Column("NAME", least=12),
        Column("LOGINS"),
        Column("STATE"),
        Column("PASSWORD SET", rank=1),
        Column("NOTE", rank=2, least=12),
    ]
    show_table(columns, [_row(account) for account in found])


def _row(account: "AccountInfo") -> list[str]:
    return [
        account.name,
        ", ".join(account.logins),
        "disabled" if account.disabled else "enabled",
        exact_time(account.changed)[:16],
        account.note,
    ]


def _may(account: "AccountInfo") -> str:
    if account.disabled:
        return "it is disabled"
    return f"it may log in by {', '.join(account.logins)}"


def _warn(accounts: "AccountList", account: "AccountInfo") -> None:
    if "ntlm" in account.logins:
        complain(
            plain(
                f"warning: {accounts.file} has the NT hash of '{account.name}' now; to whoever reads it, that is "
                "as good as the password"
            )
        )
    if accounts.warning:
        complain(plain(f"warning: {accounts.warning}"))


def _tell(account: "AccountInfo", words: str, password: str, show_password: bool, json: bool) -> None:
    if json:
        from mailroot.operations import as_json

        answer: dict[str, Any] = {"account": as_json(account)}
        say_json(answer | ({"password": password} if show_password else {}))
        return
    say(plain(words))
    if show_password:
        say(f"password: {password}")


def _do(work: Callable[[], T]) -> T:
    from mailroot.operations import OperationError

    try:
        return work()
    except OperationError as error:
        raise Failure(str(error)) from None


def _accounts(config: Path | None, server: str, file: Path | None) -> "AccountList":
    """The accounts file that is meant."""
    from mailroot.clock import SystemClock
    from mailroot.operations.accounts import AccountList

    if file is not None:
        return AccountList(file.absolute(), SystemClock())
    settings = _server(config, server)
    login = settings.access.authentication
    # The service made that folder, so it belongs to the account that has to read the file.
    root = settings.general.mailroot
    return AccountList(login.accounts, SystemClock(), scram=login.scram, owner_like=root if root.exists() else None)


def _server(config: Path | None, name: str) -> "VirtualServerSettings":
    from mailroot.config.load import ConfigurationError, load

    try:
        servers = load(config, os.environ).virtual_servers
    except ConfigurationError as error:
        raise Failure(str(error)) from None
    names = ", ".join(server.name for server in servers)
    if name:
        for server in servers:
            if server.name == name:
                return server
        raise Failure(f"there is no virtual server '{name}'; there is {names}")
    if len({server.access.authentication.accounts for server in servers}) > 1:
        raise Failure(f"these virtual servers have accounts of their own: {names}; --server says which is meant")
    return servers[0]


def _password(from_stdin: bool, generate: bool) -> str:
    if from_stdin and generate:
        raise typer.BadParameter("one of --password-stdin and --generate, not both")
    if generate:
        from mailroot.operations.accounts import generate_password

        return generate_password()
    if from_stdin:
        return password_line()
    if not sys.stdin.isatty():
        raise Failure(
            "there is no terminal to ask for the password; --password-stdin reads it from standard input, "
            "--generate makes one"
        )
    from getpass import getpass

    try:
        password = getpass("Password: ")
        if password != getpass("Password again: "):
            raise Failure("the two are not the same; nothing was changed")
    except EOFError:
        raise Failure("no password was given; nothing was changed") from None
    return password
