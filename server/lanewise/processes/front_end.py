"""A front-end process: speaks gRPC with clients, and has the engine process run the requests."""

from __future__ import annotations

import asyncio

import structlog

from lanewise.clock import SystemClock
from lanewise.ipc.client import Client
from lanewise.processes.signals import SignalWatch
from lanewise.rpc.transport import RpcFront, TransportFactory, rpc_front
from lanewise.scheduler.registry import ModelRegistry
from lanewise.settings.server import ServerSettings

_log = structlog.get_logger(__name__)


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
    registry = ModelRegistry(settings.ready_when)
    link = Client(engine, registry)

    watch_signals(lambda _: link.stop())
    try:
        async with asyncio.TaskGroup() as tasks:
            linking = tasks.create_task(link.run())
            await link.changed.wait()
            if not link.must_stop.is_set():
                # Not sooner: a transport may take calls as soon as it is made, and no model
                # would be known.
                make = rpc_front(settings, transport)
                front = make(registry, SystemClock(), link.count, link.ask)
                await _serve(settings, link, front)
            linking.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    link.close()
    _log.info("front end stopped")


async def _serve(settings: ServerSettings, link: Client, front: RpcFront) -> None:
    front.listen(settings.host, settings.grpc_port)
    await front.start()
    link.tell_of_listening()
    _log.info("front end listening", port=settings.grpc_port)
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(_publish_changes(link, front))
        await link.must_stop.wait()
        await front.close()
        publishing.cancel()


async def _publish_changes(link: Client, front: RpcFront) -> None:
    while True:
        await link.changed.wait()
        link.changed.clear()
        await front.publish()
