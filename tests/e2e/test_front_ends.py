"""Front-end processes beside an engine process, as users and orchestrators see them."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import onnxruntime
import pytest

from helpers.front_ends import FRONT_END, children, front_ends, has_connections, is_alive, wait_for
from helpers.models import profile_entry, save_simulated_echo, tensor
from helpers.serving import DIGITS
from helpers.serving import _environment as environment
from helpers.transports import REQUIRED, require_edge
from lanewise_client import Client, LaneState, ShapeMismatch, Unavailable

MODEL_FILE = DIGITS / "digits" / "1" / "model.onnx"


@pytest.fixture(scope="module", params=["aio", "edge"])
def transport(request):
    if request.param == "edge":
        require_edge()
    return request.param


@pytest.fixture(scope="module", params=[1, 4])
def digits(request, transport):
    with front_ends(DIGITS, request.param, "--transport", transport) as server:
        server.front_ends = request.param
        yield server


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, 3, 28, 28), np.float32)


def run_alone(x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(MODEL_FILE, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x})[0]


def fetch(server, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(server.http + path, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def counted(server) -> int:
    """Requests that succeeded, of the whole server."""
    text = fetch(server, "/metrics")[1]
    found = re.findall(r"^nv_inference_request_success\{[^}]*\} (\S+)", text, re.MULTILINE)
    return int(sum(map(float, found)))


def test_a_server_has_the_processes_it_was_asked_for(digits):
    roles = list(children(digits.process.pid).values())
    assert sorted(roles) == ["engine"] + ["front-end"] * digits.front_ends


@pytest.mark.parametrize("rows", [1, 4, 32, 128, 300])
def test_answers_are_those_of_the_model_run_alone(digits, rows):
    with Client(digits.address, timeout_s=30) as client:
        result = client.infer("digits", {"X": images(rows)})
    np.testing.assert_allclose(result["logits"], run_alone(images(rows)), rtol=0, atol=1e-4)


def clients_of(server, count: int) -> list[Client]:
    """Clients with a connection each: by default those of a process share one."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [Client(server.address, timeout_s=30, options=options) for _ in range(count)]


def test_the_front_ends_share_the_connections_and_metrics_count_them_all(digits):
    before = counted(digits)
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        clients = [stack.enter_context(client) for client in clients_of(digits, 64)]
        list(pool.map(lambda client: client.infer("digits", {"X": images(1)}), clients))
        front_ends = [p for p, role in children(digits.process.pid).items() if role == FRONT_END]
        wait_for(lambda: all(has_connections(pid, digits.port) for pid in front_ends))
    wait_for(lambda: counted(digits) == before + 64)


def test_health_and_readiness_are_told_by_http_and_grpc(digits):
    assert fetch(digits, "/health/live") == (200, "live\n")
    assert fetch(digits, "/health/ready")[0] == 200
    with Client(digits.address, timeout_s=30) as client:
        assert client.is_live()
        assert client.is_ready()
        assert client.is_model_ready("digits")


def test_lanes_costs_and_routes_are_told(digits):
    with Client(digits.address, timeout_s=30) as client:
        client.infer("digits", {"X": images(2)})
        shown = client.lanes("digits")
        assert [lane.profile.name for lane in shown.lanes] == ["online", "dynamic", "offline"]
        assert sum(lane.counters.rows for lane in shown.lanes) >= 2
        assert client.costs("digits").launches
        assert client.explain("digits", {"X": (2, 3, 28, 28)}).admitted
        with pytest.raises(ShapeMismatch):
            client.infer("digits", {"X": np.zeros((1, 3, 28, 29), np.float32)})


def slow_model(folder):
    """An echo that takes a second for 3 rows, one such request at a time.

    Not with the rows that are executed before the model is ready: 1, 2 and 4.
    """
    save_simulated_echo(
        folder / "slow" / "1" / "model.sim.toml",
        [tensor("x")],
        profiles=profile_entry("only", x=[(1, 3), (1, 3), (4, 3)]),
        more_latency="only = { rows = [1, 2, 3, 4], ms = [0.0, 0.0, 1000.0, 0.0] }",
    )
    return folder


