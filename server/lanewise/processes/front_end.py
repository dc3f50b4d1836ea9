"""A front-end process: speaks gRPC with clients, and has the engine process run the requests."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

import structlog

from lanewise.clock import SystemClock
from lanewise.ipc.client import EngineLink
from lanewise.ipc.messages import Count
from lanewise.processes.signals import SignalWatch
from lanewise.rpc.front import RpcFront, rpc_front
from lanewise.rpc.transport import TransportFactory
from lanewise.scheduler.registry import ModelRegistry
from lanewise.settings.server import ServerSettings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CountInEngine:
    """Has the engine count the requests, so that the metrics of a server are in one place."""

    link: EngineLink

    def request_finished(
        self, model: str, version: str, profile: str, error: str, latency_ns: int
    ) -> None:
        """See `RequestObserver.request_finished`."""
        self.link.count(Count(model, version, profile, error, latency_ns))


async def run_front_end(
    settings: ServerSettings,
    engine: str,
    transport: TransportFactory,
    watch_signals: SignalWatch,
) -> None:
    """Serve until the engine or a signal says stop.

    Args:
        settings: of the server.
        engine: address of the engine's Unix socket.
        transport: shares its port with those of other front ends.
        watch_signals: how the process hears that it is to stop.

    Raises:
        ConfigError: the port cannot be listened on.
    """
    registry = ModelRegistry()
    link = EngineLink(engine, registry)

    def obey(_: signal.Signals) -> None:
        link.stop()

    watch_signals(obey)
    try:
        async with asyncio.TaskGroup() as tasks:
            linking = tasks.create_task(link.run())
            await link.changed.wait()
            if not link.must_stop.is_set():
                # Not sooner: a transport may take calls as soon as it is made, and no model
                # would be known.
                make = rpc_front(settings, transport)
                front = make(registry, SystemClock(), CountInEngine(link), link)
                await _serve(settings, link, front)
            linking.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    link.close()
    _log.info("front end stopped")


async def _serve(settings: ServerSettings, link: EngineLink, front: RpcFront) -> None:
    front.listen(settings.host, settings.grpc_port)
    await front.start()
    link.tell_of_listening()
    _log.info("front end listening", port=settings.grpc_port)
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(_publish_changes(link, front))
        await link.must_stop.wait()
        await front.close()
        publishing.cancel()


async def _publish_changes(link: EngineLink, front: RpcFront) -> None:
    while True:
        await link.changed.wait()
        link.changed.clear()
        await front.publish()
