"""ResNet-50 in FP16 on TensorRT-RTX, against the same model on ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.gpu.models import images, resnet_profiles, save_resnet
from helpers.gpu_models import (
    DIFFERENT_IMAGES,
    SubmitAll,
    assert_close,
    run_on_cpu,
    served_on_lanes,
)
from lanewise.model.tensors import Array

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Served:
    submit_all: SubmitAll
    images: Array
    expected: Array

    def request(self, picks: Array) -> dict[str, Array]:
        return {"X": self.images[picks]}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    file = save_resnet(tmp_path_factory.mktemp("resnet"), resnet_profiles())
    pool = images(DIFFERENT_IMAGES)
    expected = run_on_cpu(file, pool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        with served_on_lanes(file) as submit_all:
            yield Served(submit_all, pool["X"], expected)


def picks_of(rows: int, seed: int = 0) -> Array:
    """Choose images in any order; each as often as the others if there are enough rows."""
    repeated = np.resize(np.arange(DIFFERENT_IMAGES), max(rows, DIFFERENT_IMAGES))
    return np.random.default_rng(seed).permutation(repeated)[:rows]


@pytest.mark.parametrize(
    ("rows", "profile", "padded_rows"),
    [(1, "online", 1), (3, "dynamic", 4), (32, "dynamic", 32), (128, "offline", 128)],
)
def test_every_lane_answers_as_onnx_runtime_does(resnet, rows, profile, padded_rows):
    picks = picks_of(rows)

    (result,) = resnet.submit_all(resnet.request(picks))

    (launch,) = result.launches
    assert (launch.profile.name, launch.padded_rows) == (profile, padded_rows)
    assert_close(result.outputs["Y"], resnet.expected[picks])


def test_images_of_requests_that_share_a_launch_come_back_to_their_owners(resnet):
    picks = [picks_of(rows, seed=i) for i, rows in enumerate([1, 3, 2, 7, 1, 5, 20, 4] * 5)]

    results = resnet.submit_all(*(resnet.request(each) for each in picks))

    for each, result in zip(picks, results, strict=True):
        assert_close(result.outputs["Y"], resnet.expected[each])
    launches = [launch for result in results for launch in result.launches]
    assert any(launch.batch_rows > launch.rows for launch in launches)


def test_a_request_larger_than_every_profile_is_split_and_joined(resnet):
    picks = picks_of(128 + 32 + 3)

    (result,) = resnet.submit_all(resnet.request(picks))

    assert sum(launch.rows for launch in result.launches) == len(picks)
    assert len(result.launches) > 1
    assert_close(result.outputs["Y"], resnet.expected[picks])
