"""What a TensorRT runner does beyond the contract of every runner."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from helpers.models import InstantClock, save_onnx, tensor
from helpers.serving import DIGITS
from lanewise.engine.repository import find_models, load_model
from lanewise.engine.runner import Batch
from lanewise.errors import ExecutionFailed
from lanewise.memory.device import GRAPH_BYTES, GRAPH_NODE_BYTES
from lanewise.model_settings import (
    ModelSettings,
    ProfileSettings,
    ShapeRangeSettings,
    read_model_settings,
)
from lanewise.tensors import DYNAMIC, DType


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def digits():
    (source,) = find_models(DIGITS)
    settings = read_model_settings(source.settings_file)
    settings = settings.model_copy(update={"backend": "tensorrt-rtx"})
    model = load_model(source, settings, clock=InstantClock())
    yield {runner.profile.name: runner for runner in model.runners}
    for runner in model.runners:
        runner.close()


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


def test_too_little_memory_fails_that_batch_alone(tmp_path):
    file = save_onnx(
        tmp_path / "wide.onnx",
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
    huge = np.broadcast_to(np.zeros(1, np.float32), (1, 1 << 40))  # 4 TiB, none of it there
    with pytest.raises(ExecutionFailed, match="allocate"):
        runner.run(Batch({"X": [huge]}, 1, 1))
    small = np.ones((1, 8), np.float32)
    np.testing.assert_array_equal(runner.run(Batch({"X": [small]}, 1, 1))["Y"], small)
    runner.close()
