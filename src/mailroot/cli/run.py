"""`mailroot run`: the server in the foreground."""

import asyncio
import gc
from pathlib import Path

from mailroot.cli.tables import Failure, OutputLost, say
from mailroot.config.load import ConfigurationError
from mailroot.net.certificates import ignore_unreadable_names
from mailroot.operations import OperationError
from mailroot.service import Service, command_name, welcome
from mailroot.system import new_event_loop


def run(config: Path | None) -> None:
    """Run until Ctrl+C. Raises Failure when it cannot start."""

    def greet(service: Service) -> None:
        try:
            say(welcome(service, command_name()))
        except OutputLost as lost:
            # Nobody reads it. That is no reason to end.
            lost.silence()
        # What is loaded by now stays; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()

    async def serve() -> int:
        return await Service(config, started=greet).run()

    ignore_unreadable_names()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(serve())
    except (ConfigurationError, OperationError) as error:
        raise Failure(str(error)) from error
