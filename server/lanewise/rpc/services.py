"""Every service of this server, and their methods."""

from __future__ import annotations

from dataclasses import dataclass

from lanewise.clock import Clock
from lanewise.model.regions import RegionCalls
from lanewise.rpc.health import HEALTH_SERVICE, HealthService
from lanewise.rpc.inference.observer import IgnoreRequests, RequestObserver
from lanewise.rpc.inference.region_access import RegionAccess
from lanewise.rpc.inference.service import InferenceService
from lanewise.rpc.inference.shared_memory import RegionService
from lanewise.rpc.lanes import LaneService
from lanewise.rpc.methods import RpcMethod, methods_of
from lanewise.rpc.reflection import REFLECTION_SERVICE, ReflectionService
from lanewise.scheduler.registry import ModelRegistry
from lanewise.settings.server import DEFAULT_SHARED_MEMORY, SharedMemory
from lanewise_client.protos import inference_pb2, lanes_pb2

INFERENCE_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
LANE_SERVICE = lanes_pb2.DESCRIPTOR.services_by_name["LaneService"]


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
    regions: RegionCalls,
    shared_memory: SharedMemory = DEFAULT_SHARED_MEMORY,
    observer: RequestObserver | None = None,
) -> Services:
    """Build the services for the models of `registry`; used on one event loop.

    Args:
        registry: read at every request, changed by the caller alone.
        clock: measures latencies and deadlines; the one the lanes use.
        max_message_bytes: the largest request accepted; responses are not limited.
        regions: registers shared memory for the lanes.
        shared_memory: which calls may use it.
        observer: is told of every inference request.
    """
    services = (INFERENCE_SERVICE, LANE_SERVICE)
    health = HealthService(service.full_name for service in services)
    access = RegionAccess(shared_memory)
    inference = InferenceService(registry, clock, observer or IgnoreRequests(), access)
    servicers = {
        INFERENCE_SERVICE: {**inference.methods(), **RegionService(regions, access).methods()},
        LANE_SERVICE: LaneService(registry).methods(),
        HEALTH_SERVICE: health.methods(),
        REFLECTION_SERVICE: ReflectionService((*services, HEALTH_SERVICE)).methods(),
    }
    methods = (
        method
        for service, offered in servicers.items()
        for method in methods_of(service, offered, max_message_bytes)
    )
    return Services(tuple(methods), health, max_message_bytes)
