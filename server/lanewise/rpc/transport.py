"""What carries the methods, and the services on it: what clients reach, from start to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias

from lanewise.clock import Clock
from lanewise.rpc.aio import AioServer
from lanewise.rpc.engine_calls import EngineCalls
from lanewise.rpc.services import Services, build_services
from lanewise.scheduler.registry import ModelRegistry
from lanewise.scheduler.results import WhenFinished
from lanewise.settings.server import ServerSettings, read_tls_files

LAME_DUCK_S = 0.25
"""How long new calls are still answered with UNAVAILABLE once every request has ended: a stopping
gRPC server cancels calls it has received and not yet handed over (seen in 1.85)."""
HANDOVER_S = 3.0
"""How long calls may stay open after that, for clients to read their responses."""


class Transport(Protocol):
    """Carries calls from the network to the methods of `Services`, and their responses back.

    Made, started and stopped once, on one event loop.
    """

    def listen(self, host: str, port: int) -> int:
        """Bind a port, 0 for any free one; return its number.

        Raises:
            ConfigError: the port cannot be bound.
        """
        ...

    async def start(self) -> None: ...

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls; cancel those that are still open after `grace_s`."""
        ...


TransportFactory: TypeAlias = Callable[[Services], Transport]


class RpcFront:
    """Answers clients in this process, from the models of a registry."""

    def __init__(self, registry: ModelRegistry, services: Services, transport: Transport) -> None:
        self._registry = registry
        self._health = services.health
        self._transport = transport
        self.is_reachable = False

    def listen(self, host: str, port: int) -> int:
        return self._transport.listen(host, port)

    async def start(self) -> None:
        await self.publish()
        await self._transport.start()
        self.is_reachable = True

    async def publish(self) -> None:
        await self._health.publish(self._registry)

    async def close(self) -> None:
        """Stop once every request has ended; clients may still read their responses."""
        await self._health.close()
        await asyncio.sleep(LAME_DUCK_S)
        await self._transport.stop(HANDOVER_S)


def rpc_front(
    settings: ServerSettings, transport: TransportFactory | None = None
) -> Callable[[ModelRegistry, Clock, WhenFinished, EngineCalls], RpcFront]:
    """Get the factory of the front of a process that speaks gRPC.

    Args:
        settings: of the server.
        transport: makes the transport; None for grpc.aio with a port of its own.
    """

    def make(
        registry: ModelRegistry, clock: Clock, when_finished: WhenFinished, engine: EngineCalls
    ) -> RpcFront:
        services = build_services(
            registry,
            clock,
            max_message_bytes=settings.max_message_mb << 20,
            engine=engine,
            shared_memory=settings.shared_memory,
            when_finished=when_finished,
        )
        carried = aio_transport(settings)(services) if transport is None else transport(services)
        return RpcFront(registry, services, carried)

    return make


def aio_transport(settings: ServerSettings, *, shares_port: bool = False) -> TransportFactory:
    """Get the factory of the transport over grpc.aio; see `AioServer`.

    Raises:
        ConfigError: a file for TLS cannot be read.
    """
    tls = read_tls_files(settings.tls_cert, settings.tls_key)
    return lambda services: AioServer(services, tls, shares_port=shares_port)
