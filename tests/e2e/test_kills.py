"""Whatever process is killed: no request is lost silently, nothing is left, and all recovers.

LANEWISE_KILLS says how many processes are killed on each transport; `-s` shows the figures.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers.front_ends import (
    ENGINE,
    FRONT_END,
    children,
    front_ends,
    has_connections,
    is_alive,
    listens,
    open_files,
    pss_bytes,
    wait_for,
)
from helpers.models import profile_entry, save_simulated_echo, tensor
from helpers.steady_load import SteadyLoad
from helpers.transports import require_edge
from lanewise_client import Client, Unavailable

KILLS = int(os.environ.get("LANEWISE_KILLS", "5"))
FRONT_ENDS = 2
RECOVERY_S = 20.0
"""Until all processes are there again and serve: 1 to 7 s on two cores if the load takes both."""
MIB = 1 << 20

pytestmark = pytest.mark.timeout(60 + 20 * KILLS)


@pytest.fixture(params=["aio", "edge"])
def transport(request):
    if request.param == "edge":
        require_edge()
    return request.param


@pytest.fixture
def model(tmp_path):
    save_simulated_echo(
        tmp_path / "models" / "echo" / "1" / "model.sim.toml",
        [tensor("x")],
        profiles=profile_entry("one", x=[(1, 3), (1, 3), (8, 3)])
        + profile_entry("many", x=[(1, 3), (500, 3), (1000, 3)]),
        latency_ms=1.0,
    )
    return tmp_path / "models"


@contextmanager
def killable(model, transport, monkeypatch):
    """A server whose temporary files would be seen; killed with all that belongs to it."""
    files = model.parent / "temporary"
    files.mkdir()
    monkeypatch.setenv("TMPDIR", str(files))
    with front_ends(model, FRONT_ENDS, "--transport", transport, "--drain-grace-s", "5") as server:
        server.log_in_background()
        yield server
        pids = list(children(server.process.pid))
        server.process.kill()
        wait_for(lambda: not any(map(is_alive, pids)), within_s=5)
    assert list(files.iterdir()) == []
    # Clients of other tests that run meanwhile may have segments of their own.
    segments = [path.name for path in Path("/dev/shm").glob("*lanewise*")]
    assert [name for name in segments if not name.startswith("lanewise_client_")] == []


def serves(server) -> bool:
    """Whether every process is there, every front end listens, and a request is answered."""
    processes = children(server.process.pid)
    listening = [pid for pid in processes if listens(pid, server.port)]
    if len(processes) != 1 + FRONT_ENDS or len(listening) != FRONT_ENDS:
        return False
    with Client(server.address, timeout_s=1, options=[("grpc.use_local_subchannel_pool", 1)]) as c:
        try:
            return c.is_ready() and bool(c.infer("echo", {"x": np.ones((1, 3), np.float32)}))
        except Unavailable:
            return False


def kill_one(server, draw: random.Random) -> str:
    """End or halt a process of the server; get what was done to which."""
    pid, role = draw.choice(sorted(children(server.process.pid).items()))
    how = draw.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP], weights=[70, 15, 15])[0]
    os.kill(pid, how)
    if how is signal.SIGSTOP:
        time.sleep(draw.uniform(0.05, 0.3))
        os.kill(pid, signal.SIGCONT)
    else:
        wait_for(lambda: not is_alive(pid))
    return f"{how.name} {role}"


def test_no_request_is_lost_whatever_process_is_killed_and_all_recovers(
    model, transport, monkeypatch
):
    draw = random.Random(86609)
    with killable(model, transport, monkeypatch) as server:
        files, memory = open_files(server.process.pid), pss_bytes(server.process.pid)
        recoveries: list[tuple[float, str]] = []
        with SteadyLoad(server.address, "echo") as load:
            for _ in range(KILLS):
                load.wait_for_answers(draw.randrange(1, 100))
                done = kill_one(server, draw)
                recoveries.append((wait_for(lambda: serves(server), RECOVERY_S), done))
            load.wait_for_answers(100)
        print(_figures(transport, load, recoveries))
        assert load.wrong == []
        assert load.sent == sum(load.ended.values())
        assert open_files(server.process.pid) == files
        assert pss_bytes(server.process.pid) < memory + 2 * MIB


def _figures(transport, load, recoveries) -> str:
    longest, after = max(recoveries)
    typical = sorted(recoveries)[len(recoveries) // 2][0]
    failed = load.sent - load.answered - len(load.wrong)
    return (
        f"\n{transport}: {len(recoveries)} kills, {load.sent} requests, {load.answered} answered, "
        f"{failed} UNAVAILABLE {dict(load.ended)}, {len(load.wrong)} wrong {load.wrong[:3]}; "
        f"serving again after {typical:.2f} s (median), {longest:.2f} s (longest, {after})"
    )


@pytest.mark.parametrize(("killed", "survivor"), [(FRONT_END, ENGINE), (ENGINE, FRONT_END)])
def test_a_process_keeps_nothing_of_others_that_were_killed(
    model, transport, monkeypatch, killed, survivor
):
    def pid_of(role: str) -> int:
        return min(pid for pid, each in children(server.process.pid).items() if each == role)

    def spent() -> tuple[int, int]:
        return open_files(survivor_pid), pss_bytes(survivor_pid)

    with killable(model, transport, monkeypatch) as server:
        survivor_pid = pid_of(survivor)
        before = spent()
        for turn in range(2 + max(1, KILLS // 5)):
            with SteadyLoad(server.address, "echo") as load:
                load.wait_for_answers(300)
                os.kill(pid_of(killed), signal.SIGKILL)
                wait_for(lambda: serves(server), RECOVERY_S)
            assert load.wrong == []
            # What clients hold is theirs; those of the load are closed, and it soon sees that.
            wait_for(lambda: not has_connections(survivor_pid, server.port))
            if turn == 1:  # by now it has done everything once
                before = spent()
        wait_for(lambda: open_files(survivor_pid) <= before[0])
        assert is_alive(survivor_pid)
        assert pss_bytes(survivor_pid) < before[1] + 8 * MIB
        print(f"\n{transport}, {survivor}: {before} -> {spent()}")
