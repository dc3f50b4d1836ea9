from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.rpc import NARROW, WIDE, spec_of
from lanewise.errors import (
    DTypeMismatch,
    InvalidRequest,
    MalformedContents,
    NoProfileAdmits,
    ShapeMismatch,
    UnknownProfile,
    UnknownTensor,
    Unsupported,
)
from lanewise.model.raw_contents import raw_from_array
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.rpc.inference.codec import Codec, profile_names
from lanewise.scheduler.results import InferResult, LaunchReport
from lanewise.scheduler.routing import Router
from lanewise_client.datatypes import TYPED_LISTS
from lanewise_client.protos import inference_pb2 as pb

TWO = spec_of(("X", DType.FP32, (DYNAMIC, 3)), ("N", DType.INT8, (DYNAMIC,)))

ALL = list(DType)
TYPED = [dtype for dtype in ALL if dtype.value in TYPED_LISTS]


def example_of(dtype):
    """A (2, 2) array that holds the extremes of `dtype`."""
    if dtype is DType.BYTES:
        return np.array([[b"", b"\x00\xff"], [b"lane", b"\x04\x00\x00\x00"]], object)
    if dtype.numpy.kind in "iu":
        info = np.iinfo(dtype.numpy)
        values = [info.min, info.max, 0, 1]
    else:
        values = [0, 1, 1, 0] if dtype is DType.BOOL else [-1.5, 0.0, 2.0, 448.0]
    return np.array(values, dtype.numpy).reshape(2, 2)


def one_input(dtype):
    return spec_of(("X", dtype, (DYNAMIC, 2)))


def raw_request(*tensors):
    """A request of (name, datatype, shape, raw bytes)."""
    request = pb.ModelInferRequest(model_name="echo")
    for name, datatype, shape, raw in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def typed_request(datatype, shape, name="X", **contents):
    request = pb.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    tensor.contents.CopyFrom(pb.InferTensorContents(**contents))
    return request


def two_inputs():
    return raw_request(("X", "FP32", (1, 3), bytes(12)), ("N", "INT8", (1,), b"\x05"))


def respond(spec, arrays, *, raw=True, request=None):
    codec = Codec(spec)
    selection = codec.select_outputs(request or pb.ModelInferRequest(), raw=raw)
    outputs = {f"out.{name}": array for name, array in arrays.items()}
    return codec.encode_response("id-7", selection, InferResult(outputs, ()), "wide")


@pytest.mark.parametrize("dtype", ALL)
def test_raw_contents_survive_the_way_in_and_out(dtype):
    array = example_of(dtype)
    spec = one_input(dtype)
    raw = raw_from_array(array, dtype)

    decoded = Codec(spec).decode_inputs(raw_request(("X", dtype.value, (2, 2), raw)))["X"]
    response = respond(spec, {"X": decoded})

    assert decoded.dtype == dtype.numpy
    assert decoded.shape == (2, 2)
    assert decoded.tolist() == array.tolist()
    assert response.outputs[0].datatype == dtype.value
    assert list(response.outputs[0].shape) == [2, 2]
    assert list(response.raw_output_contents) == [raw]


@pytest.mark.parametrize("dtype", TYPED)
def test_typed_contents_survive_the_way_in_and_out(dtype):
    array = example_of(dtype)
    spec = one_input(dtype)
    response = respond(spec, {"X": array}, raw=False)
    request = pb.ModelInferRequest(model_name="echo")
    sent = request.inputs.add(name="X", datatype=dtype.value, shape=(2, 2))
    sent.contents.CopyFrom(response.outputs[0].contents)

    decoded = Codec(spec).decode_inputs(request)["X"]

    assert not response.raw_output_contents
    assert decoded.dtype == dtype.numpy
    assert decoded.tolist() == array.tolist()


def test_raw_bytes_elements_follow_their_little_endian_length():
    raw = raw_from_array(np.array([b"ab", b""], object), DType.BYTES)

    assert raw == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def test_raw_inputs_are_read_only_views():
    decoded = Codec(TWO).decode_inputs(two_inputs())

    assert not decoded["X"].flags.writeable
    assert not decoded["X"].flags.owndata


def test_a_view_of_a_larger_batch_is_encoded_row_major():
    batch = np.arange(12, dtype=np.float32).reshape(4, 3)

    response = respond(spec_of(("X", DType.FP32, (DYNAMIC, 2))), {"X": batch[1:3, ::2]})

    assert response.raw_output_contents[0] == np.array([[3, 5], [6, 8]], "<f4").tobytes()


