"""The `lanewise` command as its users run it: processes, exit statuses, signals."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from helpers.models import profile_entry, save_onnx, save_onnx_echo, save_simulated_echo, tensor
from helpers.serving import DIGITS, SIMULATED, of_models, server_process
from helpers.serving import _environment as environment
from lanewise.model.tensors import DYNAMIC
from lanewise.simulator.trace import TraceFile
from lanewise_client import Client, Draining, Unavailable


def lanewise(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lanewise", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def digits_server():
    with server_process(DIGITS) as server:
        yield server


def test_inspect_shows_tensors_and_profiles_of_a_repository():
    shown = lanewise("inspect", DIGITS)
    assert shown.returncode == 0, shown.stderr
    for expected in ("digits", "logits", "FP32", "[-1, 3, 28, 28]", "offline", "[128, 3, 28, 28]"):
        assert expected in shown.stdout


def test_inspect_shows_lanes_and_counters_of_a_running_server(digits_server):
    shown = lanewise("inspect", digits_server.address)
    assert shown.returncode == 0, shown.stderr
    for expected in ("digits", "online", "idle", "launches", "0 requests wait"):
        assert expected in shown.stdout
    # A line for each kind of launch: profile, rows, elements, typical, 95 %, behind, samples.
    kind = r"offline +128 +about 2\^11 +\d+\.\d+ ms +\d+\.\d+ ms +- +\d+"
    assert re.search(kind, shown.stdout)


def test_inspect_of_a_model_that_cannot_be_served_says_why_and_exits_with_1(tmp_path):
    shutil.copytree(DIGITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "digits" / "model.toml").write_text("max_queue_delay = 1\n")
    shown = lanewise("inspect", tmp_path)
    assert shown.returncode == 1
    assert "model.toml" in shown.stdout
    assert "max_queue_delay_ms" in shown.stdout


def test_infer_sends_a_request_and_saves_the_outputs(digits_server, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 28, 28), np.float32))
    done = lanewise(
        "infer", "digits", "--url", digits_server.address, "--input", f"X={tmp_path / 'x.npy'}",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "profile dynamic" in done.stdout
    assert np.load(tmp_path / "out" / "logits.npy").shape == (2, 10)


def test_the_name_of_an_output_leads_nowhere_and_is_no_markup(tmp_path):
    x, y = tensor("[red]X", shape=(DYNAMIC, 2)), tensor("../[bold]y", shape=(DYNAMIC, 2))
    save_onnx(
        tmp_path / "m" / "1" / "model.onnx",
        [helper.make_node("Identity", [x.name], [y.name])],
        [x],
        [y],
    )
    shown = lanewise("inspect", tmp_path)
    assert "[red]X" in shown.stdout
    with server_process(tmp_path) as server:
        done = lanewise(
            "infer", "m", "--url", server.address, "--input", "[red]X=1,2",
            "--output-dir", tmp_path / "out" / "here",
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "../[bold]y float32 [1, 2]" in done.stdout
    (saved,) = (tmp_path / "out").rglob("*.npy")
    assert saved == tmp_path / "out" / "here" / "..%2F[bold]y.npy"


def test_infer_refuses_a_shape_that_no_message_holds(digits_server):
    shape = "X=99999999999,4"
    done = lanewise("infer", "digits", "--url", digits_server.address, "--input", shape)

    assert done.returncode == 1
    assert "a message holds at most 2147483647" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_of_a_profile_beyond_all_memory_says_so(tmp_path):
    save_onnx_echo(tmp_path / "m" / "1" / "model.onnx", [tensor("X", shape=(DYNAMIC, DYNAMIC))])
    most = 2**31
    entry = profile_entry("huge", X=[(1, 1), (1, 1), (most, most)])
    (tmp_path / "m" / "model.toml").write_text(entry)
    shown = lanewise("inspect", tmp_path)

    assert shown.returncode == 1
    assert "profile 'huge', input 'X': [2147483648, 2147483648] of FP32" in shown.stdout
    assert "Traceback" not in shown.stdout + shown.stderr


def test_a_hangup_stops_no_server(digits_server):
    digits_server.process.send_signal(signal.SIGHUP)

    done = lanewise("infer", "digits", "--url", digits_server.address, "--input", "X=1,3,28,28")
    assert done.returncode == 0, done.stderr


def test_infer_makes_values_for_a_shape(digits_server):
    done = lanewise("infer", "digits", "--url", digits_server.address, "--input", "X=1,3,28,28")
    assert done.returncode == 0, done.stderr
    # Which lane is the quickest for one row depends on what else the machine does.
    assert re.search(r"profile (online|dynamic), 1 rows executed in 1 launch", done.stdout)


def test_infer_tells_the_servers_reason_and_exits_with_1(digits_server):
    done = lanewise("infer", "digits", "--url", digits_server.address, "--input", "X=1,3,28,29")
    assert done.returncode == 1
    assert "29" in done.stderr
    assert "Traceback" not in done.stderr


def test_infer_into_a_folder_that_cannot_be_written_sends_nothing(digits_server, tmp_path):
    (tmp_path / "file").write_text("")
    with Client(digits_server.address, timeout_s=30) as client:
        before = client.lanes("digits").lanes
        done = lanewise(
            "infer", "digits", "--url", digits_server.address, "--input", "X=1,3,28,28",
            "--output-dir", tmp_path / "file" / "out",
        )  # fmt: skip
        assert client.lanes("digits").lanes == before
    assert done.returncode == 1
    assert "--output-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_infer_refuses_an_input_given_twice():
    done = lanewise("infer", "digits", "--input", "X=1,3,28,28", "--input", "X=2,3,28,28")
    assert done.returncode == 2
    assert "--input X=... is given twice" in done.stderr


@pytest.mark.parametrize(
    ("url", "suggested"),
    [
        ("http://localhost:8001", "localhost:8001"),
        ("grpc://localhost:8001/", "localhost:8001"),
        ("localhost", "localhost:8001"),
        ("https://example.com", "example.com:8001"),
    ],
)
def test_an_address_that_is_none_is_refused_with_what_was_meant(url, suggested):
    done = lanewise("infer", "digits", "--url", url, "--input", "X=1,3,28,28")
    assert done.returncode == 2
    assert "--url" in done.stderr
    assert f"did you mean {suggested}?" in " ".join(done.stderr.split())


def test_inspect_of_a_url_asks_for_an_address():
    done = lanewise("inspect", "http://localhost:8001")
    assert done.returncode == 2
    assert "did you mean localhost:8001?" in " ".join(done.stderr.split())


def test_the_http_port_taken_for_the_grpc_port_is_recognised(digits_server):
    address = digits_server.http.removeprefix("http://")
    done = lanewise("infer", "digits", "--url", address, "--input", "X=1,3,28,28")
    assert done.returncode == 1
    assert "this port speaks HTTP" in done.stderr


def test_inspect_marks_a_model_without_a_version_and_warns_apart_from_what_it_shows(tmp_path):
    shutil.copytree(DIGITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.toml").write_text("")
    (tmp_path / "README.md").write_text("")
    shown = lanewise("inspect", tmp_path)
    assert shown.returncode == 1
    assert f"model empty, version -\ncannot be served: {tmp_path / 'empty'}: " in shown.stdout
    assert "README.md" not in shown.stdout
    assert "path ignored" in shown.stderr


@pytest.mark.parametrize("option", ["--grpc-port", "--metrics-port"])
def test_a_taken_port_is_an_error_that_names_the_option(option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"--grpc-port": "0", "--metrics-port": "0"}
        ports[option] = str(taken.getsockname()[1])
        done = lanewise(
            "serve", DIGITS, "--host", "127.0.0.1", *(x for pair in ports.items() for x in pair)
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"lanewise: {option} {ports[option]}: is in use on 127.0.0.1 by another program; "
        "stop that one or choose another port, 0 for any"
    ]


def test_a_missing_path_is_an_error_that_shows_the_layout(tmp_path):
    done = lanewise("serve", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "nowhere: does not exist" in done.stderr


@pytest.mark.usefixtures("each_transport")
def test_sigterm_finishes_what_waits_and_exits_with_0():
    tokens = {"token_ids": np.zeros((8, 512), np.int32)}
    with server_process(SIMULATED) as server, Client(server.address, timeout_s=30) as client:
        outcomes: list[str] = []

        def send() -> None:
            while True:
                try:
                    client.infer("encoder", tokens)
                except Unavailable:
                    outcomes.append("unavailable")
                    return
                outcomes.append("served")

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(outcomes) < 50:
            time.sleep(0.001)
        status, log = server.stop()
        for thread in threads:
            thread.join(timeout=30)
    assert status == 0
    assert outcomes.count("unavailable") == 8
    assert [entry["event"] for entry in log if entry["level"] == "error"] == []
    assert [entry["event"] for entry in log][-1] == "stopped"
    assert "dropped" not in log[-1]


def test_the_log_tells_the_shapes_of_profiles_without_batching(tmp_path):
    shutil.copy(DIGITS / "digits" / "1" / "model.onnx", tmp_path)
    (tmp_path / "model.toml").write_text("batching = false\n")
    with server_process(tmp_path / "model.onnx") as server:
        (ready,) = [entry for entry in server.log if entry["event"] == "model ready"]
    assert ready["profiles"] == [
        "default X [1, 3, 28, 28]/[4, 3, 28, 28]/[32, 3, 28, 28]",
    ]


def endless_model(folder: Path, **latency: str) -> Path:
    """A model file whose executions take a minute, but for those of the row counts given."""
    return save_simulated_echo(
        folder / "slow.sim.toml",
        [tensor("X")],
        profiles=profile_entry("only", X=[(1, 3), (1, 3), (4, 3)]),
        latency_ms=60_000.0,
        **latency,
    )


SLOW_AT_3_ROWS = "only = { rows = [1, 2, 3, 4], ms = [0.0, 0.0, 60000.0, 0.0] }"
"""Not what is executed before the model is ready: powers of two, and the ends."""


@pytest.mark.usefixtures("each_transport")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_model_warms_up_ends_the_server_without_waiting_for_it(tmp_path, number):
    with server_process(endless_model(tmp_path), until="loading model") as server:
        status, log = server.stop(number)
    assert status == 0
    log = of_models(log)
    assert [entry["event"] for entry in log] == ["draining", "stopped"]
    assert log[0]["hint"] == "a second signal stops at once"
    assert "listening" in [entry["event"] for entry in server.log]


@pytest.mark.usefixtures("each_transport")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_at_once_and_tells_how_many_requests_it_dropped(
    tmp_path, number, expected
):
    model = endless_model(tmp_path, more_latency=SLOW_AT_3_ROWS)
    with (
        server_process(model) as server,
        Client(server.address, timeout_s=30) as client,
        ThreadPoolExecutor(1) as sender,
    ):
        sent = sender.submit(client.infer, "slow", {"X": np.zeros((3, 3), np.float32)})
        wait_for_launch(client, "slow")
        server.process.send_signal(signal.SIGTERM)
        draining = server.read_until("draining")
        status, log = server.stop(number)
        assert isinstance(sent.exception(timeout=30), Unavailable)
    assert draining["waiting"] == 0
    assert status == expected
    # A front end may still get to tell that it refused the request, before it is killed.
    told = [entry for entry in of_models(log) if entry["event"] != "request refused"]
    assert [(entry["event"], entry.get("dropped")) for entry in told] == [("stopping at once", 1)]


@pytest.mark.usefixtures("each_transport")
def test_a_second_signal_loses_nothing_of_a_recorded_trace(tmp_path):
    model, traces = endless_model(tmp_path, more_latency=SLOW_AT_3_ROWS), tmp_path / "traces"
    with (
        server_process(model, "--record-traces", str(traces)) as server,
        Client(server.address, timeout_s=30) as client,
        ThreadPoolExecutor(1) as sender,
    ):
        client.infer("slow", {"X": np.zeros((1, 3), np.float32)})
        sent = sender.submit(client.infer, "slow", {"X": np.zeros((3, 3), np.float32)})
        wait_for_launch(client, "slow")
        server.process.send_signal(signal.SIGTERM)
        server.read_until("draining")
        server.stop(signal.SIGTERM)
        sent.exception(timeout=30)
    (file,) = traces.iterdir()
    assert [arrival.shapes for arrival in TraceFile(file)] == [((1, 3),), ((3, 3),)]


@pytest.mark.usefixtures("each_transport")
def test_requests_that_outlast_the_grace_period_are_counted_when_the_server_stops(tmp_path):
    latency = SLOW_AT_3_ROWS.replace("60000.0", "1000.0")
    model = endless_model(tmp_path, more_latency=latency)
    rows = {"X": np.zeros((3, 3), np.float32)}
    with (
        server_process(model, "--drain-grace-s", "0") as server,
        Client(server.address, timeout_s=30) as client,
        ThreadPoolExecutor(2) as senders,
    ):
        running = senders.submit(client.infer, "slow", rows)
        wait_for_launch(client, "slow")
        waiting = senders.submit(client.infer, "slow", rows)
        while not client.lanes("slow").waiting_requests:
            time.sleep(0.001)
        status, log = server.stop()
        assert running.result(timeout=30)["echo_X"].shape == (3, 3)
        assert isinstance(waiting.exception(timeout=30), Draining)
    assert status == 0
    assert (log[-1]["event"], log[-1]["dropped"]) == ("stopped", 1)


def wait_for_launch(client: Client, model: str) -> None:
    while all(lane.state.value == "idle" for lane in client.lanes(model).lanes):
        time.sleep(0.001)


def test_the_command_does_not_import_grpc_before_serve_has_set_it_up():
    code = "import sys; import lanewise.cli.main, lanewise.cli.serve; print('grpc' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert shown.stdout.strip() == "False"
