"""Shapes that were not warmed up: prepared beside the traffic, then as fast as any other."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from helpers.device import take_all_memory
from helpers.models import InstantClock, save_onnx, tensor
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.errors import ExecutionFailed, RunnerLost
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings, ProfileSettings, ShapeRangeSettings

WIDTH = 64
LONGEST = 2048
COLD = {"X": (1, 48, WIDTH)}
WARM_ROWS, WARM_LENGTH = 4, 32

# Products run in TF32, which keeps 10 bits of mantissa, and errors pass through a softmax.
RELATIVE_TOLERANCE = 2e-2

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Each test begins without compiled kernels."""
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def attention(tmp_path):
    """Every position of X [rows, length, 64] looks at all others."""
    shape = (DYNAMIC, DYNAMIC, WIDTH)
    weights = np.random.default_rng(0).normal(0, 0.02, (WIDTH, WIDTH)).astype(np.float32)
    return save_onnx(
        tmp_path / "attention.onnx",
        [
            helper.make_node("MatMul", ["X", "W"], ["keys"]),
            helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["X", "turned"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
            helper.make_node("MatMul", ["shares", "X"], ["Y"]),
        ],
        [tensor("X", DType.FP32, shape)],
        [tensor("Y", DType.FP32, shape)],
        {"W": weights},
    )


@pytest.fixture
def load(attention):
    """Make runners of the model, warm at lengths 32 and 2048; all closed at the end."""
    made = []

    def load_runner():
        limits = ShapeRangeSettings(
            min=(1, 1, WIDTH),
            opt=(WARM_ROWS, WARM_LENGTH, WIDTH),
            max=(WARM_ROWS, LONGEST, WIDTH),
        )
        settings = ModelSettings(
            backend="tensorrt-rtx", profiles=(ProfileSettings(tensors={"X": limits}),)
        )
        (source,) = find_models(attention)
        (runner,) = load_model(source, settings, clock=InstantClock()).runners
        made.append(runner)
        runner.warm_up()
        return runner

    yield load_runner
    for runner in made:
        runner.close()


def sequences(rows, length, seed=0):
    return np.random.default_rng(seed).random((rows, length, WIDTH), np.float32)


def run(runner, x):
    return runner.run(Batch({"X": [x]}, len(x), len(x)))["Y"]


def seconds_of(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def assert_right(got, x, model):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"X": x})
    tolerance = RELATIVE_TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_warm_up_makes_the_ends_of_the_profile_warm_and_nothing_else(load):
    runner = load()
    lengths = {length: runner.is_warm({"X": (3, length, WIDTH)}) for length in (32, 2048, 48)}
    assert lengths == {32: True, 2048: True, 48: False}


def test_a_cold_shape_is_prepared_beside_warm_runs_and_then_runs_at_once(load, attention):
    runner = load()
    warm = sequences(WARM_ROWS, WARM_LENGTH)
    alone = [seconds_of(lambda: run(runner, warm)) for _ in range(200)]
    memory_before = runner.memory()

    beside = []
    with ThreadPoolExecutor(1) as pool:
        preparing = pool.submit(seconds_of, lambda: runner.prepare(COLD))
        while not preparing.done():
            beside.append(seconds_of(lambda: run(runner, warm)))
        prepare_s = preparing.result()

    print(
        f"prepare {prepare_s:.2f} s; warm runs, median and longest: "
        f"{statistics.median(alone) * 1e3:.2f} and {max(alone) * 1e3:.2f} ms alone, "
        f"{statistics.median(beside) * 1e3:.2f} and {max(beside) * 1e3:.2f} ms beside"
    )
    assert runner.is_warm(COLD)
    assert runner.memory() == memory_before
    assert max(beside) < prepare_s / 2
    assert statistics.median(beside) < 10 * statistics.median(alone)

    cold = {rows: sequences(rows, 48, seed=rows) for rows in runner.row_counts}
    outputs = {}
    first_runs_s = seconds_of(
        lambda: outputs.update({rows: run(runner, x) for rows, x in cold.items()})
    )
    print(f"first runs of {len(cold)} row counts: {first_runs_s * 1e3:.0f} ms")
    assert first_runs_s < prepare_s / 4
    for rows, x in cold.items():
        assert_right(outputs[rows], x, attention)
    assert_right(run(runner, warm), warm, attention)


def test_what_was_compiled_is_kept_for_the_next_start(load, tmp_path):
    def kept():
        return {file: file.read_bytes() for file in tmp_path.rglob("*.kernels")}

    def start():
        runner = load()
        runner.prepare(COLD)
        runner.close()

    compiling_s = seconds_of(start)
    compiled = kept()
    loading_s = seconds_of(start)

    print(f"start {compiling_s:.2f} s, and {loading_s:.2f} s after a restart")
    assert compiled
    assert kept() == compiled, "nothing had to be compiled again"
    assert loading_s < compiling_s


def test_too_little_memory_to_prepare_leaves_the_lane_sound(load, attention):
    runner = load()
    warm = sequences(WARM_ROWS, WARM_LENGTH)
    buffers = take_all_memory()
    try:
        with pytest.raises(ExecutionFailed):
            runner.prepare(COLD)
        assert not runner.is_warm(COLD)
        assert_right(run(runner, warm), warm, attention)
    finally:
        for buffer in buffers:
            buffer.close()

    runner.prepare(COLD)

    x = sequences(1, 48)
    assert_right(run(runner, x), x, attention)


def test_a_shape_outside_the_profile_cannot_be_prepared_and_the_lane_serves_on(load, attention):
    runner = load()
    with pytest.raises(ExecutionFailed, match="X"):
        runner.prepare({"X": (1, LONGEST + 1, WIDTH)})
    warm = sequences(WARM_ROWS, WARM_LENGTH)
    assert_right(run(runner, warm), warm, attention)


def test_a_closed_runner_prepares_nothing(load):
    runner = load()
    runner.close()
    with pytest.raises(RunnerLost, match="closed"):
        runner.prepare(COLD)