@pytest.fixture
def slow(tmp_path, transport):
    with front_ends(slow_model(tmp_path), 2, "--transport", transport) as server:
        yield server


def in_flight(client, pool, count: int):
    """Begin requests, and wait until they are in the engine."""
    inputs = {"x": np.ones((3, 3), np.float32)}
    calls = [pool.submit(client.infer, "slow", inputs) for _ in range(count)]

    def seen() -> bool:
        shown = client.lanes("slow")
        busy = sum(lane.state is LaneState.BUSY for lane in shown.lanes)
        return shown.waiting_requests + busy == count

    wait_for(seen)
    return calls


def test_sigterm_lets_requests_in_flight_finish_and_exits_with_0(slow):
    pids = list(children(slow.process.pid))
    with Client(slow.address, timeout_s=30) as client, ThreadPoolExecutor(4) as pool:
        calls = in_flight(client, pool, 3)
        status, log = slow.stop()
        assert status == 0, log
        for call in calls:
            assert (call.result()["echo_x"] == 1).all()
    assert not any(map(is_alive, pids))
    assert [entry for entry in log if entry["level"] not in ("info", "debug")] == []


def test_a_second_signal_ends_everything_at_once(slow):
    pids = list(children(slow.process.pid))
    with Client(slow.address, timeout_s=30) as client, ThreadPoolExecutor(4) as pool:
        calls = in_flight(client, pool, 4)
        slow.process.send_signal(signal.SIGTERM)
        slow.read_until("draining")
        status, log = slow.stop(signal.SIGINT)
        assert status == 128 + signal.SIGINT
        assert "stopping at once" in [entry["event"] for entry in log]
        for call in calls:
            with pytest.raises(Unavailable):
                call.result()
    assert not any(map(is_alive, pids))


def lanewise(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lanewise", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=30,
    )


def served(path, transport, *arguments):
    return lanewise(
        *("serve", path, "--host", "127.0.0.1", "--frontends", "2", "--transport", transport),
        *arguments,
    )


@pytest.mark.parametrize("option", ["--grpc-port", "--metrics-port"])
def test_a_taken_port_is_a_clear_error(transport, option):
    ports = {"--grpc-port": 0, "--metrics-port": 0}
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports[option] = other.getsockname()[1]
        done = served(DIGITS, transport, *(word for pair in ports.items() for word in pair))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{option} {ports[option]}: is in use on 127.0.0.1" in done.stderr


FREE = ("--grpc-port", 0, "--metrics-port", 0)


def test_a_folder_that_does_not_exist_is_a_clear_error(transport, tmp_path):
    done = served(tmp_path / "none", transport, *FREE)
    assert done.returncode == 1
    assert f"lanewise: {tmp_path / 'none'}: does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_that_cannot_be_loaded_are_a_clear_error_told_once(transport, tmp_path):
    shutil.copytree(DIGITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "digits" / "model.toml").write_text("max_queue_delay = 1\n")
    done = served(tmp_path, transport, *FREE)
    assert done.returncode == 1
    assert done.stderr.count("lanewise: no model could be loaded") == 1
    assert "max_queue_delay_ms" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_without_its_key_is_a_clear_error(transport, tmp_path):
    for name in ("cert", "key"):
        (tmp_path / name).write_text("no PEM\n")
    done = served(
        DIGITS, transport, *FREE, "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_the_edge_transport_is_tested_where_it_must_be():
    """So that a run with LANEWISE_REQUIRE_EDGE=1 cannot pass by skipping."""
    import importlib.util
    import os

    if os.environ.get(REQUIRED) == "1":
        assert importlib.util.find_spec("pyvoy") is not None
