"""Triton's unmodified client with its system shared memory, against a server as a process."""

from __future__ import annotations

import queue
import secrets
from contextlib import contextmanager

import numpy as np
import pytest

from helpers.models import save_onnx_echo, tensor
from helpers.peers import import_peer
from helpers.segments import FOLDER, times_held_by_all
from helpers.serving import server_process
from lanewise.model.tensors import DYNAMIC, DType

triton = import_peer("tritonclient.grpc")
shm = import_peer("tritonclient.utils.shared_memory")
utils = import_peer("tritonclient.utils")

INPUTS = (tensor("X"), tensor("N", DType.INT32, (DYNAMIC,)), tensor("T", DType.BYTES, (DYNAMIC,)))
X_BYTES = 2 * 3 * 4


@pytest.fixture(scope="module")
def server(each_transport_of_module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_onnx_echo(folder / "echo" / "1" / "model.onnx", INPUTS)
    save_onnx_echo(folder / "alone" / "1" / "model.onnx", INPUTS[:1])
    with server_process(folder, "--backend", "onnxruntime") as process:
        yield process


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.address) as connected:
        yield connected
        connected.unregister_system_shared_memory()


@contextmanager
def region(client, name: str, byte_size: int):
    """A segment of Triton's library, registered under its name."""
    key = f"/lanewise_test_{secrets.token_hex(6)}"
    handle = shm.create_shared_memory_region(name, key[1:], byte_size, create_only=True)
    try:
        client.register_system_shared_memory(name, key, byte_size)
        yield handle
        client.unregister_system_shared_memory(name)
    finally:
        shm.destroy_shared_memory_region(handle)


def lying_in(name: str, shape, where: str, byte_size: int, offset: int = 0):
    datatype = {"X": "FP32", "T": "BYTES"}[name]
    lying = triton.InferInput(name, shape, datatype)
    lying.set_shared_memory(where, byte_size, offset=offset)
    return lying


def output_in(name: str, where: str, byte_size: int, offset: int = 0):
    wanted = triton.InferRequestedOutput(name)
    wanted.set_shared_memory(where, byte_size, offset=offset)
    return wanted


def sent(name: str, array: np.ndarray, datatype: str):
    carried = triton.InferInput(name, list(array.shape), datatype)
    carried.set_data_from_numpy(array)
    return carried


def values(first: float = 0.0) -> np.ndarray:
    return np.arange(first, first + 6, dtype=np.float32).reshape(2, 3)


def refusal(call, *args, **kwargs) -> tuple[str, str]:
    with pytest.raises(triton.InferenceServerException) as caught:
        call(*args, **kwargs)
    return caught.value.status(), caught.value.message()


def test_the_extensions_are_told(client):
    assert {"system_shared_memory", "cuda_shared_memory"} <= set(
        client.get_server_metadata().extensions
    )


def test_an_input_and_an_output_lie_in_regions_at_their_offsets(client):
    with region(client, "in", 64) as given, region(client, "out", 64) as taken:
        shm.set_shared_memory_region(given, [values()], offset=16)
        result = client.infer(
            "alone",
            [lying_in("X", [2, 3], "in", X_BYTES, 16)],
            outputs=[output_in("echo_X", "out", 40, 8)],
        )
        assert shm.get_contents_as_numpy(taken, np.float32, [2, 3], 8).tolist() == values().tolist()

    output = result.get_output("echo_X")
    assert (list(output.shape), output.datatype) == ([2, 3], "FP32")
    told = output.parameters
    assert told["shared_memory_region"].string_param == "out"
    assert told["shared_memory_offset"].int64_param == 8
    assert told["shared_memory_byte_size"].int64_param == X_BYTES


def test_regions_and_contents_mix_in_one_request_and_its_answer(client):
    words = np.array([b"lane", b"wise"], object)
    with region(client, "r", 256) as handle:
        packed = utils.serialize_byte_tensor(words)
        shm.set_shared_memory_region(handle, [packed])
        n = np.array([7, -7], np.int32)
        result = client.infer(
            "echo",
            [
                sent("X", values(), "FP32"),
                lying_in("T", [2], "r", len(packed.item())),
                sent("N", n, "INT32"),
            ],
            outputs=[
                triton.InferRequestedOutput("echo_N"),
                output_in("echo_T", "r", 64, 64),
                triton.InferRequestedOutput("echo_X"),
            ],
        )
        placed = shm.get_contents_as_numpy(handle, np.object_, [2], 64)
        assert placed.tolist() == [b"lane", b"wise"]

    assert result.as_numpy("echo_N").tolist() == [7, -7]
    assert result.as_numpy("echo_X").tolist() == values().tolist()


