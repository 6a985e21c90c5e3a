"""A served API in a thread, as a service of another process would have it, over a fake virtual server."""

import asyncio
import json
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mailroot.clock import SystemClock
from mailroot.events import Bus
from mailroot.operations import OperationError, Operations
from mailroot.web.api import ApiSettings
from mailroot.web.app import serve
from rig.fake_server import FakeServer

T = TypeVar("T")


class Running:
    """The service: `relay` is its virtual server; `do` runs a coroutine where the service runs."""

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / "api-token"
        self.address = ""
        self.reload_refusal = ""
        self._folder = folder
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _run(self) -> None:
        clock = SystemClock()
        self.relay = FakeServer("default", clock, self._folder / "mailroot")
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        operations = Operations({"default": self.relay}, Bus(clock), clock, self._reload)
        server = await serve(ApiSettings(port=0, token_file=self.token_file), operations)
        self.address = server.address
        self._ready.set()
        await self._end.wait()
        await server.close()

    async def _reload(self, _: str | None) -> None:
        if self.reload_refusal:
            raise OperationError(self.reload_refusal)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)
