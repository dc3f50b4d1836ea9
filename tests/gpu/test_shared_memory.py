"""Shared memory on its way to the device: host regions registered with CUDA, and CUDA's own."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers.peers import require_peer
from helpers.segments import segment, times_held
from helpers.serving import DIGITS, server_process

pytest.importorskip("cuda.bindings")

from cuda.bindings import runtime as cuda

from lanewise import errors
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.clock import NS_PER_S, SystemClock
from lanewise.memory.regions import Regions
from lanewise.model.regions import RegionKind, RegionSlice, RegionTensor, SystemRegion
from lanewise.model.tensors import DeviceArray, DType
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.request import RequestOptions
from lanewise.settings.model import read_model_settings
from lanewise_client import Client, InvalidRegion, Unsupported
from lanewise_client.protos import inference_pb2 as pb

pytestmark = pytest.mark.timeout(300)  # TensorRT-RTX compiles what is not in its cache

ROWS = 128
IMAGE_BYTES = 3 * 28 * 28 * 4
X_BYTES = ROWS * IMAGE_BYTES  # 1.2 MB, more than is packed by the host
LOGITS_BYTES = ROWS * 10 * 4
TRITON_CLIENT = Path(__file__).with_name("triton_cuda_client.py")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def images(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 3, 28, 28), np.float32)


@pytest.fixture
def loaded():
    (source,) = find_models(DIGITS)
    settings = read_model_settings(source.settings_file)
    settings = settings.model_copy(update={"backend": "tensorrt-rtx"})
    model = load_model(source, settings, clock=SystemClock())
    yield model
    for runner in model.runners:
        runner.close()


@pytest.fixture
def offline(loaded):
    (runner,) = [each for each in loaded.runners if each.profile.name == "offline"]
    runner.warm_up()
    return runner


@contextmanager
def registered(data: bytes, offset: int = 0):
    """A segment with `data` from byte `offset` on, registered as "r"."""
    regions = Regions()
    with segment(bytes(offset) + data) as found:
        asyncio.run(regions.register(SystemRegion("r", found.key, offset, len(data))))
        yield regions, found
        asyncio.run(regions.unregister(RegionKind.SYSTEM))
    gc.collect()
    assert times_held(found.path) == 0


def lying(rows: int = ROWS, first: int = 0) -> RegionTensor:
    where = RegionSlice("r", first * IMAGE_BYTES, rows * IMAGE_BYTES)
    return RegionTensor(where, DType.FP32, (rows, 3, 28, 28))


@pytest.mark.parametrize("offset", [0, 64, 4096, 5000])
def test_the_device_copies_from_the_clients_own_pages(offline, offset):
    with registered(images().tobytes(), offset) as (regions, found):
        direct = regions.read_by_device(lying())
        assert isinstance(direct, DeviceArray)
        assert times_held(found.path) > 1  # the file, and its mapping
        got = offline.run(Batch({"X": [direct]}, ROWS, ROWS))
        expected = offline.run(Batch({"X": [images()]}, ROWS, ROWS))
        assert (got["logits"] == expected["logits"]).all()
        # What the client writes later is what the device reads later.
        found.write(images(seed=1).tobytes(), offset)
        got = offline.run(Batch({"X": [direct]}, ROWS, ROWS))
        expected = offline.run(Batch({"X": [images(seed=1)]}, ROWS, ROWS))
        assert (got["logits"] == expected["logits"]).all()
        del direct


def test_pieces_of_both_kinds_share_a_launch_and_its_padding(offline):
    x = images()
    with registered(x.tobytes()) as (regions, _):
        whole = regions.read_by_device(lying())
        pieces = [whole[0:40], x[40:70], whole[70:120]]
        got = offline.run(Batch({"X": pieces}, 120, ROWS))["logits"]
        expected = offline.run(Batch({"X": [x[:120]]}, 120, ROWS))["logits"]
        assert (got[:120] == expected[:120]).all()
        del whole, pieces


def test_a_segment_that_is_cut_off_leaves_the_device_its_pages(offline):
    with registered(images().tobytes()) as (regions, found):
        direct = regions.read_by_device(lying())
        found.truncate(0)
        offline.run(Batch({"X": [direct]}, ROWS, ROWS))  # whatever is read, nothing is lost
        with pytest.raises(errors.InvalidRegion, match="the segment has 0 bytes"):
            regions.read_by_device(lying())
        expected = offline.run(Batch({"X": [images()]}, ROWS, ROWS))
        assert np.isfinite(expected["logits"]).all()
        del direct


def test_a_region_that_is_unregistered_stays_until_the_device_has_done_with_it(offline):
    with registered(images().tobytes()) as (regions, found):
        direct = regions.read_by_device(lying())
        asyncio.run(regions.unregister(RegionKind.SYSTEM))
        assert times_held(found.path) > 1
        got = offline.run(Batch({"X": [direct]}, ROWS, ROWS))
        expected = offline.run(Batch({"X": [images()]}, ROWS, ROWS))
        assert (got["logits"] == expected["logits"]).all()
        del direct
        gc.collect()
        assert times_held(found.path) == 0


def test_requests_with_and_without_regions_get_the_same_outputs(loaded):
    async def submit(regions: Regions) -> None:
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=100, regions=regions)
        await dispatcher.warm_up()
        for rows in (1, 32, 100, 128):
            by_region = dispatcher.submit({"X": lying(rows)}, RequestOptions(profile="offline"))
            by_array = dispatcher.submit({"X": images()[:rows]}, RequestOptions(profile="offline"))
            got, expected = await asyncio.gather(by_region, by_array)
            np.testing.assert_allclose(
                got.outputs["logits"], expected.outputs["logits"], rtol=1e-3, atol=1e-3
            )
        await dispatcher.drain(NS_PER_S)
        await dispatcher.close()

    with registered(images().tobytes()) as (regions, _):
        asyncio.run(submit(regions))


# From here on the server is a process of its own: nobody can open CUDA memory of his own.


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    with server_process(DIGITS, "--backend", "tensorrt-rtx") as process:
        yield process
    patch.undo()


@pytest.fixture
def client(server):
    with Client(server.address, timeout_s=60.0) as connected:
        yield connected
        unregister_all(connected)


def check(result):
    assert result[0] == cuda.cudaError_t.cudaSuccess, result
    return result[1] if len(result) > 1 else None


@contextmanager
def allocated(nbytes: int):
    """Memory on the device: its address, and its handle as Triton's client gets it."""
    address = check(cuda.cudaMalloc(nbytes))
    try:
        handle = check(cuda.cudaIpcGetMemHandle(address))
        size = cuda.CUDA_IPC_HANDLE_SIZE
        yield address, bytes((ctypes.c_char * size).from_address(handle.getPtr()))
    finally:
        check(cuda.cudaFree(address))


