"""Every service of this server, and their methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lanewise.clock import Clock
from lanewise.rpc.engine_calls import LANE_METHODS, LANE_SERVICE, REGION_METHODS, EngineCalls
from lanewise.rpc.health import HEALTH_SERVICE, HealthService
from lanewise.rpc.inference.region_access import RegionAccess
from lanewise.rpc.inference.service import InferenceService, ignore_finished
from lanewise.rpc.methods import Call, RpcMethod, Servicer, methods_of
from lanewise.rpc.reflection import REFLECTION_SERVICE, ReflectionService
from lanewise.scheduler.registry import ModelRegistry
from lanewise.scheduler.results import WhenFinished
from lanewise.settings.server import DEFAULT_SHARED_MEMORY, SharedMemory
from lanewise_client.protos import inference_pb2

INFERENCE_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


@dataclass(frozen=True, slots=True)
class Services:
    """What a transport carries.

    Attributes:
        methods: of all services.
        health: its `publish` must be called whenever a state in the registry has changed,
            and its `close` before the transport is stopped.
        max_message_bytes: the largest request accepted. The methods enforce it; a transport
            may refuse one sooner.
    """

    methods: tuple[RpcMethod, ...]
    health: HealthService
    max_message_bytes: int


def build_services(
    registry: ModelRegistry,
    clock: Clock,
    *,
    max_message_bytes: int,
    engine: EngineCalls,
    shared_memory: SharedMemory = DEFAULT_SHARED_MEMORY,
    when_finished: WhenFinished = ignore_finished,
) -> Services:
    """Build the services for the models of `registry`; used on one event loop.

    Args:
        registry: read at every request, changed by the caller alone.
        clock: measures latencies and deadlines; the one the lanes use.
        max_message_bytes: the largest request accepted; responses are not limited.
        engine: answers the calls that only the process with the lanes can.
        shared_memory: which calls may use it.
        when_finished: is told of every inference request.
    """
    services = (INFERENCE_SERVICE, LANE_SERVICE)
    health = HealthService(service.full_name for service in services)
    access = RegionAccess(shared_memory)
    inference = InferenceService(registry, clock, when_finished, access)

    def require_lanes(request: Any, _: Call) -> None:  # noqa: ANN401 - any of lanewise.v1
        """Refuse here, as inference is, also while there is no engine to refuse it."""
        registry.resolve(request.name, request.version).require_lanes()

    shared = {
        each.name: _forwarded(each, engine, lambda _, call: access.require(call))
        for each in REGION_METHODS
    }
    servicers = {
        INFERENCE_SERVICE: {**inference.methods(), **shared},
        LANE_SERVICE: {each.name: _forwarded(each, engine, require_lanes) for each in LANE_METHODS},
        HEALTH_SERVICE: health.methods(),
        REFLECTION_SERVICE: ReflectionService((*services, HEALTH_SERVICE)).methods(),
    }
    methods = (
        method
        for service, offered in servicers.items()
        for method in methods_of(service, offered, max_message_bytes)
    )
    return Services(tuple(methods), health, max_message_bytes)


def _forwarded(
    method: MethodDescriptor,
    engine: EngineCalls,
    check: Callable[[Any, Call], object],
) -> Servicer:
    """Make the servicer of a method that the engine answers; `check` refuses calls before."""
    response_class = GetMessageClass(method.output_type)

    async def forward(request: Message, call: Call) -> Message:
        check(request, call)
        return response_class.FromString(await engine(method.name, request.SerializeToString()))

    return forward
