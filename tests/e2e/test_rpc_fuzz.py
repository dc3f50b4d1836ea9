from __future__ import annotations

import random

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from helpers.rpc import EchoLanes, in_event_loop, infer_request, registry_of, serving
from lanewise.rpc.health import HEALTH_SERVICE
from lanewise.rpc.reflection import REFLECTION_SERVICE
from lanewise.rpc.server import INFERENCE_SERVICE, LANE_SERVICE
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos import lanes_pb2

METHODS = [
    method
    for service in (INFERENCE_SERVICE, LANE_SERVICE, HEALTH_SERVICE, REFLECTION_SERVICE)
    for method in service.methods
]

# Bytes from the network are never the server's fault, nor something it cannot name.
HONEST = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNIMPLEMENTED",
    "RESOURCE_EXHAUSTED",
    "CANCELLED",
}

SEEDS = [
    infer_request(id="a").SerializeToString(),
    infer_request(parameters={"profile": {"string_param": "wide"}}).SerializeToString(),
    pb.ModelReadyRequest(name="echo", version="1").SerializeToString(),
    lanes_pb2.ExplainRouteRequest(
        name="echo", inputs=[{"name": "X", "shape": [1, 3]}]
    ).SerializeToString(),
]


def fuzzed_bytes(source):
    """Noise, or a valid message with some of its bytes changed, cut off or repeated."""
    if source.random() < 0.3:
        return source.randbytes(source.randrange(60))
    data = bytearray(source.choice(SEEDS))
    for _ in range(source.randrange(4)):
        data[source.randrange(len(data))] = source.randrange(256)
    if source.random() < 0.3:
        data = data[: source.randrange(len(data))]
    return bytes(data * source.choice([1, 1, 2]))


async def status_of(channel, method, data):
    """The status a call with this one message ends with; a watch is left at its first word."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            call = channel.stream_stream(path)(iter([data]))
            [_ async for _ in call]
        elif method.server_streaming:
            call = channel.unary_stream(path)(data)
            await call.read()
            call.cancel()
        else:
            call = channel.unary_unary(path)(data)
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return (await call.code()).name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
@in_event_loop
async def test_no_bytes_upset_the_server(method):
    source = random.Random(method.full_name)

    async with serving(registry_of(EchoLanes())) as server:
        with capture_logs() as logs:
            ends = {
                await status_of(server.channel, method, fuzzed_bytes(source)) for _ in range(100)
            }
        response = await server.inference.ModelInfer(infer_request(id="still here"))

    assert ends <= HONEST
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert response.id == "still here"
