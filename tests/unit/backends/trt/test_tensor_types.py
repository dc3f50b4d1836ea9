"""Which inputs and outputs TensorRT-RTX can build, which is why the others cannot be served."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import helper

from helpers.models import save_onnx, save_onnx_echo, tensor
from helpers.trt_models import bind_rtx, save_conversions, save_operator, save_repeat, save_several
from lanewise.backends.trt.build.builder import build_plan
from lanewise.errors import ConfigError
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings

SETTINGS_FILE = Path("repo/m/model.toml")

BUILT = (
    DType.BOOL,
    DType.UINT8,
    DType.INT8,
    DType.INT32,
    DType.INT64,
    DType.FP16,
    DType.BF16,
    DType.FP32,
    DType.FP8_E4M3FN,
)
REFUSED = (
    DType.UINT16,
    DType.UINT32,
    DType.UINT64,
    DType.INT16,
    DType.FP8_E5M2,
    DType.BYTES,
)


def build(file):
    return build_plan(bind_rtx(), file, ModelSettings(), SETTINGS_FILE)


def refusal(file):
    with pytest.raises(ConfigError) as raised:
        build(file)
    return str(raised.value)


def test_every_datatype_is_accounted_for():
    assert {*BUILT, *REFUSED, DType.FP64} == set(DType)


@pytest.mark.parametrize("dtype", BUILT, ids=lambda each: each.value)
@pytest.mark.parametrize(
    "save", [lambda f, d: save_onnx_echo(f, [tensor("X", d)]), save_conversions]
)
def test_datatypes_cross_as_they_are(tmp_path, dtype, save):
    tensors = build(save(tmp_path / "m.onnx", dtype)).tensors

    assert tensors.inputs[0].dtype is dtype
    assert tensors.outputs[-1].dtype is dtype


@pytest.mark.parametrize("dtype", REFUSED, ids=lambda each: each.value)
def test_other_datatypes_are_refused_in_tensorrts_words(tmp_path, dtype):
    message = refusal(save_onnx_echo(tmp_path / "m.onnx", [tensor("X", dtype)]))

    assert "Failed to convert ONNX date type to TensorRT data type" in message


def test_fp64_is_served_as_fp32(tmp_path):
    tensors = build(save_onnx_echo(tmp_path / "m.onnx", [tensor("X", DType.FP64)])).tensors

    assert [each.dtype for each in (*tensors.inputs, *tensors.outputs)] == [DType.FP32] * 2


def test_fp8_is_refused_by_what_is_no_quantisation(tmp_path):
    file = save_onnx(
        tmp_path / "m.onnx",
        [helper.make_node("Cast", ["X"], ["Y"], to=1)],
        [tensor("X", DType.FP8_E4M3FN)],
        [tensor("Y")],
    )

    assert "Tensor X has datatype FP8 but is not consumed by" in refusal(file)


def test_many_ranks_and_datatypes_go_together(tmp_path):
    tensors = build(save_several(tmp_path / "m.onnx")).tensors

    assert [len(each.shape) for each in tensors.inputs] == [2, 1, 4, 2]
    assert [each.dtype for each in tensors.outputs] == [
        DType.FP32,
        DType.BOOL,
        DType.INT64,
        DType.FP16,
    ]


def test_an_output_may_have_a_size_computed_from_the_data(tmp_path):
    tensors = build(save_repeat(tmp_path / "m.onnx")).tensors

    assert tensors.shape_tensors == frozenset()
    assert tensors.outputs[0].shape == (DYNAMIC,)


@pytest.mark.parametrize(
    ("operator", "output"),
    [
        ("NonZero", tensor("Y", DType.INT64, (3, DYNAMIC))),
        ("Unique", tensor("Y", shape=(DYNAMIC,))),
    ],
)
def test_an_output_of_as_many_elements_as_are_found_is_refused(tmp_path, operator, output):
    assert f"({operator})" in refusal(save_operator(tmp_path / "m.onnx", operator, output))
