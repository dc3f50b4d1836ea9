"""What runs inside Envoy: the ASGI application that pyvoy imports, `lanewise.processes.edge:app`.

Its lifespan runs the rest of the process: a function named in the environment, which makes
the server that calls go to.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol

from lanewise.processes.signals import leave_at_once
from lanewise.rpc.edge.call import Receive, Send
from lanewise.rpc.edge.process import EDGE_MAIN
from lanewise.rpc.edge.server import EdgeServer
from lanewise.rpc.services import Services


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


app = EdgeApp()
