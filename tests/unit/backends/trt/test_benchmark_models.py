"""The models of the GPU benchmark and the GPU tests, as far as they can be tried without a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gpu.models import (
    bert_profiles,
    images,
    resnet_profiles,
    save_bert,
    save_resnet,
    texts,
)
from helpers.gpu_models import DIFFERENT_IMAGES, FP16_TOLERANCE, least_difference, run_on_cpu
from helpers.trt_models import bind_rtx
from lanewise.backends.trt.build.builder import build_plan
from lanewise.settings.model import read_model_settings


@pytest.mark.parametrize(
    ("save", "profiles"), [(save_resnet, resnet_profiles()), (save_bert, bert_profiles())]
)
def test_a_plan_is_built_with_the_three_profiles_of_its_settings(tmp_path, save, profiles):
    binding = bind_rtx()
    file = save(tmp_path, profiles)
    settings_file = tmp_path / "model.toml"

    plan = build_plan(binding, file, read_model_settings(settings_file), settings_file)

    assert [profile.name for profile in plan.profiles] == ["online", "dynamic", "offline"]
    assert plan.data


def test_images_differ_by_more_than_the_tolerance_they_are_compared_with(tmp_path):
    file = save_resnet(tmp_path, resnet_profiles())
    assert least_difference(run_on_cpu(file, images(DIFFERENT_IMAGES))) > 2 * FP16_TOLERANCE


@pytest.mark.parametrize("tokens", [32, 128])
def test_texts_differ_by_more_than_the_tolerance_they_are_compared_with(tmp_path, tokens):
    file = save_bert(tmp_path, bert_profiles())
    assert least_difference(run_on_cpu(file, texts(16, tokens))) > 2 * FP16_TOLERANCE


def test_padding_behind_the_mask_does_not_change_an_embedding(tmp_path):
    file = save_bert(tmp_path, bert_profiles())
    short = texts(4, 32)
    longer = {name: np.pad(array, ((0, 0), (0, 96))) for name, array in short.items()}
    # The longest text of four has no padding in the shorter form.
    np.testing.assert_allclose(
        run_on_cpu(file, longer), run_on_cpu(file, short), rtol=0, atol=FP16_TOLERANCE
    )