def copy(target, source, nbytes: int) -> None:
    check(cuda.cudaMemcpy(target, source, nbytes, cuda.cudaMemcpyKind.cudaMemcpyDefault))


def call(client, method: str, request):
    """Send a message that `Client` has no method for."""
    return client._connection.call(method, request, 60.0)


def register(client, handle: bytes, nbytes: int, device: int = 0) -> None:
    request = pb.CudaSharedMemoryRegisterRequest(
        name="c", raw_handle=handle, device_id=device, byte_size=nbytes
    )
    call(client, "CudaSharedMemoryRegister", request)


def unregister_all(client) -> None:
    call(client, "CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest())


def infer(client, rows: int, first: int = 0, room: int = LOGITS_BYTES):
    request = pb.ModelInferRequest(model_name="digits")
    sent = request.inputs.add(name="X", datatype="FP32", shape=[rows, 3, 28, 28])
    sent.parameters["shared_memory_region"].string_param = "c"
    sent.parameters["shared_memory_offset"].int64_param = first * IMAGE_BYTES
    sent.parameters["shared_memory_byte_size"].int64_param = rows * IMAGE_BYTES
    wanted = request.outputs.add(name="logits")
    wanted.parameters["shared_memory_region"].string_param = "c"
    wanted.parameters["shared_memory_offset"].int64_param = X_BYTES
    wanted.parameters["shared_memory_byte_size"].int64_param = room
    return call(client, "ModelInfer", request)


@pytest.mark.parametrize(("rows", "first"), [(128, 0), (100, 5), (4, 3), (1, 0)])
def test_inputs_and_outputs_lie_on_the_device(client, rows, first):
    x = images()
    with allocated(X_BYTES + LOGITS_BYTES) as (address, handle):
        copy(address, x.ctypes.data, x.nbytes)
        register(client, handle, X_BYTES + LOGITS_BYTES)
        answer = infer(client, rows, first)
        got = np.empty((rows, 10), np.float32)
        copy(got.ctypes.data, address + X_BYTES, got.nbytes)
        unregister_all(client)
    assert list(answer.outputs[0].shape) == [rows, 10]
    expected = client.infer("digits", {"X": x[first : first + rows]})["logits"]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_what_is_not_inside_is_refused(client):
    with allocated(X_BYTES) as (_, handle):
        with pytest.raises(InvalidRegion, match="what was allocated has"):
            register(client, handle, 1 << 30)
        with pytest.raises(InvalidRegion, match="a handle of 63 bytes"):
            register(client, handle[:-1], X_BYTES)
        with pytest.raises(InvalidRegion, match="cannot be opened"):
            register(client, bytes(64), X_BYTES)
        with pytest.raises(Unsupported, match="device 64, but this server has"):
            register(client, handle, X_BYTES, device=64)
        register(client, handle, X_BYTES)
        with pytest.raises(InvalidRegion, match="are not inside the region"):
            infer(client, ROWS, room=1)
    assert client.is_ready()


def test_the_status_tells_what_is_registered(client):
    with allocated(X_BYTES) as (_, handle):
        register(client, handle, X_BYTES)
        status = call(client, "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest())
        (told,) = status.regions.values()
    assert (told.name, told.device_id, told.byte_size) == ("c", 0, X_BYTES)


def test_tritons_library_needs_no_change(server, client, tmp_path):
    require_peer("tritonclient")
    x = images(4)
    np.save(tmp_path / "images.npy", x)
    command = [sys.executable, TRITON_CLIENT, server.address, tmp_path / "images.npy"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["handles_bytes"] == [64, 64]
    assert told["registered"] == {"sent": x.nbytes, "answered": 4 * 10 * 4}
    assert (told["left"], told["allocated"]) == ({}, 0)
    expected = client.infer("digits", {"X": x})["logits"]
    np.testing.assert_allclose(told["logits"], expected, rtol=1e-3, atol=1e-3)
