import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanewise.model.tensors import DType
from lanewise_client import codec
from lanewise_client.errors import ServingError
from lanewise_client.protos import inference_pb2 as pb


def answer(datatype, shape, raw=None, **typed):
    """Make an answer with the one output Y."""
    response = pb.ModelInferResponse()
    output = response.outputs.add(name="Y", datatype=datatype, shape=shape)
    if raw is not None:
        response.raw_output_contents.append(raw)
    for field, elements in typed.items():
        getattr(output.contents, field).extend(elements)
    return response


def ones(dtype):
    return (
        np.full((2, 1), b"one", np.object_)
        if dtype is DType.BYTES
        else np.ones((2, 1), dtype.numpy)
    )


@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.value)
def test_every_datatype_of_the_server_can_be_sent(dtype):
    tensor, _ = codec.encode("X", ones(dtype))

    assert (tensor.datatype, list(tensor.shape)) == (dtype.value, [2, 1])


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2, 3], [4, 5, 6]], ">f4"),
        np.asfortranarray(np.array([[1, 2, 3], [4, 5, 6]], "<f4")),
        np.array([[6, 5, 4], [3, 2, 1]], "<f4")[::-1, ::-1],
        np.array([[1, 0, 2, 0, 3], [4, 0, 5, 0, 6]], ">f4")[:, ::2],
    ],
    ids=["big-endian", "column-major", "reversed", "strided and big-endian"],
)
def test_any_layout_is_sent_little_endian_and_row_major(array):
    tensor, raw = codec.encode("X", array)

    assert (tensor.datatype, list(tensor.shape)) == ("FP32", [2, 3])
    assert raw == np.arange(1, 7, dtype="<f4").tobytes()


def test_text_is_sent_behind_its_length():
    _, raw = codec.encode("X", np.array(["ü", b"ab", ""], np.object_))

    assert raw == b"\x02\0\0\0\xc3\xbc" + b"\x02\0\0\0ab" + b"\0\0\0\0"


def test_a_dtype_that_cannot_be_sent_is_refused_with_those_that_can():
    with pytest.raises(TypeError) as caught:
        codec.encode("X", np.zeros(1, np.complex64))

    assert str(caught.value) == (
        "input 'X' has dtype complex64, but what can be sent is bool, uint8, uint16, uint32, "
        "uint64, int8, int16, int32, int64, float16, float32, float64, bfloat16, float8_e4m3fn, "
        "float8_e5m2, and bytes or str; convert it with astype"
    )


def test_what_is_no_array_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"input 'X' is a list, not a numpy array; make one"):
        codec.encode("X", [1.0, 2.0])


def test_objects_other_than_text_are_refused_by_their_position():
    with pytest.raises(TypeError, match=r"input 'X': element 1 is a int"):
        codec.encode("X", np.array([b"a", 3], np.object_))


@pytest.mark.parametrize(
    ("datatype", "field", "elements", "dtype"),
    [
        ("BOOL", "bool_contents", [True, False], np.bool_),
        ("UINT8", "uint_contents", [0, 255], np.uint8),
        ("UINT16", "uint_contents", [0, 65535], np.uint16),
        ("UINT32", "uint_contents", [0, 2**32 - 1], np.uint32),
        ("UINT64", "uint64_contents", [0, 2**64 - 1], np.uint64),
        ("INT8", "int_contents", [-128, 127], np.int8),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1], np.int16),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1], np.int32),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1], np.int64),
        ("FP32", "fp32_contents", [0.5, -1.5], np.float32),
        ("FP64", "fp64_contents", [0.1, -1e300], np.float64),
        ("BYTES", "bytes_contents", [b"a", b""], np.object_),
    ],
)
def test_typed_contents_are_understood(datatype, field, elements, dtype):
    array = codec.decode(answer(datatype, [2, 1], **{field: elements}))["Y"]

    assert (array.dtype, array.shape) == (dtype, (2, 1))
    assert array.ravel().tolist() == elements


def test_every_bit_pattern_of_bfloat16_is_widened_exactly():
    bits = np.arange(2**16, dtype=np.uint16)

    widened = codec.decode(answer("BF16", [2**16], bits.tobytes()))["Y"]

    np.testing.assert_array_equal(widened, bits.view(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (answer("FP32", [2], b"1234567"), "7 bytes of raw contents"),
        (answer("FP32", [2], b"1234"), "1 elements"),
        (answer("FP32", [-1], b"1234"), "1 elements"),
        (answer("BYTES", [1], b"\3\0\0\0ab"), "an element that ends past its 6 bytes"),
        (answer("BYTES", [1], b"\3\0"), "an element that ends past its 2 bytes"),
        (answer("BYTES", [2], b"\1\0\0\0a"), "1 elements"),
        (answer("FP4", [1], b"1"), "a datatype this client does not know"),
        (answer("FP16", [1]), "no raw contents, and typed contents cannot hold it"),
        (answer("INT8", [1], int_contents=[300]), "elements out of its range"),
        (answer("INT32", [3], int_contents=[1, 2]), "2 elements"),
    ],
)
def test_an_answer_that_does_not_add_up_is_told_as_the_fault_of_the_server(response, text):
    with pytest.raises(ServingError) as caught:
        codec.decode(response)

    assert f"but came as {text}" in str(caught.value)
    assert str(caught.value).startswith("output 'Y' is declared as ")


@given(
    datatype=st.sampled_from([*(dtype.value for dtype in DType), "", "FP4"]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=40),
    raw=st.none() | st.binary(max_size=64),
    elements=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
)
def test_any_answer_is_decoded_or_refused(datatype, shape, raw, elements):
    response = answer(datatype, shape, raw, int_contents=elements)
    try:
        array = codec.decode(response)["Y"]
    except ServingError:
        return
    assert list(array.shape) == shape
