"""A BERT encoder in FP16 with two dynamic dimensions on TensorRT-RTX, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.gpu.models import bert_profiles, save_bert, texts
from helpers.gpu_models import (
    SubmitAll,
    assert_close,
    run_on_cpu,
    served_on_lanes,
)

pytestmark = pytest.mark.timeout(300)

MOST_ROWS = 8  # of the profile of many row counts: each is compiled for every length
BULK_ROWS = 16


@dataclass(frozen=True)
class Served:
    file: Path
    submit_all: SubmitAll


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    profiles = bert_profiles(bulk_rows=BULK_ROWS, most_rows=MOST_ROWS)
    file = save_bert(tmp_path_factory.mktemp("bert"), profiles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        with served_on_lanes(file) as submit_all:
            yield Served(file, submit_all)


@pytest.mark.parametrize(
    ("rows", "tokens", "profile", "padded_rows"),
    [
        (1, 32, "online", 1),
        (1, 128, "dynamic", 1),
        (3, 32, "dynamic", 4),
        (8, 128, "dynamic", 8),
        (BULK_ROWS, 128, "offline", BULK_ROWS),
    ],
)
def test_every_lane_answers_as_onnx_runtime_does(bert, rows, tokens, profile, padded_rows):
    inputs = texts(rows, tokens)

    (result,) = bert.submit_all(inputs)

    (launch,) = result.launches
    assert (launch.profile.name, launch.padded_rows) == (profile, padded_rows)
    expected = run_on_cpu(bert.file, inputs)
    assert_close(result.outputs["embedding"], expected)


def test_a_length_that_was_not_warmed_up_is_answered_the_same_way(bert):
    inputs = texts(2, 100)

    (result,) = bert.submit_all(inputs)

    assert_close(result.outputs["embedding"], run_on_cpu(bert.file, inputs))


def test_texts_of_requests_that_share_a_launch_come_back_to_their_owners(bert):
    shapes = [(1, 32), (2, 32), (3, 128), (1, 128), (2, 128), (5, 32)] * 4
    requests = [texts(*shape, seed=i) for i, shape in enumerate(shapes)]

    results = bert.submit_all(*requests)

    for inputs, result in zip(requests, results, strict=True):
        assert_close(result.outputs["embedding"], run_on_cpu(bert.file, inputs))
    launches = [launch for result in results for launch in result.launches]
    assert any(launch.batch_rows > launch.rows for launch in launches)
