"""`mailroot certificate`: makes certificates for TLS, and shows which are in use and when they end."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mailroot.cli.client import ApiOption, ConfigOption, JsonOption, ServerOption, TokenOption, find_service
from mailroot.cli.tables import Failure, exact_time, many, plain, say, say_json, show_facts

if TYPE_CHECKING:
    from mailroot.operations.authority import Made

T = TypeVar("T")

app = typer.Typer(help="Make certificates for TLS, show which are in use and when they end.", no_args_is_help=True)

_DAY = 86400
_DAYS = 800
"""Apple's systems take no certificate that is valid for more than 825 days, also from an authority of one's own."""
_LONGEST_LINE = 4096


@app.command()
def make(
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What clients call this server: a DNS name or an address; may be repeated. None: the names that "
            "the certificate has, at first the configured ones and those of this computer.",
        ),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, metavar="DAYS", help="How long it is valid.")
    ] = _DAYS,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="FOLDER",
            help="Where to put it; the folder of the configuration file, or else the current one.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there, also if it was not made here.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", envvar="MAILROOT_CONFIG", metavar="FILE", help="The service's configuration file."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a certificate for TLS, signed by an authority of its own: ca.pem, which clients are given to trust.

    Once more in the same folder it renews the certificate; the authority stays, and clients need nothing new. A
    service that uses it takes the new one by itself. No service needs to run.
    """
    from mailroot.operations.authority import make_certificate

    base = config.parent if config is not None else Path()
    where = folder if folder is not None else base
    made = _do(
        lambda: make_certificate(
            where.absolute(), name or (), days, configured=_fqdns(config), force=force, now=time.time()
        )
    )
    if json:
        from mailroot.operations import as_json

        say_json(as_json(made))
        return
    _tell(made, base.absolute())


def _fqdns(config: Path | None) -> list[str]:
    """What the virtual servers are called; none where the file cannot be read yet: it may name the very certificate
    that is to be made. Which names there are in the end is told."""
    from mailroot.config.load import ConfigurationError, load

    try:
        servers = load(config, os.environ).virtual_servers
    except ConfigurationError:
        return []
    return [server.general.fqdn for server in servers if server.general.fqdn]


def _tell(made: "Made", base: Path) -> None:
    """`base`: the folder of the configuration file, from where its relative paths start."""
    certificate = made.certificate
    say(plain(f"{certificate.file}: for {', '.join(certificate.names)}; ends {_end_in_words(certificate.ends)}"))
    say(plain(f"{made.key}: its private key, for the service alone"))
    if made.new_authority:
        say(plain(f"{made.authority.file}: give this one to clients; whoever trusts it trusts the certificate"))
    else:
        say(plain(f"{made.authority.file}: the same as before, clients need nothing new"))
    say()
    say("In the configuration:")
    say()
    say("[[general.certificates]]")
    for key, file in (("file", Path(certificate.file)), ("key", Path(made.key))):
        near = file.relative_to(base) if file.is_relative_to(base) else file
        # With slashes, which Windows takes too, and which mean nothing else in a string.
        say(plain(f'{key} = "{near.as_posix()}"'))


@app.command()
def show(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Look at this PEM or PKCS#12 file instead; no service needs to run."),
    ] = None,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin", help="Read the password of a PKCS#12 file, one line, from standard input."
        ),
    ] = False,
    server: ServerOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
    api: ApiOption = "",
    token_file: TokenOption = None,
) -> None:
    """Show the certificates in use: for which names, until when, and their fingerprints (SHA-256)."""
    if file is not None:
        from mailroot.operations import as_json
        from mailroot.operations.certificates import certificate_in

        password = _password() if password_stdin else ""
        found: list[Any] = [as_json(_do(lambda: certificate_in(file, password)))]
    else:
        service = find_service(config, api, token_file, json=json)
        try:
            found = service.get("/v1/certificates", {"server": server or ()})["certificates"]
        finally:
            service.close()
    if json:
        say_json({"certificates": found})
        return
    if not found:
        say("no certificates are in use: TLS is not offered. `mailroot certificate make` makes one")
    for n, certificate in enumerate(found):
        if n:
            say()
        _show(certificate)


def _show(certificate: dict[str, Any]) -> None:
    begins = certificate["not_before"]
    chain = many(certificate["chain"], "more certificate")
    show_facts(
        [
            ("server", certificate["server"]),
            ("file", certificate["file"]),
            ("names", ", ".join(certificate["names"])),
            (
                "serves",
                "clients that ask for no name, or for an unknown one, too" if certificate["default"] else "",
            ),
            ("begins", exact_time(begins) if begins > time.time() else ""),
            ("ends", _end_in_words(certificate["ends"])),
            ("issuer", "itself" if certificate["self_signed"] else certificate["issuer"]),
            ("sent with it", chain if certificate["chain"] else ""),
            ("key", certificate["key"]),
            ("fingerprint", certificate["fingerprint"]),
        ]
    )


def _end_in_words(ends: float) -> str:
    """ "2027-01-15, in 89 days", "2025-01-15: it has ended 3 days ago"."""
    day = exact_time(ends)[:10]
    left = ends - time.time()
    days = many(int(abs(left) // _DAY), "day")
    if left <= 0:
        return f"{day}: it has ended {days} ago" if left <= -_DAY else f"{day}: it has just ended"
    return f"{day}, in {days}" if left >= _DAY else f"{day}: in less than a day"


def _password() -> str:
    octets = sys.stdin.buffer.readline(_LONGEST_LINE + 1)
    try:
        return octets.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure("the password on standard input is not UTF-8") from None


def _do(work: Callable[[], T]) -> T:
    from mailroot.operations import OperationError

    try:
        return work()
    except OperationError as error:
        raise Failure(str(error)) from None
