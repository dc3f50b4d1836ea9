"""Our own clients with shared memory, against a server as a process."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.client_shells import SHELLS
from helpers.models import save_onnx_echo, tensor
from helpers.segments import FOLDER, times_held_by_all
from helpers.serving import server_process
from lanewise.model.tensors import DYNAMIC, DType
from lanewise_client import (
    AsyncClient,
    Client,
    InvalidRegion,
    NoProfileAdmits,
    NotAllowed,
    RegionNotFound,
    SharedMemory,
)
from lanewise_client.protos import inference_pb2 as pb

INPUTS = (tensor("X"), tensor("T", DType.BYTES, (DYNAMIC,)))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_onnx_echo(folder / "echo" / "1" / "model.onnx", INPUTS[:1])
    save_onnx_echo(folder / "texts" / "1" / "model.onnx", INPUTS)
    return folder


@pytest.fixture(scope="module")
def server(each_combination_of_module, models):
    with server_process(models, "--backend", "onnxruntime") as process:
        yield process


@pytest.fixture(params=sorted(SHELLS))
def call(request, server):
    return SHELLS[request.param](server.address)


@pytest.fixture
def client(server):
    with Client(server.address, timeout_s=30.0) as connected:
        yield connected


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = set(own_segments())
    yield
    assert set(own_segments()) <= before


def own_segments() -> list[str]:
    return [path.name for path in FOLDER.glob(f"lanewise_client_{os.getpid()}_*")]


def values(rows: int = 2, first: float = 0.0) -> np.ndarray:
    return np.arange(first, first + 3 * rows, dtype=np.float32).reshape(rows, 3)


def registered(client: Client) -> set[str]:
    answer = client._connection._methods["SystemSharedMemoryStatus"](
        pb.SystemSharedMemoryStatusRequest()
    )
    return set(answer.regions)


def test_one_argument_shares_the_inputs(call):
    assert call("infer", "echo", {"X": values()}, shared_memory=True)["echo_X"].tolist() == (
        values().tolist()
    )


@pytest.mark.parametrize(
    "sent", [values(6)[::2], np.asfortranarray(values()), values().astype(">f4"), values(0 + 1)]
)
def test_every_memory_layout_is_taken(call, sent):
    received = call("infer", "echo", {"X": sent}, shared_memory=True)["echo_X"]
    assert received.tolist() == sent.tolist()


def test_strings_travel_in_the_message_beside_what_is_shared(call):
    words = np.array(["lane", "wise"], object)
    result = call("infer", "texts", {"T": words, "X": values()}, shared_memory=True)
    assert result["echo_T"].tolist() == [b"lane", b"wise"]
    assert result["echo_X"].tolist() == values().tolist()


def test_the_clients_own_memory_is_reused_and_grows(client):
    for rows in (1, 2, 1):
        client.infer("echo", {"X": values(rows)}, shared_memory=True)
    (first,) = own_segments()
    big = values(32_000)
    for _ in range(2):
        assert (client.infer("echo", {"X": big}, shared_memory=True)["echo_X"] == big).all()
    (second,) = own_segments()
    assert first != second
    assert registered(client) == {second}


def test_each_of_many_threads_gets_its_own_answers(client):
    def ask(number: int) -> bool:
        sent = values(4, first=number)
        return bool((client.infer("echo", {"X": sent}, shared_memory=True)["echo_X"] == sent).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(200)))
    assert len(own_segments()) <= 8


def test_each_of_many_tasks_gets_its_own_answer(server):
    async def ask(client: AsyncClient, number: int) -> bool:
        sent = values(4, first=number)
        result = await client.infer("echo", {"X": sent}, shared_memory=True)
        return bool((result["echo_X"] == sent).all())

    async def ask_all() -> list[bool]:
        async with AsyncClient(server.address, timeout_s=30.0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(50)))

    assert all(asyncio.run(ask_all()))


def test_inputs_and_outputs_lie_in_memory_of_the_callers(client):
    memory = client.shared_memory(4096)
    sent, room = memory.array((2, 3), np.float32), memory.array((5, 3), np.float32)
    sent[:] = values()

    result = client.infer("echo", {"X": sent}, outputs={"echo_X": room}, shared_memory=memory)

    assert result["echo_X"].tolist() == values().tolist()
    assert np.shares_memory(result["echo_X"], room)
    assert not np.shares_memory(sent, room)


def test_inputs_outside_the_callers_memory_are_sent(client):
    memory = client.shared_memory(4096)
    outputs = {"echo_T": None, "echo_X": memory.array((2, 3), np.float32)}
    words = np.array([b"lane", b"wise"], object)
    result = client.infer(
        "texts", {"X": values(), "T": words}, outputs=outputs, shared_memory=memory
    )
    assert result["echo_T"].tolist() == [b"lane", b"wise"]
    assert result["echo_X"].tolist() == values().tolist()


def test_strings_can_be_written_to_shared_memory(client):
    memory = client.shared_memory(4096)
    outputs = {"echo_T": memory.array((100,), np.uint8)}
    words = np.array([b"lane", b"wise"], object)
    inputs = {"X": values(), "T": words}
    result = client.infer("texts", inputs, outputs=outputs, shared_memory=memory)
    assert result["echo_T"].tolist() == [b"lane", b"wise"]
    assert list(result) == ["echo_T"]


def test_an_output_that_does_not_fit_is_refused(client):
    memory = client.shared_memory(4096)
    outputs = {"echo_X": memory.array((1, 3), np.float32)}
    with pytest.raises(InvalidRegion, match="takes 24 bytes, but the request has room for 12"):
        client.infer("echo", {"X": values()}, outputs=outputs, shared_memory=memory)


def test_room_for_an_output_must_be_in_the_memory_of_the_call(client):
    memory = client.shared_memory(64)
    with pytest.raises(ValueError, match="output 'echo_X': its array is not in the shared memory"):
        client.infer("echo", {"X": values()}, outputs={"echo_X": values()}, shared_memory=memory)


def test_room_ends_where_the_memory_does(client):
    memory = client.shared_memory(64)
    memory.array((16,), np.float32)
    with pytest.raises((ValueError, TypeError)):
        memory.array((1,), np.float32)
    memory.clear()
    assert memory.array((16,), np.float32).shape == (16,)


def test_objects_cannot_lie_in_shared_memory(client):
    with pytest.raises(TypeError, match="cannot lie in shared memory"):
        client.shared_memory(64).array((1,), object)


def test_too_much_shared_memory_is_an_error_and_leaves_nothing(client):
    free = os.statvfs(FOLDER)
    with pytest.raises(OSError, match="No space left"):
        client.shared_memory(free.f_blocks * free.f_frsize + (1 << 20))


def test_memory_that_was_closed_is_not_used_any_more(client):
    with client.shared_memory(64) as memory:
        array = memory.array((2, 3), np.float32)
    array[:] = 1  # is still there for this process
    with pytest.raises(ValueError, match="the shared memory is closed"):
        client.infer("echo", {"X": array}, shared_memory=memory)


def test_closing_the_client_unregisters_and_removes_its_memory(server, client):
    with Client(server.address, timeout_s=30.0) as other:
        memory = other.shared_memory(64)
        other.infer("echo", {"X": values()}, shared_memory=memory)
        other.infer("echo", {"X": values()}, shared_memory=True)
        assert memory.name in registered(client)
        assert times_held_by_all(FOLDER / memory.name, server.process.pid) == 1
    assert registered(client) == set()
    assert times_held_by_all(FOLDER / memory.name, server.process.pid) == 0


def test_a_closed_client_makes_no_more_shared_memory(server):
    with Client(server.address, timeout_s=30.0) as closed:
        pass
    with pytest.raises(RuntimeError, match="is closed; make a new one"):
        closed.infer("echo", {"X": values()}, shared_memory=True)
    assert own_segments() == []


def test_a_client_closes_without_its_server(models):
    with server_process(models, "--backend", "onnxruntime") as lost:
        client = Client(lost.address, timeout_s=30.0)
        for _ in range(3):
            memory = client.shared_memory(64)
            client.infer("echo", {"X": values()}, shared_memory=memory)
    client.close()
    assert own_segments() == []


def test_empty_arrays_are_sent_as_they_are(client):
    with pytest.raises(NoProfileAdmits):
        client.infer("echo", {"X": values(0)}, shared_memory=True)


def test_the_server_forgets_removed_segments_when_others_are_registered(server, client):
    orphan = SharedMemory(64)
    client._connection._methods["SystemSharedMemoryRegister"](orphan.registration())
    orphan.close()
    assert registered(client) == {orphan.name}
    client.infer("echo", {"X": values()}, shared_memory=True)
    assert orphan.name not in registered(client)


def test_a_client_registers_again_with_a_server_that_was_started_anew(client):
    memory = client.shared_memory(64)
    client.infer("echo", {"X": values()}, shared_memory=memory)
    client._connection._methods["SystemSharedMemoryUnregister"](
        pb.SystemSharedMemoryUnregisterRequest()
    )
    with pytest.raises(RegionNotFound):
        request = pb.ModelInferRequest(model_name="echo")
        sent = request.inputs.add(name="X", datatype="FP32", shape=[1, 3])
        sent.parameters["shared_memory_region"].string_param = memory.name
        sent.parameters["shared_memory_byte_size"].int64_param = 12
        with client._connection.rules.applied(None):
            client._connection._methods["ModelInfer"](request)
    sent = memory.array((2, 3), np.float32)
    assert client.infer("echo", {"X": sent}, shared_memory=memory)["echo_X"].shape == (2, 3)


def test_where_shared_memory_is_off_that_is_told(models):
    with (
        server_process(models, "--backend", "onnxruntime", "--shared-memory", "off") as off,
        Client(off.address, timeout_s=30.0) as client,
        pytest.raises(NotAllowed, match="shared memory is off on this server"),
    ):
        client.infer("echo", {"X": values()}, shared_memory=True)


def test_a_call_from_elsewhere_may_not_use_shared_memory(models, own_address):
    for transport in ("aio", "edge"):
        if transport == "edge" and not importlib.util.find_spec("pyvoy"):
            continue
        options = "--backend", "onnxruntime", "--host", own_address, "--transport", transport
        with server_process(models, *options) as server:
            assert not server.address.startswith("127.")
            with Client(server.address, timeout_s=30.0) as client:
                with pytest.raises(NotAllowed, match="for callers over loopback"):
                    client.infer("echo", {"X": values()}, shared_memory=True)
                for pretended in ("127.0.0.1", "::1"):
                    metadata = (("x-forwarded-for", pretended), ("x-real-ip", pretended))
                    with pytest.raises(NotAllowed), client._connection.rules.applied(None):
                        client._connection._methods["SystemSharedMemoryStatus"](
                            pb.SystemSharedMemoryStatusRequest(), metadata=metadata
                        )


@pytest.fixture
def own_address():
    """An address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


def test_a_client_that_is_killed_leaves_no_segment(server):
    program = (
        "import sys, numpy, lanewise_client as lanewise\n"
        f"client = lanewise.Client({server.address!r}, timeout_s=30.0)\n"
        "memory = client.shared_memory(4096)\n"
        "client.infer('echo', {'X': numpy.zeros((1, 3), 'f4')}, shared_memory=memory)\n"
        "print(memory.name, flush=True)\n"
        "sys.stdin.read()\n"
    )
    # Its resource tracker has its stderr: that is closed once the tracker has cleaned up.
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert (FOLDER / name).exists()
    process.send_signal(signal.SIGKILL)
    _, log = process.communicate(timeout=30)
    assert "leaked shared_memory" in log
    assert not (FOLDER / name).exists()


def test_a_fork_does_not_remove_the_memory_of_its_parent():
    program = (
        "import os\nfrom lanewise_client import SharedMemory\n"
        "from lanewise_client.shared_memory import FOLDER\n"
        "memory = SharedMemory(64)\n"
        "child = os.fork()\n"
        "if child == 0:\n    memory.close()\n    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "assert (FOLDER / memory.name).exists()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