def test_requests_of_a_stream_use_regions_too(client):
    ends: queue.Queue = queue.Queue()
    with region(client, "r", 64) as handle:
        shm.set_shared_memory_region(handle, [values(10)])
        client.start_stream(lambda result, error: ends.put((result, error)))
        inputs = [lying_in("X", [2, 3], "r", X_BYTES)]
        client.async_stream_infer("alone", inputs)
        result, error = ends.get(timeout=30)
        client.stop_stream()
    assert error is None
    assert result.as_numpy("echo_X").tolist() == values(10).tolist()


def test_the_status_tells_one_or_all(client):
    with region(client, "a", 32), region(client, "b", 64):
        status = client.get_system_shared_memory_status()
        assert {name: told.byte_size for name, told in status.regions.items()} == {"a": 32, "b": 64}
        one = client.get_system_shared_memory_status("a").regions
        assert [(told.name, told.offset, told.byte_size) for told in one.values()] == [("a", 0, 32)]
        assert one["a"].key.startswith("/lanewise_test_")
        status_of = client.get_system_shared_memory_status
        assert refusal(status_of, "c")[0] == "StatusCode.NOT_FOUND"
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions


def test_a_name_that_is_taken_is_refused_until_it_is_unregistered(client):
    with region(client, "a", 32) as handle:
        again = ("a", handle._shm_key, 32)
        assert refusal(client.register_system_shared_memory, *again) == (
            "StatusCode.ALREADY_EXISTS",
            "shared memory 'a' is registered already; unregister it or choose another name",
        )
        client.unregister_system_shared_memory()  # all of them
        client.register_system_shared_memory(*again)


@pytest.mark.parametrize(
    ("byte_size", "offset", "text"),
    [
        (X_BYTES, 9, "24 bytes from byte 9 on are not inside the region, which has 32"),
        (X_BYTES, 2**62, "are not inside the region"),
        (X_BYTES, -1, "'shared_memory_offset' is -1"),
        (20, 0, r"20 bytes of shared memory, but shape [2, 3] of FP32 takes 24"),
    ],
)
def test_an_input_that_is_not_inside_is_refused(client, byte_size, offset, text):
    with region(client, "r", 32):
        inputs = [lying_in("X", [2, 3], "r", byte_size, offset)]
        status, message = refusal(client.infer, "alone", inputs)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert text in message


def test_an_output_that_does_not_fit_is_refused(client):
    with region(client, "r", 32):
        small = [output_in("echo_X", "r", 23)]
        assert (
            "takes 24 bytes, but the request has room for 23"
            in refusal(client.infer, "alone", [sent("X", values(), "FP32")], outputs=small)[1]
        )
        outside = [output_in("echo_X", "r", 24, 9)]
        assert (
            "are not inside the region"
            in refusal(client.infer, "alone", [sent("X", values(), "FP32")], outputs=outside)[1]
        )


def test_a_region_nobody_registered_is_not_found(client):
    inputs = [lying_in("X", [2, 3], "nothing", X_BYTES)]
    assert refusal(client.infer, "alone", inputs)[0] == "StatusCode.NOT_FOUND"


def test_a_segment_that_goes_away_fails_its_requests_and_nothing_else(client, server):
    with region(client, "r", 4096) as handle, region(client, "sound", 64) as sound:
        path = FOLDER / handle._shm_key
        inputs = [lying_in("X", [2, 3], "r", X_BYTES, 4000)]
        client.infer("alone", inputs)
        with path.open("r+b") as file:
            file.truncate(100)
        status, message = refusal(client.infer, "alone", inputs)
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert "the segment has 100 bytes" in message
        outputs = [output_in("echo_X", "r", X_BYTES, 4000)]
        carried = [sent("X", values(), "FP32")]
        assert "100 bytes" in refusal(client.infer, "alone", carried, outputs=outputs)[1]
        path.unlink()
        path.write_bytes(bytes(4096))
        assert "the segment was removed" in refusal(client.infer, "alone", inputs)[1]

        shm.set_shared_memory_region(sound, [values()])
        client.infer("alone", [lying_in("X", [2, 3], "sound", X_BYTES)])
    assert client.is_server_live()


def test_the_server_holds_nothing_of_a_region_that_is_unregistered(client, server):
    with region(client, "r", 32) as handle:
        path = FOLDER / handle._shm_key
        assert times_held_by_all(path, server.process.pid) == 1
    assert times_held_by_all(path, server.process.pid) == 0


def test_cuda_memory_is_refused_without_a_device(client):
    import base64

    handle = base64.b64encode(bytes(64))
    status, message = refusal(client.register_cuda_shared_memory, "c", handle, 0, 32)
    assert status == "StatusCode.UNIMPLEMENTED"
    assert "CUDA" in message
