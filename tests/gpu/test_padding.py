"""Texts of different lengths in one launch of a BERT encoder on TensorRT-RTX."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gpu.models import VOCABULARY, save_bert
from helpers.gpu_models import assert_close, run_on_cpu, served_on_lanes
from helpers.models import profile_entry, save_onnx_echo, tensor
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.clock import SystemClock
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import read_model_settings

pytestmark = pytest.mark.timeout(300)

PADDING = """
[padding]
dimension = "tokens"
inputs = { input_ids = 1, attention_mask = 1 }
buckets = [16, 32, 64]
"""

SHAPES = {"only": ((1, 1), (4, 32), (8, 64))}
LENGTHS = [3, 12, 16, 17, 30, 40, 63, 64, 5, 33] * 3


def whole_text(rows, tokens, seed):
    """Texts without any padding of their own."""
    draw = np.random.default_rng(seed)
    return {
        "input_ids": draw.integers(1, VOCABULARY, (rows, tokens)),
        "attention_mask": np.ones((rows, tokens), np.int64),
    }


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    profiles = {
        name: {"input_ids": corners, "attention_mask": corners} for name, corners in SHAPES.items()
    }
    file = save_bert(folder, profiles, layers=2)
    settings = folder / "model.toml"
    settings.write_text(settings.read_text() + PADDING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        with served_on_lanes(file) as submit_all:
            yield file, submit_all


def test_texts_of_different_lengths_in_one_launch_are_answered_as_one_by_one(bert):
    file, submit_all = bert
    requests = [whole_text(1 + i % 2, length, seed=i) for i, length in enumerate(LENGTHS)]

    results = submit_all(*requests)

    for inputs, result in zip(requests, results, strict=True):
        assert_close(result.outputs["embedding"], run_on_cpu(file, inputs))
    launches = [launch for result in results for launch in result.launches]
    assert {launch.padded_length for launch in launches} <= {16, 32, 64}
    assert any(launch.batch_rows > launch.rows for launch in launches)


@pytest.mark.parametrize("width", [2, 4096])  # 4 MiB are copied by several threads
def test_pieces_of_different_lengths_are_completed_with_the_value(tmp_path, monkeypatch, width):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path / "cache"))
    file = save_onnx_echo(
        tmp_path / "echo.onnx", [tensor("X", DType.FP32, (DYNAMIC, DYNAMIC, width))]
    )
    (tmp_path / "model.toml").write_text(
        'backend = "tensorrt-rtx"\nbatching = true\n'
        "[padding]\ninputs = { X = 1 }\nvalues = { X = -0.5 }\noutputs = { echo_X = 1 }\n"
        "buckets = [64]\n" + profile_entry(X=[(1, 1, width), (8, 64, width), (8, 64, width)])
    )
    draw = np.random.default_rng(0)
    shapes = [(1, 64), (2, 40), (1, 1), (3, 63)]
    pieces = [draw.random((*shape, width), np.float32) for shape in shapes]
    (source,) = find_models(file)
    settings = read_model_settings(source.settings_file)
    (runner,) = load_model(source, settings, clock=SystemClock()).runners

    try:
        outputs = runner.run(Batch({"X": pieces}, 7, 8, {"X": (64, width)}))
    finally:
        runner.close()

    rows = np.split(outputs["echo_X"], np.cumsum([count for count, _ in shapes]))
    for piece, got in zip(pieces, rows, strict=False):
        np.testing.assert_array_equal(got[:, : piece.shape[1]], piece)
        assert np.all(got[:, piece.shape[1] :] == -0.5)
    assert not rows[-1].any(), "rows that nobody sent are blank"


def test_no_length_has_to_be_compiled_for_when_it_comes(bert):
    _, submit_all = bert

    results = submit_all(*(whole_text(1, length, seed=length) for length in (1, 15, 29, 61)))

    assert not any(result.was_cold for result in results)
