"""The digits model on TensorRT-RTX, against the same model on ONNX Runtime."""

from __future__ import annotations

import asyncio

import numpy as np
import onnxruntime
import pytest

from helpers.serving import DIGITS, address_of, running_app
from lanewise_client import AsyncClient

MODEL_FILE = DIGITS / "digits" / "1" / "model.onnx"

# Convolutions may run in TF32, which keeps 10 bits of mantissa: 1e-3 for each of four layers.
RELATIVE_TOLERANCE = 5e-3


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def images(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 3, 28, 28), np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(MODEL_FILE, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x})[0]


@pytest.mark.timeout(300)
def test_auto_serves_on_tensorrt_and_answers_as_onnx_runtime_does():
    async def scenario():
        async with (
            running_app(DIGITS) as app,
            AsyncClient(address_of(app), timeout_s=60) as client,
        ):
            metadata = await client.model_metadata("digits")
            assert metadata.backend == "tensorrt-rtx"
            assert [p.name for p in metadata.profiles] == ["online", "dynamic", "offline"]
            # Which of the lanes that fit is taken follows from costs measured on this device.
            for rows, profiles in (
                (1, {"online", "dynamic"}),
                (3, {"dynamic", "offline"}),
                (32, {"dynamic", "offline"}),
                (128, {"dynamic", "offline"}),
            ):
                result = await client.infer("digits", {"X": images(rows)})
                assert set(result.profile.split(",")) <= profiles
                reference = expected(images(rows))
                tolerance = RELATIVE_TOLERANCE * np.abs(reference).max()
                np.testing.assert_allclose(result["logits"], reference, rtol=0, atol=tolerance)
            sizes = [1, 1, 2, 4, 5, 7, 32, 100, 128, 300] * 6
            results = await asyncio.gather(
                *(client.infer("digits", {"X": images(rows, i)}) for i, rows in enumerate(sizes))
            )
            for i, (rows, result) in enumerate(zip(sizes, results, strict=True)):
                reference = expected(images(rows, i))
                tolerance = RELATIVE_TOLERANCE * np.abs(reference).max()
                np.testing.assert_allclose(result["logits"], reference, rtol=0, atol=tolerance)
            lanes = (await client.lanes("digits")).lanes
        for lane in lanes:
            memory = lane.memory
            on_device = (memory.tensor_bytes, memory.scratch_bytes, memory.graph_bytes)
            assert lane.device_bytes == sum(on_device) > 0
            assert memory.pinned_bytes == lane.host_bytes > 0
            assert lane.graphs is not None
            assert min(lane.graphs.launches, lane.graphs.held) > 0
        assert sum(lane.counters.rows for lane in lanes) >= sum(sizes)

    asyncio.run(scenario())
