"""The transports that tests run on: what carries the calls of a server in a test.

Tests ask for the fixture `each_transport` to run once on each; all else runs on grpc.aio. With
`--transport` and `--frontends` they run on that one, its front ends in processes of their own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.edge_relay import read_object, write_object
from helpers.processes import ProcessPool, process_pool
from lanewise.rpc.aio import AioServer
from lanewise.rpc.edge.server import EdgeServer
from lanewise.rpc.services import Services
from lanewise.rpc.transport import TransportFactory
from lanewise.settings.ports import reserve_port

REQUIRED = "LANEWISE_REQUIRE_EDGE"
"""Environment variable; set to 1, tests of the edge transport fail without it, not skip."""


@dataclass(frozen=True)
class TestedTransport:
    """What a test runs on.

    Attributes:
        make: for a server in the test's own process.
        arguments: of `lanewise serve`, for one in a process of its own.
        is_linked: whether the models are at the other end of a link.
        front_ends: processes that carry the calls of servers in the test's own; None for none.
    """

    __test__ = False

    make: TransportFactory
    arguments: tuple[str, ...] = ()
    is_linked: bool = False
    front_ends: ProcessPool | None = None


AIO = TestedTransport(AioServer)
LINKED = TestedTransport(AioServer, ("--frontends", "2"), is_linked=True)
tested_transport: ContextVar[TestedTransport] = ContextVar("tested_transport", default=AIO)


def require_edge() -> None:
    """Skip the test, or fail it, if the edge transport is not installed."""
    if importlib.util.find_spec("pyvoy") is None:
        message = "pyvoy is not installed; pip install -e '.[edge]' brings it"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{message} ({REQUIRED}=1)", pytrace=False)
        pytest.skip(message)


@contextmanager
def front_end_processes(transport: str, count: int, folder: Path) -> Iterator[TestedTransport]:
    """Have the product's own front-end processes in front of whatever server is started."""
    arguments = ("--frontends", str(count), "--transport", transport)
    with process_pool(transport, count, folder) as front_ends:
        yield TestedTransport(AioServer, arguments, is_linked=True, front_ends=front_ends)


@contextmanager
def edge_gate(folder: Path) -> Iterator[TestedTransport]:
    """Run an Envoy whose calls are answered by whichever server of this process is started.

    One server at a time: they share its port.
    """
    socket_path = folder / "relay"
    port = reserve_port("gate", "127.0.0.1", 0)
    arguments = f"'', {str(socket_path)!r}, host='127.0.0.1', port={port}"
    program = (
        "from lanewise.processes.signals import block_stop_signals\n"
        "from lanewise.rpc.edge.process import become_edge_process\n"
        "block_stop_signals()\n"
        f"become_edge_process({arguments}, app='helpers.edge_relay:app')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        _wait_until_it_listens(process, port)
        yield TestedTransport(
            lambda services: _BehindGate(services, port, socket_path), ("--transport", "edge")
        )
    finally:
        process.kill()
        process.wait()


def _wait_until_it_listens(process: subprocess.Popen, port: int) -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError(f"Envoy ended with {process.returncode}")


class _BehindGate(EdgeServer):
    """The server that is under test, its ASGI events relayed to and from Envoy."""

    def __init__(self, services: Services, port: int, socket_path: Path):
        super().__init__(services)
        self._port = port
        self._socket_path = socket_path

    def listen(self, host, port):
        return self._port

    async def start(self):
        self._relay = await asyncio.start_unix_server(self._take, self._socket_path, backlog=1024)

    async def stop(self, grace_s):
        await super().stop(grace_s)
        self._relay.close()

    async def _take(self, reader, writer):
        scope = await read_object(reader)
        numbers = itertools.count()
        waiting = {}

        async def ask(event=None):
            number = next(numbers)
            waiting[number] = asyncio.get_running_loop().create_future()
            write_object(writer, (number, event))
            result = await waiting[number]
            if isinstance(result, OSError):
                raise result
            return result

        answering = asyncio.create_task(self(scope, ask, ask))
        answering.add_done_callback(lambda _: writer.close())
        while (told := await read_object(reader)) is not None:
            number, result = told
            waiting.pop(number).set_result(result)
        await answering
