"""The loopback API: operations over HTTP, for the command line and for programs; JSON, with a token.

It reads a request, calls one verb of `operations`, and writes the value it answers; it decides nothing. Times are
seconds since the epoch, UTC. An error is {"error": {"code": …, "message": …}}: the code for programs, the message
for people. Nothing here may slow the mail: bodies are bounded, listings come in pages.
"""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mailroot import __version__
from mailroot.operations import Invalid, NotFound, OperationError, Operations, as_json
from mailroot.operations.operator import MOST, Action, Export
from mailroot.queue.base import QueueError, Search, State, parse_id

MOST_BODY = 64 * 1024
"""Octets of a request's body we read; more is refused with 413."""

_BODY_SECONDS = 10.0
_SEND_SECONDS = 60.0

_STATUS = {"not_found": 404, "invalid": 400, "conflict": 409, "unavailable": 503, "failed": 500}

# How a search is written, in a query string and (as lists where it may repeat) in a JSON body.
_SEARCH = frozenset(
    ("id", "state", "sender", "recipient", "subject", "message_id", "text", "since", "until", "before")
)
_MANY = frozenset(("id", "state", "server"))

Parameters = Mapping[str, Sequence[str]]


class Api:
    """Each method answers one route: it reads the request, calls one verb of operations, and writes its value."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def version(self, request: Request) -> Response:
        _parameters(request, set())
        return JSONResponse({"product": "Mailroot", "version": __version__})

    async def servers(self, request: Request) -> Response:
        parameters = _parameters(request, {"server"})
        return _answer("servers", await self._operations.servers(_names(parameters)))

    async def control(self, request: Request) -> Response:
        parameters = _parameters(request, {"server"})
        operations = self._operations
        verbs = {
            "start": operations.start,
            "stop": operations.stop,
            "pause": operations.pause,
            "continue": operations.resume,
            "restart": operations.restart,
            "reload": operations.reload,
        }
        verb = verbs.get(request.path_params["action"])
        if verb is None:
            raise NotFound(f"there is no such action; there are: {', '.join(verbs)}")
        return _answer("servers", await verb(_names(parameters)))

    async def sessions(self, request: Request) -> Response:
        parameters = _parameters(request, {"server"})
        return _answer("sessions", self._operations.sessions(_names(parameters)))

    async def end_sessions(self, request: Request) -> Response:
        parameters = _parameters(request, {"server"})
        return JSONResponse({"ended": self._operations.end_sessions(_names(parameters))})

    async def end_session(self, request: Request) -> Response:
        _parameters(request, set())
        self._operations.end_session(request.path_params["id"])
        return JSONResponse({"ended": 1})

    async def bans(self, request: Request) -> Response:
        parameters = _parameters(request, {"server"})
        return _answer("bans", self._operations.bans(_names(parameters)))

    async def lift_bans(self, request: Request) -> Response:
        parameters = _parameters(request, {"server", "who", "all"})
        who, everybody = _one(parameters, "who"), _one(parameters, "all") in ("true", "1")
        if everybody == bool(who):
            raise Invalid('say whose bans: "who", an address or account, or "all": true')
        names = _names(parameters)
        lifted = self._operations.lift_bans(names) if everybody else self._operations.lift_ban(who, names)
        return JSONResponse({"lifted": lifted})

    async def certificates(self, request: Request) -> Response:
        parameters = _parameters(request, {"server"})
        return _answer("certificates", self._operations.certificates(_names(parameters)))

    async def counts(self, request: Request) -> Response:
        parameters = _parameters(request, {"server"})
        return _answer("queues", await self._operations.counts(_names(parameters)))

    async def messages(self, request: Request) -> Response:
        parameters = _parameters(request, {*_SEARCH, "server", "limit"})
        page = await self._operations.messages(_search(parameters), _limit(parameters), _names(parameters))
        return JSONResponse(as_json(page))

    async def message(self, request: Request) -> Response:
        _parameters(request, set())
        return JSONResponse(as_json(await self._operations.message(request.path_params["id"])))

    async def content(self, request: Request) -> Response:
        _parameters(request, set())
        return _Octets(await self._operations.export(request.path_params["id"]))

    async def matching(self, request: Request) -> Response:
        parameters = _parameters(request, {*_SEARCH, "server"})
        action = _action(request)
        found = await self._operations.matching(action, _search(parameters), _names(parameters))
        return JSONResponse(as_json(found))

    async def change(self, request: Request) -> Response:
        _parameters(request, set())
        action = _action(request)
        parameters, everything = await _body(request, {*_SEARCH, "server", "limit"})
        search = _search(parameters)
        if not everything and replace(search, before=None) == Search():
            raise Invalid('say which messages: "id", conditions of a search, or "all": true')
        done = await self._operations.change(action, search, _limit(parameters), _names(parameters))
        return JSONResponse(as_json(done))

    async def explain(self, request: Request) -> Response:
        asked = {"server", "from", "to", "client", "helo", "size", "tls", "user", "listener", "from_header"}
        parameters = _parameters(request, asked)
        from mailroot.operations.explanation import Question

        question = Question(
            sender=_one(parameters, "from"),
            recipient=_one(parameters, "to"),
            client=_one(parameters, "client") or "127.0.0.1",
            helo=_one(parameters, "helo"),
            tls=_one(parameters, "tls") in ("true", "1"),
            size=int(_number(parameters, "size") or 0),
            user=_one(parameters, "user"),
            from_header=_one(parameters, "from_header"),
            listener=_one(parameters, "listener"),
        )
        return JSONResponse(as_json(await self._operations.explain(question, _one(parameters, "server"))))

    def routes(self) -> list[Route]:
        """All of them; each is described in docs/operating.md."""
        return [
            Route("/v1/version", self.version, methods=["GET"]),
            Route("/v1/servers", self.servers, methods=["GET"]),
            Route("/v1/servers/{action}", self.control, methods=["POST"]),
            Route("/v1/sessions", self.sessions, methods=["GET"]),
            Route("/v1/sessions", self.end_sessions, methods=["DELETE"]),
            Route("/v1/sessions/{id}", self.end_session, methods=["DELETE"]),
            Route("/v1/bans", self.bans, methods=["GET"]),
            Route("/v1/bans", self.lift_bans, methods=["DELETE"]),
            Route("/v1/certificates", self.certificates, methods=["GET"]),
            Route("/v1/counts", self.counts, methods=["GET"]),
            Route("/v1/messages", self.messages, methods=["GET"]),
            Route("/v1/messages/{id}", self.message, methods=["GET"]),
            Route("/v1/messages/{id}/content", self.content, methods=["GET"]),
            Route("/v1/queue/{action}", self.matching, methods=["GET"]),
            Route("/v1/queue/{action}", self.change, methods=["POST"]),
            Route("/v1/explain", self.explain, methods=["GET"]),
        ]


def application(operations: Operations) -> Starlette:
    """The API as an ASGI application, without its guard."""

    async def operation_failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, OperationError)
        return _error(_STATUS.get(error.code, 500), error.code, str(error))

    async def http_failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "there is no such route", 405: "this route has no such method"}
        return _error(error.status_code, "http", words.get(error.status_code, error.detail), error.headers)

    async def fault(request: Request, error: Exception) -> Response:
        # Starlette caught it and raises it again for the server's log; here it becomes an event like any other.
        operations.report_fault("API", error)
        return _error(500, "internal", "a fault of Mailroot's own; its log has the details")

    return Starlette(
        routes=Api(operations).routes(),
        exception_handlers={OperationError: operation_failed, HTTPException: http_failed, Exception: fault},
    )


class _Octets(Response):
    """A message as a file, sent as it is read; memory stays constant, and a reader that stalls is left."""

    def __init__(self, export: Export) -> None:
        super().__init__(
            media_type="message/rfc822",
            headers={
                "Content-Length": str(export.size),
                "Content-Disposition": f'attachment; filename="{export.id}.eml"',
            },
        )
        self._chunks = export.chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # Ended early (stalled reader, disk fault), the answer is shorter than its Content-Length says, and the
        # server closes the connection: the caller sees that something is missing.
        with suppress(TimeoutError, QueueError):
            async for chunk in self._chunks:
                async with asyncio.timeout(_SEND_SECONDS):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _answer(name: str, values: Sequence[object]) -> Response:
    return JSONResponse({name: as_json(list(values))})


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def _parameters(request: Request, known: Set[str]) -> Parameters:
    """The query string, each name with its values. Raises Invalid for a name that the route does not know."""
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        found.setdefault(name, []).append(value)
    _check_names(found, known)
    return found


async def _body(request: Request, known: Set[str]) -> tuple[Parameters, bool]:
    """A JSON object of the same names, and its "all". Raises Invalid, HTTPException(413)."""
    octets = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                octets += chunk
                if len(octets) > MOST_BODY:
                    raise HTTPException(413, f"a request's body has at most {MOST_BODY} octets")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, f"the body did not come within {_BODY_SECONDS:.0f} seconds") from None
    try:
        body = json.loads(octets or b"{}")
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object")
    everything = body.pop("all", False)
    if not isinstance(everything, bool):
        raise Invalid('"all" must be true or false')
    _check_names(dict.fromkeys(body, ()), known)
    found = {name: [_text(name, item) for item in _list(value)] for name, value in body.items()}
    _check_names(found, known)
    return found, everything


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise Invalid(f'"{name}" must be text or a number')


def _check_names(found: Parameters, known: Set[str]) -> None:
    for name, values in found.items():
        if name not in known:
            raise Invalid(f'there is no parameter "{name}" here; there are: {", ".join(sorted(known)) or "none"}')
        if len(values) > 1 and name not in _MANY:
            raise Invalid(f'"{name}" may be given once')


def _one(parameters: Parameters, name: str) -> str:
    return next(iter(parameters.get(name, ())), "")


def _names(parameters: Parameters) -> Sequence[str]:
    return parameters.get("server", ())


def _number(parameters: Parameters, name: str) -> float | None:
    text = _one(parameters, name)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Invalid(f'"{name}" must be a number, not {text!r}')
    return number


def _limit(parameters: Parameters) -> int:
    return int(_number(parameters, "limit") or 100)


def _action(request: Request) -> Action:
    try:
        return Action(request.path_params["action"])
    except ValueError:
        raise NotFound(f"there is no such action; there are: {', '.join(Action)}") from None


def _state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise Invalid(f"there is no state {text!r}; there are: {', '.join(State)}") from None


def _search(parameters: Parameters) -> Search:
    """What the parameters mean. Raises Invalid."""
    ids = parameters.get("id", ())
    if len(ids) > MOST:
        raise Invalid(f"at most {MOST} ids in one request")
    before = _one(parameters, "before")
    try:
        return Search(
            ids=tuple(map(parse_id, ids)),
            states=tuple(map(_state, parameters.get("state", ()))),
            sender=_one(parameters, "sender"),
            recipient=_one(parameters, "recipient"),
            subject=_one(parameters, "subject"),
            message_id=_one(parameters, "message_id"),
            text=_one(parameters, "text"),
            since=_number(parameters, "since"),
            until=_number(parameters, "until"),
            before=parse_id(before) if before else None,
        )
    except ValueError as error:
        raise Invalid(str(error)) from None
