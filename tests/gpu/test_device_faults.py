"""Real faults of CUDA and TensorRT; tests/e2e has what clients see of them without a device."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from onnx import helper

from helpers.models import InstantClock, save_onnx, save_onnx_echo, tensor
from helpers.serving import DIGITS, address_of, running_app, server_process
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.errors import ExecutionFailed
from lanewise.settings.model import ModelSettings, ProfileSettings, ShapeRangeSettings
from lanewise_client import AsyncClient, Client, DeviceLost, ModelFailed

FAULTY_SERVER = Path(__file__).with_name("faulty_server.py")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_a_lost_device_fails_the_request_turns_health_and_ends_the_server_with_1():
    image = np.zeros((1, 3, 28, 28), np.float32)
    arguments = ("--backend", "tensorrt-rtx")
    with server_process(DIGITS, *arguments, program=(str(FAULTY_SERVER),)) as server:
        process = server.process
        with (
            Client(server.address, timeout_s=60) as client,
            grpc.insecure_channel(server.address) as channel,
        ):
            watch = HealthStub(channel).Watch(HealthCheckRequest(service="digits"), timeout=60)
            assert next(watch).status == HealthCheckResponse.SERVING
            client.infer("digits", {"X": image})

            process.stdin.write("\n")
            process.stdin.flush()
            outcome = process.stdout.readline().strip()
            assert outcome.startswith("cudaError")

            with pytest.raises(DeviceLost, match="the device is lost"):
                client.infer("digits", {"X": image})
            assert next(watch).status == HealthCheckResponse.NOT_SERVING
        said = process.stderr.read()
        assert process.wait(timeout=60) == 1, said
    last = said.rstrip().splitlines()[-1]
    assert last.startswith("lanewise: ")
    assert last.endswith("the server stops, for its supervisor to start a new one")


def test_a_model_whose_warm_up_fails_is_not_ready_and_tells_why(tmp_path):
    settings = 'backend = "tensorrt-rtx"\nbatching = true\n'
    save_onnx(
        tmp_path / "doubled" / "1" / "model.onnx",
        [helper.make_node("Concat", ["X", "X"], ["Y"], axis=0)],
        [tensor("X")],
        [tensor("Y")],
    )
    save_onnx_echo(tmp_path / "echo" / "1" / "model.onnx", [tensor("X")])
    for name in ("doubled", "echo"):
        (tmp_path / name / "model.toml").write_text(settings)

    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=60) as client,
        ):
            x = np.ones((2, 3), np.float32)
            assert not await client.is_model_ready("doubled")
            with pytest.raises(ModelFailed, match="cannot be cut into rows"):
                await client.infer("doubled", {"X": x})
            np.testing.assert_array_equal((await client.infer("echo", {"X": x}))["echo_X"], x)

    asyncio.run(scenario())


class Interposed:
    """A context that does everything as `inner` does, but calls `before` ahead of `enqueue`."""

    def __init__(self, inner, before):
        self._inner = inner
        self._before = before

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def enqueue(self):
        self._before()
        self._inner.enqueue()


def synchronise(stream):
    """Do what is not allowed while `stream` is captured, and invalidates the capture."""
    return stream.synchronize


def refuse_to_be_captured(stream):
    """Fail as TensorRT does if it is captured at a bad time."""
    from cuda.bindings import runtime

    def before():
        _, status = runtime.cudaStreamIsCapturing(stream.handle)
        if status != runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone:
            raise ExecutionFailed("not now")

    return before


@pytest.mark.parametrize("fault", [synchronise, refuse_to_be_captured])
def test_what_cannot_be_captured_is_executed_without_a_graph(fault, tmp_path):
    file = save_onnx(
        tmp_path / "sum.onnx",
        [helper.make_node("Add", ["X", "X"], ["Y"])],
        [tensor("X")],
        [tensor("Y")],
    )
    limits = ShapeRangeSettings(min=(1, 3), opt=(4, 3), max=(8, 3))
    settings = ModelSettings(
        backend="tensorrt-rtx", profiles=(ProfileSettings(tensors={"X": limits}),)
    )
    (source,) = find_models(file)
    (runner,) = load_model(source, settings, clock=InstantClock()).runners
    runner._executor._context = Interposed(runner._context, fault(runner._stream))

    runner.warm_up()
    for seed in range(4):
        x = np.random.default_rng(seed).random((8, 3), np.float32)
        np.testing.assert_array_equal(runner.run(Batch({"X": [x]}, 8, 8))["Y"], 2 * x)

    counts = runner.graph_counts()
    assert (counts.launches, counts.held) == (0, 0)
    assert counts.misses["not_capturable"] > 0
    runner.close()
