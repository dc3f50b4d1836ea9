"""Rows and shapes as they are written on the command line of `lanewise bench`."""

from __future__ import annotations

import pytest

from lanewise.bench.mix import RowShare, parse_rows, parse_shapes, resolve
from lanewise.bench.payloads import build_payloads
from lanewise.errors import ConfigError
from lanewise.model.tensors import DType, TensorSpec
from lanewise_client.protos import inference_pb2 as pb

IMAGES = TensorSpec("X", DType.FP32, (-1, 3, 8, 8))


def test_shares_are_weights_of_all_requests():
    assert parse_rows("1:60%,4:30,128:10%") == (
        RowShare(1, 0.6),
        RowShare(4, 0.3),
        RowShare(128, 0.1),
    )
    assert parse_rows("1,4") == (RowShare(1, 0.5), RowShare(4, 0.5))


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1:", "1:0", "1:-5%", "1:nan", "1:inf"])
def test_rows_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="--rows"):
        parse_rows(text)


def test_the_same_rows_twice_are_refused():
    with pytest.raises(ConfigError, match="4 is given twice"):
        parse_rows("4:10%,4:90%")


def test_a_name_may_have_a_colon_of_its_own():
    shapes = parse_shapes(["input:0=1,3", "tokens:INT64=1,128"])

    assert shapes["input:0"].dtype is None
    assert shapes["tokens"].dtype is DType.INT64
    assert shapes["tokens"].shape == (1, 128)


@pytest.mark.parametrize("text", ["X", "=1,3", "X=1,-3", "X=a"])
def test_shapes_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="--shape"):
        parse_shapes([text])


def test_sizes_the_server_leaves_open_must_be_chosen():
    tokens = TensorSpec("tokens", DType.INT64, (-1, -1))

    with pytest.raises(ConfigError, match="choose one with --shape tokens="):
        resolve([tokens], {})
    (chosen,) = resolve([tokens], parse_shapes(["tokens=4,128"]))
    assert chosen.shape == (4, 128)


@pytest.mark.parametrize("text", ["X=1,3,8", "X=1,3,8,9"])
def test_a_shape_must_fit_the_models(text):
    with pytest.raises(ConfigError, match="does not fit"):
        resolve([IMAGES], parse_shapes([text]))


def test_an_unknown_input_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match="the model has: 'X'"):
        resolve([IMAGES], parse_shapes(["Y=1"]))


def test_a_server_that_tells_no_inputs_needs_datatypes():
    (tensor,) = resolve([], parse_shapes(["X:FP16=2,3"]))
    assert (tensor.dtype, tensor.shape) == (DType.FP16, (2, 3))
    with pytest.raises(ConfigError, match="X:FP32="):
        resolve([], parse_shapes(["X=2,3"]))
    with pytest.raises(ConfigError, match="NAME:DATATYPE=SIZES"):
        resolve([], {})


def test_a_payload_is_a_request_of_its_rows():
    one, many = build_payloads("m", "2", [IMAGES], parse_rows("1,16"), random=True, seed=0)

    message = pb.ModelInferRequest.FromString(many.data)
    assert (one.rows, many.rows) == (1, 16)
    assert (message.model_name, message.model_version) == ("m", "2")
    assert list(message.inputs[0].shape) == [16, 3, 8, 8]
    assert len(message.raw_input_contents[0]) == 16 * 3 * 8 * 8 * 4


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("random", [True, False])
def test_values_of_every_datatype_can_be_sent(dtype, random):
    tensors = [TensorSpec("X", dtype, (-1, 4))]
    (payload,) = build_payloads("m", "", tensors, (), random=random, seed=0)

    message = pb.ModelInferRequest.FromString(payload.data)
    assert message.inputs[0].datatype == dtype.value
    assert list(message.inputs[0].shape) == [1, 4]
