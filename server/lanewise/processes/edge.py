"""What runs inside Envoy: a whole server or a front end, on the edge transport.

`become_edge` turns this process into Envoy, which loads the ASGI application here. Its lifespan
runs the function named in the environment, `main` as a rule, which makes the server that calls go
to.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, Protocol

from lanewise.processes.arguments import ChildArguments, ServeArguments, from_json
from lanewise.processes.signals import (
    block_stop_signals,
    leave_at_once,
    watch_on_own_thread,
)
from lanewise.rpc.edge.call import Receive, Send
from lanewise.rpc.edge.process import EDGE_MAIN, become_edge_process
from lanewise.rpc.edge.server import EdgeServer
from lanewise.rpc.services import Services
from lanewise.telemetry.logs import configure_logging

MAIN: Final = f"{__name__}:main"


class EdgeMain(Protocol):
    """What a process of the edge transport does: returns its exit status.

    Args:
        argument: as it was given to `become_edge_process`.
        transport: to be called once, with what is served.
    """

    def __call__(
        self, argument: str, transport: Callable[[Services], EdgeServer]
    ) -> Awaitable[int]: ...


class EdgeApp:
    """Runs the process from the start of the lifespan, and passes calls on to its server."""

    def __init__(self) -> None:
        self._server: EdgeServer | None = None
        self._has_server = asyncio.Event()
        self._process: asyncio.Task[NoReturn] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one event of the life of the process, or one call."""
        if self._server is not None and scope["type"] == "http":
            await self._server(scope, receive, send)
        elif scope["type"] == "lifespan":
            await receive()
            self._process = asyncio.create_task(self._run())
            await self._has_server.wait()
            await send({"type": "lifespan.startup.complete"})

    async def _run(self) -> NoReturn:
        """Run to the end of the process: nothing of Envoy's own end is waited for."""
        status = 1
        try:
            main, argument = json.loads(os.environ[EDGE_MAIN])
            module, _, name = main.partition(":")
            run: EdgeMain = getattr(importlib.import_module(module), name)
            status = await run(argument, self._serve)
        except Exception:
            traceback.print_exc()
        leave_at_once(status)

    def _serve(self, services: Services) -> EdgeServer:
        self._server = EdgeServer(services)
        self._has_server.set()
        return self._server


def become_edge(arguments: ServeArguments | ChildArguments) -> NoReturn:
    """Become the Envoy process that runs `main` with these arguments, on the port they name."""
    serve = arguments.serve if isinstance(arguments, ChildArguments) else arguments
    settings = serve.settings
    block_stop_signals()
    become_edge_process(
        MAIN,
        arguments.to_json(),
        host=settings.host,
        port=settings.grpc_port,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
    )


async def main(argument: str, transport: Callable[[Services], EdgeServer]) -> int:
    """Run the server, or the front end, that `argument` describes; see `EdgeMain`."""
    arguments = from_json(argument)
    if isinstance(arguments, ChildArguments):
        from lanewise.processes.front_end import run_front_end  # noqa: PLC0415

        serve = arguments.serve
        configure_logging(format=serve.log_format, level=serve.log_level)
        await run_front_end(serve.settings, arguments.engine, transport, watch_on_own_thread)
        return 0
    from lanewise.processes.app import App  # noqa: PLC0415
    from lanewise.processes.serve import status_of  # noqa: PLC0415
    from lanewise.rpc.transport import rpc_front  # noqa: PLC0415

    configure_logging(format=arguments.log_format, level=arguments.log_level)
    front = rpc_front(arguments.settings, transport)
    return await status_of(App(arguments.settings, front=front, watch_signals=watch_on_own_thread))


app = EdgeApp()
