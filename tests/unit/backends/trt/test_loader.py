"""What can be told about a plan without a GPU, and that the rest is told in TensorRT's words."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from helpers.models import save_onnx_echo, tensor
from helpers.trt_models import (
    bind_lean,
    bind_rtx,
    import_tensorrt,
    load_refusal,
    plan_header,
    save_matmul,
    save_plan,
)
from lanewise.backends.trt.build.builder import build_plan
from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings


@pytest.fixture
def load_engine():
    import_tensorrt("cuda")
    from lanewise.backends.trt.loader import load_engine

    return load_engine


@pytest.fixture(scope="module")
def rtx_plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtx")
    onnx_file = save_matmul(folder / "m.onnx")
    return save_plan(
        folder, build_plan(bind_rtx(), onnx_file, ModelSettings(), Path("m.toml")).data
    )


def test_an_onnx_model_is_no_plan(load_engine, tmp_path):
    file = save_onnx_echo(tmp_path / "model.plan", [tensor("X")])

    with pytest.raises(ConfigError, match="is not a TensorRT plan"):
        load_engine(bind_rtx(), file)


def test_a_plan_of_the_other_backend_is_refused_by_name(load_engine, tmp_path):
    file = save_plan(tmp_path, plan_header(b"ftrt"))

    with pytest.raises(ConfigError) as raised:
        load_engine(bind_rtx(), file)

    assert str(raised.value) == (
        f"{file}: was built for backend 'tensorrt' (version 10.7.0.23), but the backend is "
        "'tensorrt-rtx'; set backend to 'tensorrt' or 'auto', or build the plan again for this one"
    )


def test_a_plan_of_tensorrt_rtx_is_refused_by_the_other_backend(load_engine, rtx_plan):
    with pytest.raises(ConfigError, match="was built for backend 'tensorrt-rtx'"):
        load_engine(bind_lean(), rtx_plan)


@pytest.fixture
def refusal_without_gpu(load_engine, monkeypatch):
    """Why a plan is not loaded by a process that sees no GPU, also on a machine that has one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda bind, file: pool.submit(load_refusal, bind, file).result(60)


def test_without_a_gpu_an_edition_that_would_end_the_process_is_not_asked(
    refusal_without_gpu, tmp_path
):
    bind_lean()  # or the test is skipped
    file = save_plan(tmp_path, plan_header(b"ftrt") + bytes(1000))

    assert "nvidia-smi" in refusal_without_gpu(bind_lean, file)


def test_without_a_gpu_a_sound_plan_is_refused_with_the_reason(refusal_without_gpu, rtx_plan):
    refusal = refusal_without_gpu(bind_rtx, rtx_plan)

    version = bind_rtx().version
    assert refusal.startswith(
        f"{rtx_plan}: TensorRT-RTX {version} cannot load this plan, which was built by version "
        f"{version}: "
    )
    assert "CUDA driver" in refusal or "no CUDA-capable device" in refusal
    assert "lanewise build" in refusal


def test_a_plan_of_another_version_is_refused_with_both(load_engine, tmp_path, rtx_plan):
    content = bytearray(rtx_plan.read_bytes())
    content[24:28] = bytes((1, 5, 0, 99))
    file = save_plan(tmp_path, content)

    with pytest.raises(ConfigError) as raised:
        load_engine(bind_rtx(), file)

    assert f"{bind_rtx().name} cannot load this plan" in str(raised.value)
    assert "built by version 1.5.0.99" in str(raised.value)
