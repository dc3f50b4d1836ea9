"""The `lanewise` command as its users run it: processes, exit statuses, signals."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from helpers.serving import DIGITS, SIMULATED, server_process
from helpers.serving import _environment as environment
from lanewise_client import Client, Unavailable


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


def test_infer_makes_values_for_a_shape(digits_server):
    done = lanewise("infer", "digits", "--url", digits_server.address, "--input", "X=1,3,28,28")
    assert done.returncode == 0, done.stderr
    assert "profile online" in done.stdout


def test_infer_tells_the_servers_reason_and_exits_with_1(digits_server):
    done = lanewise("infer", "digits", "--url", digits_server.address, "--input", "X=1,3,28,29")
    assert done.returncode == 1
    assert "29" in done.stderr
    assert "Traceback" not in done.stderr


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
    assert option in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_path_is_an_error_that_shows_the_layout(tmp_path):
    done = lanewise("serve", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "nowhere: does not exist" in done.stderr


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
