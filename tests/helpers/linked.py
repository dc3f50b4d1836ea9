"""Both ends of a link in one event loop, over a real Unix socket."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from lanewise.ipc.client import Client
from lanewise.ipc.server import Server
from lanewise.memory.regions import Regions
from lanewise.model.regions import RegionCalls
from lanewise.rpc.engine_calls import engine_calls
from lanewise.scheduler.registry import ModelRegistry
from lanewise.scheduler.results import WhenFinished


@dataclass
class Counts:
    """What the engine has been told of requests that ended."""

    finished: list[tuple[str, str, str, str, int]] = field(default_factory=list)

    def __call__(self, model: str, version: str, profile: str, error: str, latency_ns: int) -> None:
        self.finished.append((model, version, profile, error, latency_ns))


class Engine:
    """The engine's end, as often as a test wants an engine; the listener outlives them."""

    def __init__(
        self, when_finished: WhenFinished | None = None, regions: RegionCalls | None = None
    ) -> None:
        self.address = f"\0lanewise-test-{secrets.token_hex(8)}"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.address)
        self.listener.listen()
        self.counts = Counts()
        self.when_finished = when_finished or self.counts
        self.regions = regions or Regions()
        self.front_ends: Server | None = None

    async def start(self, registry: ModelRegistry) -> Server:
        self.front_ends = Server(
            registry, self.when_finished, engine_calls(registry, self.regions), self.listener
        )
        await self.front_ends.start()
        return self.front_ends

    async def die(self) -> None:
        """End all links without a word, as a process that is killed does."""
        front_ends, self.front_ends = self.front_ends, None
        if front_ends is None:
            return
        front_ends._accepting.cancel()
        with suppress(asyncio.CancelledError):
            await front_ends._accepting
        for session in list(front_ends._sessions):
            session.connection._transport.abort()
        await until(lambda: not front_ends._sessions)

    @property
    def blocks(self) -> int:
        """How many blocks of results are not free."""
        return sum(session._writer._arena.blocks for session in self.front_ends._sessions)


@dataclass
class FrontEnd:
    """The front end's end."""

    registry: ModelRegistry
    link: Client

    @property
    def blocks(self) -> int:
        """How many blocks of inputs are not free."""
        return self.link._session._writer._arena.blocks

    @property
    def lanes(self):
        """The lanes of the only model."""
        (model,) = self.registry
        return model.require_ready()


@asynccontextmanager
async def front_end_of(engine: Engine) -> AsyncIterator[FrontEnd]:
    """Connect a front end, and wait until it knows the models."""
    registry = ModelRegistry()
    link = Client(engine.address, registry)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(link.run())
        await link.changed.wait()
        link.changed.clear()
        try:
            yield FrontEnd(registry, link)
        finally:
            running.cancel()
            link.close()


@asynccontextmanager
async def linked(
    registry: ModelRegistry,
    when_finished: WhenFinished | None = None,
    regions: RegionCalls | None = None,
) -> AsyncIterator[tuple[FrontEnd, Engine]]:
    """Link a front end to an engine with these models."""
    engine = Engine(when_finished, regions)
    with engine.listener:
        await engine.start(registry)
        async with front_end_of(engine) as front_end:
            yield front_end, engine
        await engine.die()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks, or another process, will bring about."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
