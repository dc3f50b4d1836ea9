"""What a TensorRT runner does beyond the contract of every runner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import helper

from helpers.models import InstantClock, save_onnx, tensor
from helpers.serving import DIGITS

pytest.importorskip("cuda.bindings")

from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.backends.trt.slots import SMALL_BYTES
from lanewise.errors import ExecutionFailed
from lanewise.memory.device import GRAPH_BYTES, GRAPH_NODE_BYTES
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import (
    ModelSettings,
    ProfileSettings,
    ShapeRangeSettings,
    read_model_settings,
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def load_digits():
    loaded = []

    def load(**tensorrt):
        (source,) = find_models(DIGITS)
        settings = read_model_settings(source.settings_file)
        tables = settings.tensorrt.model_copy(update=tensorrt)
        settings = settings.model_copy(update={"backend": "tensorrt-rtx", "tensorrt": tables})
        loaded.append(load_model(source, settings, clock=InstantClock()))
        return {runner.profile.name: runner for runner in loaded[-1].runners}

    yield load
    for model in loaded:
        for runner in model.runners:
            runner.close()


@pytest.fixture
def digits(load_digits):
    return load_digits()


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, 3, 28, 28), np.float32)


def batch_of(rows: int, padded_rows: int) -> Batch:
    return Batch({"X": [images(rows)]}, rows, padded_rows)


def test_row_counts_are_powers_of_two_and_the_ends_of_the_profile(digits):
    counts = {name: runner.row_counts for name, runner in digits.items()}
    assert counts == {"online": (1,), "dynamic": (1, 2, 4, 8, 16, 32), "offline": (128,)}


def test_after_warm_up_every_row_count_is_the_launch_of_a_graph(digits):
    runner = digits["dynamic"]
    runner.warm_up()
    misses, hits = runner.graphs.misses.total(), runner.graphs.hits
    for rows in runner.row_counts * 3:
        runner.run(batch_of(rows, rows))
    assert runner.graphs.misses.total() == misses
    assert runner.graphs.hits == hits + 3 * len(runner.row_counts)


def test_graphs_give_what_execution_without_them_gives(digits):
    runner = digits["dynamic"]
    first = runner.run(batch_of(3, 4))["logits"]  # compiles, no graph
    for _ in range(4):  # captures and launches, in both slots
        np.testing.assert_array_equal(runner.run(batch_of(3, 4))["logits"][:3], first[:3])


def test_graphs_are_counted_by_their_nodes_however_small_they_are(digits):
    runner = digits["online"]
    runner.warm_up()
    held = runner.graph_counts().held
    assert held > 0
    assert runner.memory().graph_bytes >= held * (GRAPH_BYTES + GRAPH_NODE_BYTES)


def test_buffers_are_made_for_the_maximum_and_do_not_grow(digits):
    runner = digits["dynamic"]
    runner.warm_up()
    before = runner.memory()
    for rows in (1, 32, 5, 32):
        runner.run(batch_of(rows, 32))
    assert runner.memory() == before


def echo_runner(folder):
    """A runner of Y = X for X of 1 to 2 rows, 1 to 64 wide."""
    file = save_onnx(
        folder / "wide.onnx",
        [helper.make_node("Identity", ["X"], ["Y"])],
        [tensor("X", DType.FP32, (DYNAMIC, DYNAMIC))],
        [tensor("Y", DType.FP32, (DYNAMIC, DYNAMIC))],
    )
    limits = ShapeRangeSettings(min=(1, 1), opt=(1, 8), max=(2, 64))
    settings = ModelSettings(
        backend="tensorrt-rtx", profiles=(ProfileSettings(tensors={"X": limits}),)
    )
    (source,) = find_models(file)
    (runner,) = load_model(source, settings, clock=InstantClock()).runners
    return runner


def test_a_started_batch_is_one_launch_of_a_graph(digits):
    runner = digits["dynamic"]
    runner.warm_up()
    before = runner.graph_counts()
    runner.start(batch_of(3, 4)).result()
    after = runner.graph_counts()
    assert after.launches == before.launches + 1
    assert after.misses == before.misses


def test_a_batch_is_not_started_before_its_graphs_are_captured(digits):
    runner = digits["dynamic"]
    batch = batch_of(3, 4)
    outcomes = []
    for _ in range(3):  # compiles; captures in one slot; captures in the other
        outcomes.append(runner.start(batch))
        runner.run(batch)
    assert outcomes == [None, None, None]
    assert runner.start(batch).result()


def test_a_batch_that_takes_long_to_copy_is_not_started(digits):
    runner = digits["offline"]
    runner.warm_up()
    assert images(128).nbytes > SMALL_BYTES
    assert runner.start(batch_of(128, 128)) is None


@pytest.mark.parametrize(
    "tensorrt", [{"poll": False}, {"shared_scratch": (("online", "dynamic"),)}]
)
def test_nothing_is_started_where_polling_is_off_or_scratch_is_shared(tensorrt, load_digits):
    runner = load_digits(**tensorrt)["dynamic"]
    runner.warm_up()
    assert runner.start(batch_of(4, 4)) is None


def test_started_batches_and_runs_on_threads_do_not_disturb_each_other(digits):
    runner = digits["dynamic"]
    runner.warm_up()
    counts = (1, 3, 8, 20, 32)
    padded = {1: 1, 3: 4, 8: 8, 20: 32, 32: 32}
    expected = {n: runner.run(batch_of(n, padded[n]))["logits"][:n] for n in counts}

    def run_many():
        for n in counts * 40:
            got = runner.run(batch_of(n, padded[n]))["logits"][:n]
            np.testing.assert_array_equal(got, expected[n])

    started = 0
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_many)
        while not running.done():
            for n in reversed(counts):
                pending = runner.start(batch_of(n, padded[n]))
                if pending is not None:
                    got = pending.result()["logits"][:n]
                    np.testing.assert_array_equal(got, expected[n])
                    started += 1
        running.result()
    assert started


def test_graphs_are_not_launched_on_buffers_that_have_moved(tmp_path):
    runner = echo_runner(tmp_path)
    x = np.arange(8, dtype=np.float32).reshape(1, 8)
    for _ in range(4):  # captured in both slots
        runner.run(Batch({"X": [x]}, 1, 1))
    held = runner.graph_counts().held
    for _ in range(2):  # in both slots: wider than the profile, for which the buffers grow
        with pytest.raises(ExecutionFailed):
            runner.run(Batch({"X": [np.ones((1, 4096), np.float32)]}, 1, 1))
    assert runner.start(Batch({"X": [x]}, 1, 1)) is None
    for _ in range(4):
        np.testing.assert_array_equal(runner.run(Batch({"X": [x + 1]}, 1, 1))["Y"], x + 1)
    assert runner.graph_counts().held == held
    runner.close()


def test_small_and_large_batches_take_turns_in_the_same_buffers(tmp_path):
    file = save_onnx(
        tmp_path / "sum.onnx",
        [helper.make_node("Add", ["X", "X"], ["Y"])],
        [tensor("X", DType.FP32, (DYNAMIC, DYNAMIC))],
        [tensor("Y", DType.FP32, (DYNAMIC, DYNAMIC))],
    )
    wide = SMALL_BYTES // 4
    limits = ShapeRangeSettings(min=(1, 1), opt=(1, wide), max=(8, wide))
    settings = ModelSettings(
        backend="tensorrt-rtx", profiles=(ProfileSettings(tensors={"X": limits}),)
    )
    (source,) = find_models(file)
    (runner,) = load_model(source, settings, clock=InstantClock()).runners
    for seed in range(12):  # each kind compiles, is captured in both slots, and launched
        for rows in (1, 8, 8):  # at the limit, and above it; so that the slots change over
            x = np.random.default_rng(seed).random((rows, wide), np.float32)
            np.testing.assert_array_equal(runner.run(Batch({"X": [x]}, rows, rows))["Y"], 2 * x)
    assert runner.graph_counts().held == 4
    runner.close()


def test_too_little_memory_fails_that_batch_alone(tmp_path):
    runner = echo_runner(tmp_path)
    huge = np.broadcast_to(np.zeros(1, np.float32), (1, 1 << 40))  # 4 TiB, none of it there
    with pytest.raises(ExecutionFailed, match="allocate"):
        runner.run(Batch({"X": [huge]}, 1, 1))
    small = np.ones((1, 8), np.float32)
    np.testing.assert_array_equal(runner.run(Batch({"X": [small]}, 1, 1))["Y"], small)
    runner.close()
