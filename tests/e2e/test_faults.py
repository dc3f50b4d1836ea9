"""What clients, health and the process see of a fault; tests/gpu makes real ones."""

from __future__ import annotations

import asyncio

import grpc.aio
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from helpers.models import save_onnx, save_simulated_echo, tensor
from helpers.serving import SIMULATED, address_of, running_app
from lanewise import errors
from lanewise.model.tensors import DYNAMIC, DType, TensorSpec
from lanewise_client import AsyncClient, DeadlineExpired, DeviceLost, ExecutionFailed, ModelFailed

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

            asked = [3, 1000, 5, 7, -1000, 9] * 10  # so many that some wait, and are stacked
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


def save_loop(file):
    """A model that multiplies a matrix as often as its input `n` says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["v", "W"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, (None, 8)),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, (None, 8)),
        ],
    )
    nodes = [
        helper.make_node("Squeeze", ["n", "axis"], ["times"]),
        helper.make_node("Loop", ["times", "true", "X"], ["Y"], body=body),
    ]
    constants = {
        "W": np.eye(8, dtype=np.float32),
        "true": np.array(True),
        "axis": np.array([0]),
    }
    x, y = (TensorSpec(name, DType.FP32, (DYNAMIC, 8)) for name in "XY")
    save_onnx(file, nodes, [x, TensorSpec("n", DType.INT64, (1,))], [y], constants)


def loop_of(times):
    return {"X": np.ones((1, 8), np.float32), "n": np.array([times])}


def test_a_launch_whose_callers_have_gone_is_ended_and_frees_its_lane(tmp_path):
    save_loop(tmp_path / "loop" / "1" / "model.onnx")

    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            endless = [client.infer("loop", loop_of(10**12 + i), timeout_s=0.3) for i in range(3)]
            for outcome in await asyncio.gather(*endless, return_exceptions=True):
                assert isinstance(outcome, DeadlineExpired)
            after = await client.infer("loop", loop_of(3), timeout_s=10)
            np.testing.assert_array_equal(after["Y"], np.ones((1, 8)))
            assert await client.is_ready()

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [line["event"] for line in logs].count("launch ended") == 2, "one on each lane"


def test_a_launch_that_nobody_waits_for_does_not_keep_the_server_from_stopping(tmp_path):
    save_loop(tmp_path / "loop" / "1" / "model.onnx")
    apps = []

    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            apps.append(app)
            with pytest.raises(DeadlineExpired):
                await client.infer("loop", loop_of(10**12), timeout_s=0.3)

    asyncio.run(scenario())
    assert not apps[0].must_leave_at_once
