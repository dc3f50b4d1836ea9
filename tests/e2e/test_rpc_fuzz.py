from __future__ import annotations

import asyncio
import random

import grpc
import grpc.aio
import pytest

from helpers.log_lines import captured_logs
from helpers.rpc import EchoLanes, in_event_loop, infer_request, registry_of, serving
from helpers.serving import SIMULATED, address_of, running_app
from lanewise.rpc.health import HEALTH_SERVICE
from lanewise.rpc.reflection import REFLECTION_SERVICE
from lanewise.rpc.services import INFERENCE_SERVICE, LANE_SERVICE
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos import lanes_pb2

pytestmark = pytest.mark.usefixtures("each_transport")

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
        with captured_logs() as logs:
            ends = {
                await status_of(server.channel, method, fuzzed_bytes(source)) for _ in range(100)
            }
        response = await server.inference.ModelInfer(infer_request(id="still here"))

    assert ends <= HONEST
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert response.id == "still here"


def fuzzed_explain(source):
    shape = [source.choice([-(2**62), -1, 0, 1, 7, 128, 513, 10**8, 2**62]) for _ in range(2)]
    return lanes_pb2.ExplainRouteRequest(
        name="encoder",
        inputs=[
            {"name": source.choice(["token_ids", "Z"]), "shape": shape[: source.randint(0, 2)]}
        ],
        profile=source.choice(["", "0", "-1", "99", "9" * 5000, "online-short", "\x00"]),
    ).SerializeToString()


def fuzzed_infer(source):
    shape = [source.choice([-1, 0, 1, 2, 9, 600]), source.choice([-1, 0, 1, 33, 513])]
    elements = max(0, shape[0]) * max(0, shape[1]) + source.choice([0, 0, 0, 1])
    request = pb.ModelInferRequest(
        model_name=source.choice(["encoder", "encoder", "encoder", "x"]),
        inputs=[{"name": "token_ids", "datatype": "INT32", "shape": shape}],
        raw_input_contents=[bytes(4 * elements)],
    )
    if source.random() < 0.5:
        request.parameters["profile"].string_param = source.choice(["9" * 5000, "1", "x"])
    return request.SerializeToString()


def test_no_request_upsets_real_lanes():
    source = random.Random(11)

    async def scenario():
        async with (
            running_app(SIMULATED) as app,
            grpc.aio.insecure_channel(address_of(app)) as channel,
        ):
            explain = LANE_SERVICE.methods_by_name["ExplainRoute"]
            infer = INFERENCE_SERVICE.methods_by_name["ModelInfer"]
            ends = set()
            with captured_logs() as logs:
                for _ in range(300):
                    ends.add(await status_of(channel, explain, fuzzed_explain(source)))
                    ends.add(await status_of(channel, infer, fuzzed_infer(source)))
        assert ends <= HONEST
        assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= ends
        assert [line for line in logs if line["log_level"] == "error"] == []

    asyncio.run(scenario())
