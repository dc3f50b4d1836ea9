"""What was refused is let go of at once, without waiting for garbage to be collected."""

from __future__ import annotations

import gc
import tracemalloc

import grpc
import pytest

from helpers.rpc import EchoLanes, in_event_loop, registry_of, serving
from lanewise_client.protos import inference_pb2 as pb

MESSAGE_BYTES = 4 << 20
UNREADABLE = b"\xff" * MESSAGE_BYTES
FOR_NO_MODEL = pb.ModelInferRequest(
    model_name="none", raw_input_contents=[bytes(MESSAGE_BYTES)]
).SerializeToString()


def unary(channel, message):
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message)


def streamed(channel, message):
    call = channel.stream_unary("/inference.GRPCInferenceService/ModelStreamInfer")
    return call(iter([message]))


def lone_on_a_stream(channel, message):
    return channel.unary_unary("/grpc.health.v1.Health/Watch")(message)


@pytest.mark.parametrize(
    ("call", "message", "code"),
    [
        (unary, FOR_NO_MODEL, "NOT_FOUND"),
        (unary, UNREADABLE, "INVALID_ARGUMENT"),
        (streamed, UNREADABLE, "INVALID_ARGUMENT"),
        (lone_on_a_stream, UNREADABLE, "INVALID_ARGUMENT"),
    ],
)
@in_event_loop
async def test_refused_messages_are_not_kept(call, message, code):
    async with serving(registry_of(EchoLanes()), max_message_bytes=8 << 20) as server:
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(6):
                with pytest.raises(grpc.RpcError) as caught:
                    await call(server.channel, message)
                assert caught.value.code().name == code
                del caught
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()

    assert held_bytes < 3 * MESSAGE_BYTES
