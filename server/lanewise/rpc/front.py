"""The services on their transport: what clients reach, from start to stop."""

from __future__ import annotations

import asyncio

from lanewise.rpc.services import Services
from lanewise.rpc.transport import Transport
from lanewise.scheduler.registry import ModelRegistry

LAME_DUCK_S = 0.25
"""How long calls are still answered, UNAVAILABLE, once every request has ended: gRPC ends what
it has received and not yet handed over when a server stops with CANCELLED (seen in 1.85)."""
HANDOVER_S = 3.0
"""How long calls may stay open after that, for responses to be read."""


class RpcFront:
    """Answers clients in this process, from the models of a registry."""

    def __init__(self, registry: ModelRegistry, services: Services, transport: Transport) -> None:
        self._registry = registry
        self._health = services.health
        self._transport = transport

    def listen(self, host: str, port: int) -> int:
        """Get the port that calls will come in by; see `Transport.listen`."""
        return self._transport.listen(host, port)

    async def start(self) -> None:
        """Return once calls are taken in."""
        await self.publish()
        await self._transport.start()

    async def publish(self) -> None:
        """Tell clients what has become of the models."""
        await self._health.publish(self._registry)

    async def close(self) -> None:
        """Stop, once every request has ended: clients may still read their responses."""
        await self._health.close()
        await asyncio.sleep(LAME_DUCK_S)
        await self._transport.stop(HANDOVER_S)