@pytest.mark.parametrize("dtype", ALL)
def test_a_scalar_has_one_element(dtype):
    scalar = example_of(dtype)[1, 0:1].reshape(())
    spec = spec_of(("X", dtype, ()))

    decoded = Codec(spec).decode_inputs(
        raw_request(("X", dtype.value, (), raw_from_array(scalar, dtype)))
    )["X"]

    assert decoded.shape == ()
    assert decoded.tolist() == scalar.tolist()


@pytest.mark.parametrize("dtype", ALL)
def test_a_tensor_without_elements_is_decoded(dtype):
    decoded = Codec(one_input(dtype)).decode_inputs(raw_request(("X", dtype.value, (0, 2), b"")))[
        "X"
    ]

    assert decoded.shape == (0, 2)
    assert decoded.dtype == dtype.numpy


@pytest.mark.parametrize("dtype", TYPED)
def test_a_tensor_without_elements_needs_no_typed_contents(dtype):
    decoded = Codec(one_input(dtype)).decode_inputs(typed_request(dtype.value, (0, 2)))["X"]

    assert decoded.shape == (0, 2)
    assert decoded.dtype == dtype.numpy


@pytest.mark.parametrize("dtype", [dtype for dtype in ALL if dtype.value not in TYPED_LISTS])
def test_datatypes_without_typed_list_travel_raw_only(dtype):
    codec = Codec(one_input(dtype))

    with pytest.raises(Unsupported, match=rf"{dtype.value} has no typed contents; send it raw"):
        codec.decode_inputs(typed_request(dtype.value, (1, 1), fp32_contents=[1.0]))
    with pytest.raises(Unsupported, match=r"leave out .* 'binary_data_output'"):
        codec.select_outputs(pb.ModelInferRequest(), raw=False)


@pytest.mark.parametrize(
    ("dtype", "field", "value"),
    [
        (DType.INT8, "int_contents", 128),
        (DType.INT8, "int_contents", -129),
        (DType.INT16, "int_contents", 32768),
        (DType.UINT8, "uint_contents", 256),
        (DType.UINT16, "uint_contents", 65536),
    ],
)
def test_a_typed_element_out_of_range_is_refused_and_not_wrapped(dtype, field, value):
    request = typed_request(dtype.value, (2, 1), **{field: [1, value]})

    with pytest.raises(MalformedContents, match=rf"element {value} is not an {dtype.value}"):
        Codec(one_input(dtype)).decode_inputs(request)


def beside_x(request):
    """Add the input "X" of TWO, with one row."""
    tensor = request.inputs.add(name="X", datatype="FP32", shape=(1, 3))
    tensor.contents.fp32_contents.extend([0, 0, 0])
    return request


