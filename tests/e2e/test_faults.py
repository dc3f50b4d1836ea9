"""What clients, health and the process see of a fault; tests/gpu makes real ones."""

from __future__ import annotations

import asyncio

import grpc.aio
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from onnx import helper

from helpers.models import save_onnx, save_simulated_echo, tensor
from helpers.serving import SIMULATED, address_of, running_app
from lanewise import errors
from lanewise.model.tensors import DYNAMIC, DType, TensorSpec
from lanewise_client import AsyncClient, DeviceLost, ExecutionFailed, ModelFailed

pytestmark = pytest.mark.usefixtures("each_transport")


def lose_device(batch):
    raise errors.DeviceLost("an illegal address was read")


async def next_status(watch) -> int:
    return (await asyncio.wait_for(watch.read(), 10)).status


def test_a_lost_device_fails_the_request_with_the_reason_and_ends_the_server():
    apps = []

    async def scenario():
        async with (
            running_app(SIMULATED) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
            grpc.aio.insecure_channel(address_of(app)) as channel,
        ):
            apps.append(app)
            watch = HealthStub(channel).Watch(HealthCheckRequest(service="encoder"))
            assert await next_status(watch) == HealthCheckResponse.SERVING
            lanes = app.registry.resolve("encoder").require_lanes()
            for runner in lanes._launcher.runners:
                runner.run = lose_device
            tokens = np.zeros(lanes.spec.profiles[0].ranges["token_ids"].opt, np.int32)

            with pytest.raises(DeviceLost, match="an illegal address was read"):
                await client.infer("encoder", {"token_ids": tokens})

            assert await next_status(watch) == HealthCheckResponse.NOT_SERVING

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(errors.RunnerLost, match="illegal address .* supervisor")
    assert apps[0].must_leave_at_once


def test_a_model_whose_warm_up_fails_is_not_ready_and_tells_why(tmp_path):
    save_simulated_echo(tmp_path / "echo" / "1" / "model.sim.toml", [tensor("X")])
    save_onnx(
        tmp_path / "doubled" / "1" / "model.onnx",
        [helper.make_node("Concat", ["X", "X"], ["Y"], axis=0)],
        [tensor("X")],
        [tensor("Y")],
    )
    (tmp_path / "doubled" / "model.toml").write_text('batching = true\nbackend = "onnxruntime"\n')

    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            x = np.ones((2, 3), np.float32)
            assert not await client.is_model_ready("doubled")
            with pytest.raises(ModelFailed, match="cannot be cut into rows"):
                await client.infer("doubled", {"X": x})
            np.testing.assert_array_equal((await client.infer("echo", {"X": x}))["echo_X"], x)

    asyncio.run(scenario())


def test_an_id_outside_the_table_fails_its_own_request_alone(tmp_path):
    save_onnx(
        tmp_path / "table" / "1" / "model.onnx",
        [helper.make_node("Gather", ["T", "ids"], ["Y"])],
        [TensorSpec("ids", DType.INT64, (DYNAMIC, 2))],
        [TensorSpec("Y", DType.FP32, (DYNAMIC, 2))],
        {"T": np.arange(100, dtype=np.float32)},
    )
    (tmp_path / "table" / "model.toml").write_text("max_queue_delay_ms = 50\n")

    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):

            def ask(i):
                return client.infer("table", {"ids": np.full((1, 2), i)})

            asked = [3, 1000, 5, 7, -1000, 9]
            outcomes = await asyncio.gather(*map(ask, asked), return_exceptions=True)
            lanes = (await client.lanes("table")).lanes
        for i, outcome in zip(asked, outcomes, strict=True):
            if abs(i) == 1000:
                assert isinstance(outcome, ExecutionFailed)
                assert "out of data bounds" in str(outcome)
            else:
                np.testing.assert_array_equal(outcome["Y"], np.full((1, 2), i))
        assert sum(lane.counters.repeated_launches for lane in lanes) > 0

    asyncio.run(scenario())
