"""Shared memory in messages: what names it, and who may."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from helpers.rpc import (
    EchoLanes,
    in_event_loop,
    registry_of,
    serving,
    spec_of,
)
from lanewise.errors import InvalidRegion, InvalidRequest, MalformedContents
from lanewise.model.regions import NO_PLACEMENTS, RegionSlice, RegionTensor
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.rpc.inference.codec import Codec
from lanewise.rpc.inference.region_access import is_local
from lanewise.scheduler.results import InferResult
from lanewise_client.protos import inference_pb2 as pb

THREE = spec_of(
    ("X", DType.FP32, (DYNAMIC, 3)), ("N", DType.INT8, (DYNAMIC,)), ("T", DType.BYTES, (DYNAMIC,))
)


def named(region: object = "r", byte_size: object = 24, **more: object) -> dict:
    """Parameters; a value of None is left out."""
    given = {"shared_memory_region": region, "shared_memory_byte_size": byte_size, **more}
    kinds = {str: "string_param", int: "int64_param", float: "double_param"}
    return {name: {kinds[type(v)]: v} for name, v in given.items() if v is not None}


def request(*parameters: dict, raw: tuple[bytes, ...] = ()) -> pb.ModelInferRequest:
    shapes = ("X", "FP32", [2, 3]), ("N", "INT8", [2]), ("T", "BYTES", [2])
    made = pb.ModelInferRequest(model_name="echo", raw_input_contents=raw)
    for (name, datatype, shape), each in zip(shapes, parameters, strict=True):
        made.inputs.add(name=name, datatype=datatype, shape=shape, parameters=each)
    return made


def test_raw_contents_skip_the_inputs_in_shared_memory():
    inputs = Codec(THREE).decode_inputs(
        request(named(shared_memory_offset=8), {}, named(byte_size=99), raw=(b"\x01\x02",))
    )

    assert inputs["X"] == RegionTensor(RegionSlice("r", 8, 24), DType.FP32, (2, 3))
    assert np.asarray(inputs["N"]).tolist() == [1, 2]
    assert inputs["T"] == RegionTensor(RegionSlice("r", 0, 99), DType.BYTES, (2,))


@pytest.mark.parametrize("raw", [(), (b"\x01\x02", b""), (b"", b"\x01\x02", b"")])
def test_raw_contents_for_inputs_in_shared_memory_are_refused(raw):
    with pytest.raises(MalformedContents):
        Codec(THREE).decode_inputs(request(named(), {}, named(), raw=raw))


@pytest.mark.parametrize(
    ("parameters", "error_class", "text"),
    [
        (named(region=7), InvalidRequest, "is int64_param, but it takes string_param"),
        (named(byte_size=None), InvalidRequest, "without 'shared_memory_byte_size'"),
        (named(region=None), InvalidRequest, "without 'shared_memory_region'"),
        (named(byte_size="24"), InvalidRequest, "'shared_memory_byte_size' is string_param"),
        (named(byte_size=-24), InvalidRegion, "'shared_memory_byte_size' is -24"),
        (named(shared_memory_offset=-1), InvalidRegion, "'shared_memory_offset' is -1"),
        (named(shared_memory_offset=1.5), InvalidRequest, "is double_param"),
        (named(byte_size=23), InvalidRegion, "23 bytes of shared memory, but shape"),
    ],
)
def test_parameters_that_name_no_slice_are_refused(parameters, error_class, text):
    sent = request(parameters, named(byte_size=2), named())
    with pytest.raises(error_class, match=text):
        Codec(THREE).decode_inputs(sent)


def test_typed_contents_of_an_input_in_shared_memory_are_refused():
    sent = request(named(), named(byte_size=2), named())
    sent.inputs[1].contents.int_contents.extend([1, 2])
    with pytest.raises(MalformedContents, match="input 'N': typed contents beside shared"):
        Codec(THREE).decode_inputs(sent)


@pytest.mark.parametrize("raw", [True, False])
def test_an_output_in_shared_memory_is_told_by_its_place_and_its_shape(raw):
    outputs = [{"name": "out.X", "parameters": named(shared_memory_offset=8)}, {"name": "out.N"}]
    codec = Codec(THREE)
    selection = codec.select_outputs(pb.ModelInferRequest(outputs=outputs), raw=raw)
    assert selection.placements == {"out.X": RegionSlice("r", 8, 24)}

    placed = RegionTensor(RegionSlice("r", 8, 12), DType.FP32, (1, 3))
    result = InferResult({"out.N": np.array([5], np.int8)}, (), placed={"out.X": placed})
    response = codec.encode_response("", selection, result, "wide")

    x, n = response.outputs
    assert (list(x.shape), x.parameters["shared_memory_region"].string_param) == ([1, 3], "r")
    assert x.parameters["shared_memory_offset"].int64_param == 8
    assert x.parameters["shared_memory_byte_size"].int64_param == 12
    assert list(response.raw_output_contents) == ([b"", b"\x05"] if raw else [])
    assert list(n.contents.int_contents) == ([] if raw else [5])


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:127.0.0.1:50123", True),
        ("ipv4:127.8.0.1:50123", True),
        ("ipv6:%5B::1%5D:50123", True),
        ("ipv6:[::1]:50123", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:50123", True),
        ("unix:/tmp/socket", True),
        ("unix:", True),
        ("ipv4:10.0.0.1:50123", False),
        ("ipv6:%5B::ffff:10.0.0.1%5D:50123", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:50123", False),
        ("ipv4:localhost:1", False),
        ("vsock:1:2", False),
        ("", False),
    ],
)
def test_a_caller_is_local_over_loopback_and_over_a_socket_of_this_host(peer, expected):
    assert is_local(peer) is expected


@in_event_loop
async def test_where_shared_memory_is_off_no_call_may_use_it():
    lanes = EchoLanes(spec_of(("X", DType.FP32, (DYNAMIC, 3))))
    infer = pb.ModelInferRequest(model_name="echo")
    infer.inputs.add(name="X", datatype="FP32", shape=[2, 3], parameters=named())
    place = pb.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(12)])
    place.inputs.add(name="X", datatype="FP32", shape=[1, 3])
    place.outputs.add(name="out.X", parameters=named())

    async with serving(registry_of(lanes), shared_memory="off") as server:
        inference = server.inference
        ends = []
        for method, message in (
            (inference.ModelInfer, infer),
            (inference.ModelInfer, place),
            (inference.SystemSharedMemoryStatus, pb.SystemSharedMemoryStatusRequest()),
            (inference.SystemSharedMemoryRegister, pb.SystemSharedMemoryRegisterRequest()),
            (inference.SystemSharedMemoryUnregister, pb.SystemSharedMemoryUnregisterRequest()),
            (inference.CudaSharedMemoryStatus, pb.CudaSharedMemoryStatusRequest()),
            (inference.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest()),
            (inference.CudaSharedMemoryUnregister, pb.CudaSharedMemoryUnregisterRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="shared memory is off") as caught:
                await method(message)
            ends.append(caught.value.code())
        told = await inference.ServerMetadata(pb.ServerMetadataRequest())

    assert set(ends) == {grpc.StatusCode.PERMISSION_DENIED}
    assert "system_shared_memory" not in told.extensions
    assert not lanes.submissions


@in_event_loop
async def test_lanes_get_references_to_shared_memory_and_no_contents():
    lanes = EchoLanes(spec_of(("X", DType.FP32, (DYNAMIC, 3))))
    infer = pb.ModelInferRequest(model_name="echo")
    infer.inputs.add(name="X", datatype="FP32", shape=[2, 3], parameters=named())
    infer.outputs.add(name="out.X", parameters=named(byte_size=5))

    async with serving(registry_of(lanes)) as server:
        await server.inference.ModelInfer(infer)

    (submission,) = lanes.submissions
    assert submission.inputs == {"X": RegionTensor(RegionSlice("r", 0, 24), DType.FP32, (2, 3))}
    assert submission.placements == {"out.X": RegionSlice("r", 0, 5)}
    assert NO_PLACEMENTS == {}
