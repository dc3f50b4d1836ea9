"""grpc.health.v1 for the server, its services and each model, from the states in the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from grpc_health.v1 import health_pb2

from lanewise.errors import ModelNotFound
from lanewise.rpc.methods import Call, Servicer, write
from lanewise.scheduler.registry import ModelRegistry

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService:
    """Answers `grpc.health.v1.Health` with what was published last.

    Known names are "" (the server), its services, each model (the version served by default)
    and each version as "name/version".

    The servicer of grpcio-health-checking is not used: when one of two watchers of a name
    leaves, the other never hears of a change again (seen in 1.72.2 and 1.81.1, fixed in
    1.85.1), and its watches cannot be ended before the server stops.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = tuple(services)
        self._statuses: dict[str, int] = {}
        self._closed = False
        self._changed = asyncio.Condition()

    def methods(self) -> Mapping[str, Servicer]:
        return {"Check": self._check, "Watch": self._watch}

    async def publish(self, registry: ModelRegistry) -> None:
        statuses = dict.fromkeys(("", *self._services), _status(registry.is_ready))
        for model in registry:
            status = _status(model.is_ready)
            if model.version:
                statuses[f"{model.name}/{model.version}"] = status
            statuses[model.name] = _status(registry.resolve(model.name).is_ready)
        self._statuses = statuses
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        """End every watch, now and later: an open one would delay the server's stop."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    async def _check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._statuses:
            raise ModelNotFound(
                f"no service or model '{request.service}'; ask for '', a service, 'model' or "
                "'model/version'"
            )
        return health_pb2.HealthCheckResponse(status=self._statuses[request.service])

    async def _watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        told: int | None = None

        def has_news() -> bool:
            return self._closed or self._status_of(request.service) != told

        while not self._closed:
            told = self._status_of(request.service)
            # Outside the lock: a watcher that does not read must not block the others.
            await write(call, health_pb2.HealthCheckResponse(status=told))
            async with self._changed:
                await self._changed.wait_for(has_news)

    def _status_of(self, service: str) -> int:
        return self._statuses.get(service, _SERVICE_UNKNOWN)


def _status(serving: bool) -> int:
    return _SERVING if serving else _NOT_SERVING