MALFORMED = {
    "byte count against shape": (
        raw_request(("X", "FP32", (2, 3), bytes(12)), ("N", "INT8", (1,), b"1")),
        MalformedContents,
        r"input 'X': 12 raw bytes, but shape \[2, 3\] of FP32 takes 24",
    ),
    "unknown input": (
        raw_request(("Z", "FP32", (1, 3), bytes(12))),
        UnknownTensor,
        "input 'Z': no such input; the model has 'X', 'N'",
    ),
    "missing input": (
        raw_request(("N", "INT8", (1,), b"1")),
        UnknownTensor,
        "'X' missing among the inputs; send all of 'X', 'N'",
    ),
    "duplicate input": (
        raw_request(("N", "INT8", (1,), b"1"), ("N", "INT8", (1,), b"1")),
        InvalidRequest,
        "input 'N': sent twice",
    ),
    "wrong datatype": (
        raw_request(("N", "UINT8", (1,), b"1")),
        DTypeMismatch,
        "input 'N': datatype UINT8, but the model takes INT8",
    ),
    "unknown datatype": (
        raw_request(("N", "INT4", (1,), b"1")),
        DTypeMismatch,
        "input 'N': unknown datatype 'INT4'; the model takes INT8",
    ),
    "negative dimension": (
        raw_request(("N", "INT8", (-1,), b"1")),
        ShapeMismatch,
        r"shape \[-1\] has a negative dimension",
    ),
    "two negative dimensions": (
        raw_request(("N", "INT8", (-1, -1), b"1")),
        ShapeMismatch,
        r"shape \[-1, -1\] has a negative dimension",
    ),
    "shape that overflows": (
        raw_request(("N", "INT8", (2**62, 4), b"")),
        ShapeMismatch,
        "larger than any message",
    ),
    "empty shape that overflows": (
        raw_request(("N", "INT8", (0, 2**62, 2**62), b"")),
        ShapeMismatch,
        "larger than any message",
    ),
    "too many dimensions": (
        raw_request(("N", "INT8", (1,) * 33, b"1")),
        ShapeMismatch,
        "33 dimensions; at most 32",
    ),
    "raw entry missing": (
        pb.ModelInferRequest(inputs=[{"name": "X"}, {"name": "N"}], raw_input_contents=[bytes(12)]),
        MalformedContents,
        "1 entries in raw_input_contents for 2 inputs",
    ),
    "raw and typed mixed": (
        pb.ModelInferRequest(
            inputs=[{"name": "X"}, {"name": "N", "contents": {"int_contents": [1]}}],
            raw_input_contents=[bytes(12), b"1"],
        ),
        MalformedContents,
        "input 'N': typed contents beside raw_input_contents",
    ),
    "typed count against shape": (
        beside_x(typed_request("INT8", (3,), "N", int_contents=[1, 2])),
        MalformedContents,
        r"2 elements in int_contents, but shape \[3\] takes 3",
    ),
    "no contents at all": (
        beside_x(typed_request("INT8", (3,), "N")),
        MalformedContents,
        r"0 elements in int_contents, but shape \[3\] takes 3",
    ),
    "typed list of another type": (
        beside_x(typed_request("INT8", (1,), "N", int_contents=[1], fp32_contents=[1.0])),
        MalformedContents,
        "fp32_contents is filled, but INT8 belongs into int_contents",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_inputs_that_make_no_sense_are_refused_with_the_reason(case):
    request, error_class, text = MALFORMED[case]

    with pytest.raises(error_class, match=text) as caught:
        Codec(TWO).decode_inputs(request)

    assert type(caught.value) is error_class


def test_empty_typed_contents_beside_raw_ones_are_no_contents():
    request = two_inputs()
    request.inputs[0].contents.SetInParent()

    assert Codec(TWO).decode_inputs(request).keys() == {"X", "N"}


@pytest.mark.parametrize(
    ("raw", "shape", "text"),
    [
        (b"\x01\x00\x00", (1,), "3 bytes are too few for the 1 BYTES elements"),
        (b"\x05\x00\x00\x00abc", (1,), "element 0 claims 5 bytes, but only 3 are left"),
        (b"\x00\x00\x00\x00", (2,), "4 bytes are too few for the 2 BYTES elements"),
        (b"\x00\x00\x00\x00" * 2, (1,), "4 bytes are left after the 1 BYTES elements"),
        (b"", (2**40,), "0 bytes are too few for the 1099511627776 BYTES elements"),
    ],
)
def test_broken_bytes_framing_is_refused_with_the_place(raw, shape, text):
    with pytest.raises(MalformedContents, match=text):
        Codec(spec_of(("X", DType.BYTES, (DYNAMIC,)))).decode_inputs(
            raw_request(("X", "BYTES", shape, raw))
        )


def test_a_raw_bool_other_than_zero_and_one_is_refused():
    with pytest.raises(MalformedContents, match="a raw BOOL must be a byte 0 or 1"):
        Codec(one_input(DType.BOOL)).decode_inputs(raw_request(("X", "BOOL", (1, 2), b"\x01\x02")))


def test_outputs_come_in_model_order_unless_they_are_named():
    arrays = {"X": np.zeros((1, 3), np.float32), "N": np.zeros(1, np.int8)}
    named = pb.ModelInferRequest(outputs=[{"name": "out.N"}, {"name": "out.X"}])

    every = respond(TWO, arrays)
    chosen = respond(TWO, arrays, request=named)

    assert [output.name for output in every.outputs] == ["out.X", "out.N"]
    assert [len(raw) for raw in every.raw_output_contents] == [12, 1]
    assert [output.name for output in chosen.outputs] == ["out.N", "out.X"]
    assert [len(raw) for raw in chosen.raw_output_contents] == [1, 12]


@pytest.mark.parametrize(
    ("outputs", "error_class", "text"),
    [
        ([{"name": "Y"}], UnknownTensor, "output 'Y': no such output; the model has 'out.X'"),
        ([{"name": "out.X"}] * 2, InvalidRequest, "output 'out.X': requested twice"),
        (
            [{"name": "out.X", "parameters": {"classification": {"int64_param": 3}}}],
            Unsupported,
            "output 'out.X': classification is not offered",
        ),
        (
            [{"name": "out.X", "parameters": {"shared_memory_region": {"string_param": "r"}}}],
            InvalidRequest,
            "output 'out.X': 'shared_memory_region' without 'shared_memory_byte_size'",
        ),
    ],
)
def test_requested_outputs_that_cannot_be_had_are_refused(outputs, error_class, text):
    with pytest.raises(error_class, match=text):
        Codec(TWO).select_outputs(pb.ModelInferRequest(outputs=outputs), raw=True)


def test_a_response_tells_who_served_it_and_how():
    launches = (
        LaunchReport(WIDE, 3, 5, 8, queue_ns=1, execution_ns=1),
        LaunchReport(NARROW, 1, 1, 1, queue_ns=1, execution_ns=1),
        LaunchReport(WIDE, 3, 4, 4, queue_ns=1, execution_ns=1),
    )
    codec = Codec(TWO)
    selection = codec.select_outputs(pb.ModelInferRequest(), raw=True)
    outputs = {"out.X": np.zeros((7, 3), np.float32), "out.N": np.zeros(7, np.int8)}
    result = InferResult(outputs, launches)

    response = codec.encode_response("id-7", selection, result, profile_names(result))

    assert (response.model_name, response.model_version, response.id) == ("echo", "1", "id-7")
    assert dict(response.parameters) == {
        "profile": pb.InferParameter(string_param="wide,narrow"),
        "padded_rows": pb.InferParameter(int64_param=13),
        "batch_rows": pb.InferParameter(int64_param=10),
        "launches": pb.InferParameter(int64_param=3),
    }


EVERY_DTYPE = spec_of(*((dtype.value, dtype, (DYNAMIC, DYNAMIC)) for dtype in DType))
ONE_OF_EACH = [spec_of((dtype.value, dtype, (DYNAMIC,))) for dtype in DType]

datatypes = st.sampled_from([dtype.value for dtype in DType]) | st.text(max_size=3)
sizes = st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1)
contents = st.builds(
    pb.InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=3),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=1),
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=3),
    fp32_contents=st.lists(st.floats(width=32), max_size=3),
    bytes_contents=st.lists(st.binary(max_size=3), max_size=3),
)
tensors = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=datatypes,
    datatype=datatypes,
    shape=st.lists(sizes, max_size=3),
    contents=contents | st.none(),
)
requests = st.builds(
    pb.ModelInferRequest,
    inputs=st.lists(tensors, max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=40), max_size=3),
)


