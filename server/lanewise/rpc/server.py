"""The gRPC server with all its services; the ports are added by the caller."""

from __future__ import annotations

import grpc
import grpc.aio

from lanewise.clock import Clock
from lanewise.rpc.handlers import server_options, service_handler
from lanewise.rpc.health import HEALTH_SERVICE, HealthService
from lanewise.rpc.lane_service import LaneService
from lanewise.rpc.observer import IgnoreRequests, RequestObserver
from lanewise.rpc.reflection import REFLECTION_SERVICE, ReflectionService
from lanewise.rpc.service import InferenceService
from lanewise.scheduler.registry import ModelRegistry
from lanewise_client.protos import inference_pb2, lanes_pb2

INFERENCE_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
LANE_SERVICE = lanes_pb2.DESCRIPTOR.services_by_name["LaneService"]


def build_server(
    registry: ModelRegistry,
    clock: Clock,
    *,
    max_message_bytes: int,
    observer: RequestObserver | None = None,
) -> tuple[grpc.aio.Server, HealthService]:
    """Build a server for the models of `registry`; must be called on its event loop.

    Args:
        registry: read at every request, changed by the caller alone.
        clock: measures latencies and deadlines; the same one the lanes use.
        max_message_bytes: the largest request accepted; responses are not limited.
        observer: is told of every inference request.

    Returns:
        The server, not started, without ports; and its health service, whose `publish`
        must be called whenever a state in the registry has changed, and whose `close`
        before the server is stopped.
    """
    services = (INFERENCE_SERVICE, LANE_SERVICE)
    health = HealthService(service.full_name for service in services)
    methods = {
        # gRPC asks the handlers in this order, so the one with the traffic comes first.
        INFERENCE_SERVICE: InferenceService(
            registry, clock, observer or IgnoreRequests()
        ).methods(),
        LANE_SERVICE: LaneService(registry).methods(),
        HEALTH_SERVICE: health.methods(),
        REFLECTION_SERVICE: ReflectionService((*services, HEALTH_SERVICE)).methods(),
    }
    server = grpc.aio.server(
        handlers=[
            service_handler(service, offered, max_message_bytes)
            for service, offered in methods.items()
        ],
        options=server_options(),
    )
    return server, health
