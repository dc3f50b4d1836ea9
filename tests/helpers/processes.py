"""Front-end processes of the product, linked to an engine that is in the test's own process.

What clients talk to is thus what `lanewise serve --frontends N` would give them, while the
lanes and the models behind it are within a test's reach. As in a server, the front ends outlive
an engine: each test brings one of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.linked import until
from lanewise.ipc.server import Server
from lanewise.processes.arguments import ChildArguments, ServeArguments
from lanewise.settings.ports import reserve_port
from lanewise.settings.server import ServerSettings, SharedMemory


class FrontEndProcesses:
    """Processes that listen on one port, all with the same settings."""

    def __init__(
        self,
        transport: str,
        count: int,
        max_message_mb: int,
        shared_memory: SharedMemory,
        log: Path,
    ) -> None:
        self.port = reserve_port("--grpc-port", "127.0.0.1", 0)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address = f"\0lanewise-test-{secrets.token_hex(8)}"
        self.listener.bind(address)
        self.listener.listen()
        settings = ServerSettings(
            Path(),
            "127.0.0.1",
            self.port,
            transport=transport,
            frontends=count,
            max_message_mb=max_message_mb,
            shared_memory=shared_memory,
        )
        serve = ServeArguments(settings, "json", "info")
        child = ChildArguments(serve, address, os.getpid(), (-1, -1))
        command = [sys.executable, "-m", "lanewise.processes.child", "front-end", child.to_json()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with log.open("a") as told:
            self._processes = [
                subprocess.Popen(command, env=environment, stderr=told) for _ in range(count)
            ]

    async def until_told(self, front_ends: Server) -> None:
        """Tell all of them what has become of the models, and wait until clients may see it."""
        count = len(self._processes)
        await until(lambda: len(front_ends._sessions) == count)
        for session in front_ends._sessions:
            session.is_listening = False
        await front_ends.publish()
        await until(lambda: all(session.is_listening for session in front_ends._sessions))

    def end(self) -> None:
        self.listener.close()
        for process in self._processes:
            process.kill()
            process.wait()


class LentFrontEnds(Server):
    """The engine's end of its links to front ends that go on to the next engine."""

    async def close(self) -> None:
        for task in (self._accepting, *self._greeting):
            task.cancel()
        await asyncio.gather(self._accepting, *self._greeting, return_exceptions=True)
        for session in list(self._sessions):
            session.connection.close()
        await until(lambda: not self._sessions)


class ProcessPool:
    """The front-end processes of a test session; those with the same settings are used again."""

    def __init__(self, transport: str, count: int, folder: Path) -> None:
        self._transport = transport
        self._count = count
        self._log = folder / "front-ends.log"
        self._log.touch()
        self._started: dict[tuple[int, SharedMemory], FrontEndProcesses] = {}

    def get(self, max_message_mb: int, shared_memory: SharedMemory) -> FrontEndProcesses:
        key = max_message_mb, shared_memory
        if key not in self._started:
            self._started[key] = FrontEndProcesses(self._transport, self._count, *key, self._log)
        return self._started[key]

    @property
    def log(self) -> str:
        """What all of them have logged, a JSON object a line."""
        return self._log.read_text()

    def end(self) -> None:
        for processes in self._started.values():
            processes.end()


@contextmanager
def process_pool(transport: str, count: int, folder: Path) -> Iterator[ProcessPool]:
    pool = ProcessPool(transport, count, folder)
    try:
        yield pool
    finally:
        pool.end()
