"""The command line's way to the running service: finds its API and token, asks, and says in words what went wrong.

`on_service` gives a command the options that say where the service is; the command itself gets a `Service`.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from mailroot.cli.tables import Failure

if TYPE_CHECKING:
    import httpx

    from mailroot.web.api import ApiSettings

_PANEL = "Where the service is"

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="MAILROOT_CONFIG",
        metavar="FILE",
        help="The service's configuration file; it says where the API and its token are.",
        rich_help_panel=_PANEL,
    ),
]
ApiOption = Annotated[
    str,
    typer.Option("--api", metavar="ADDRESS:PORT", help="Where the service's API is.", rich_help_panel=_PANEL),
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Where the API's token is.", rich_help_panel=_PANEL),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with JSON, for programs.")]
ServerOption = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="NAME", help="Only this virtual server; may be repeated."),
]

Query = Mapping[str, str | int | float | Sequence[str] | None]


class Service:
    """The running service, over its API. Every method raises Failure."""

    def __init__(self, api: str, token_file: Path, *, json: bool = False) -> None:
        self.json = json
        self._api = api
        self._token_file = token_file
        self._open: httpx.Client | None = None

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON that the route answers."""
        return self._ask("GET", path, query)

    def post(self, path: str, query: Query | None = None, body: object = None) -> Any:
        return self._ask("POST", path, query, body)

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self._ask("DELETE", path, query)

    @contextmanager
    def octets(self, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """A message: its size and its octets as they come. Raises Failure also where they end too early."""
        import httpx

        with self._words(), self._client().stream("GET", path) as answer:
            if not answer.is_success:
                answer.read()
                raise Failure(self._refusal(answer))
            try:
                yield int(answer.headers["Content-Length"]), answer.iter_bytes()
            except httpx.RemoteProtocolError:
                raise Failure("the message broke off while it was read; nothing was kept of it") from None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    def _ask(self, method: str, path: str, query: Query | None = None, body: object = None) -> Any:
        parameters = {name: value for name, value in (query or {}).items() if value not in (None, "", (), [])}
        with self._words():
            answer = self._client().request(method, path, params=parameters, json=body)
        if not answer.is_success:
            raise Failure(self._refusal(answer))
        return answer.json()

    def _client(self) -> "httpx.Client":
        import httpx

        if self._open is None:
            self._open = httpx.Client(
                base_url=f"http://{self._api}",
                headers={"Authorization": f"Bearer {_read_token(self._token_file)}"},
                # Stopping a virtual server may take a while: its sessions and attempts get a grace period.
                timeout=httpx.Timeout(120.0, connect=5.0),
                # A proxy of the environment has no business between us and this machine.
                trust_env=False,
            )
        return self._open

    @contextmanager
    def _words(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.ConnectError:
            raise Failure(
                f"no service answers at {self._api}. Is it running (`mailroot run`)? If its API is elsewhere, say "
                "so with --config FILE or --api ADDRESS:PORT"
            ) from None
        except httpx.TimeoutException:
            raise Failure(f"the service at {self._api} did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Failure(f"the service at {self._api} could not be asked: {error}") from None

    def _refusal(self, answer: "httpx.Response") -> str:
        try:
            error = answer.json()["error"]
            code, message = str(error["code"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            return f"what answers at {self._api} is not Mailroot, or is too busy (HTTP {answer.status_code})"
        if code == "token":
            return f"the token in {self._token_file} is not the one of the service at {self._api}"
        return message


def on_service(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of `command(service, …)`: the options that find the service are added, and --json."""

    @functools.wraps(command)
    def with_service(*, config: Path | None, api: str, token_file: Path | None, json: bool, **options: Any) -> None:
        service = find_service(config, api, token_file, json=json)
        try:
            command(service, **options)
        finally:
            service.close()

    signature = inspect.signature(command)
    own = list(signature.parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("json", keyword, default=False, annotation=JsonOption),
        inspect.Parameter("config", keyword, default=None, annotation=ConfigOption),
        inspect.Parameter("api", keyword, default="", annotation=ApiOption),
        inspect.Parameter("token_file", keyword, default=None, annotation=TokenOption),
    ]
    parameters = [*(parameter.replace(kind=keyword) for parameter in own), *added]
    # typer reads a command's options from its signature and its annotations.
    with_service.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_service.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del with_service.__wrapped__
    return with_service


def find_service(config: Path | None, api: str, token_file: Path | None, *, json: bool = False) -> Service:
    """Where the options, the configuration file or the defaults say the service is. Raises Failure."""
    address = _loopback(api.removeprefix("http://").rstrip("/")) if api else ""
    if not (address and token_file):
        settings = _settings(config)
        host = f"[{settings.address}]" if ":" in settings.address else settings.address
        address = address or f"{host}:{settings.port}"
        token_file = token_file or settings.token_file
    return Service(address, token_file, json=json)


def _loopback(text: str) -> str:
    """The address as given. Raises BadParameter unless it is one of this machine: nobody else gets the token."""
    host, _, port = text.rpartition(":")
    with suppress(ValueError):
        if port.isascii() and port.isdigit() and (host == "localhost" or ip_address(host.strip("[]")).is_loopback):
            return text
    raise typer.BadParameter(f"{text!r} is not a loopback address and a port; right would be '127.0.0.1:2580'")


def segment(text: str) -> str:
    """A part of a path, quoted."""
    return quote(text, safe="")


def _settings(config: Path | None) -> "ApiSettings":
    if config is None:
        from mailroot.web.api import ApiSettings

        return ApiSettings()
    from mailroot.config.load import ConfigurationError, load_service

    try:
        return load_service(config, os.environ).api
    except ConfigurationError as error:
        raise Failure(str(error)) from None


def _read_token(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise Failure(
            f"there is no token file {file}. The service makes it when it starts; if it runs from another folder "
            "or with a configuration file, say so with --config FILE or --token-file FILE"
        ) from None
    except PermissionError:
        raise Failure(
            f"the token file {file} cannot be read: it is for the account of the service alone. Run this command "
            "as that account, or as root (Windows: as Administrator)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"the token file {file} cannot be read: {error}") from None