def decodes_or_refuses(request, spec):
    try:
        arrays = Codec(spec).decode_inputs(request)
    except (InvalidRequest, Unsupported):
        return
    for tensor in spec.inputs:
        assert arrays[tensor.name].dtype == tensor.dtype.numpy


@given(request=requests, spec=st.sampled_from([EVERY_DTYPE, *ONE_OF_EACH]))
def test_any_request_decodes_or_is_refused(request, spec):
    decodes_or_refuses(request, spec)


@given(
    dtype=st.sampled_from(list(DType)),
    shape=st.lists(sizes, max_size=3),
    raw=st.binary(max_size=64),
)
def test_any_raw_bytes_decode_or_are_refused(dtype, shape, raw):
    spec = spec_of(("X", dtype, (DYNAMIC,)))
    decodes_or_refuses(raw_request(("X", dtype.value, shape, raw)), spec)


@given(dtype=st.sampled_from(list(DType)), shape=st.lists(sizes, max_size=3), contents=contents)
def test_any_typed_contents_decode_or_are_refused(dtype, shape, contents):
    request = typed_request(dtype.value, shape)
    request.inputs[0].contents.CopyFrom(contents)
    decodes_or_refuses(request, spec_of(("X", dtype, (DYNAMIC,))))


STRINGS = spec_of(("X", DType.BYTES, (DYNAMIC, 3)))
UNREADABLE = b"\xff" * 12


@pytest.mark.parametrize("sent_raw", [True, False])
@pytest.mark.parametrize(
    ("shape", "profile", "error"),
    [
        ((3,), None, ShapeMismatch),
        ((1, 4), None, ShapeMismatch),
        ((1001, 3), "narrow", NoProfileAdmits),
        ((10**9, 3), None, NoProfileAdmits),
        ((1, 3), "absent", UnknownProfile),
    ],
)
def test_contents_of_a_request_without_a_route_are_not_read(sent_raw, shape, profile, error):
    if sent_raw:
        request = raw_request(("X", "BYTES", shape, UNREADABLE))
    else:
        request = typed_request("BYTES", shape, bytes_contents=[b"x"])

    with pytest.raises(error):
        Codec(STRINGS, Router(STRINGS).route).decode_inputs(request, profile)


def test_contents_are_not_read_if_another_input_is_wrong():
    spec = spec_of(("X", DType.BYTES, (DYNAMIC, 3)), ("N", DType.INT8, (DYNAMIC,)))
    request = raw_request(("X", "BYTES", (1, 3), UNREADABLE), ("N", "INT64", (1,), bytes(8)))

    with pytest.raises(DTypeMismatch):
        Codec(spec).decode_inputs(request)
