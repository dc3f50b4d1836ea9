"""The rules by which processes are started again or given up, over real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import pytest

from helpers.front_ends import is_alive, wait_for
from lanewise.processes.supervisor import CANNOT_SERVE, MAX_SHORT_LIVES

STAYS = "until_stopped()"
STUCK = "tell('ready'); signal.pause()"  # SIGTERM stays blocked


class Supervised:
    """A supervisor process; what its children told is in `events`: (role, event, pid, time)."""

    def __init__(self, process: subprocess.Popen, file) -> None:
        self.process = process
        self._file = file

    @property
    def events(self) -> list[tuple[str, str, int, float]]:
        lines = [line.split() for line in self._file.read_text().splitlines()]
        return [(role, event, int(pid), float(at)) for role, event, pid, at in lines]

    def told(self, role: str, event: str) -> list[int]:
        """Ids of the processes that told of an event."""
        return [pid for *what, pid, _ in self.events if what == [role, event]]

    def wait_until_ready(self, front_ends: int = 2, engines: int = 1) -> None:
        wait_for(
            lambda: (
                len(self.told("front-end", "ready")) == front_ends
                and len(self.told("engine", "ready")) == engines
            )
        )

    def end(self) -> tuple[int, list[dict]]:
        """Wait for the end; get the exit status and the log. Nothing may be left."""
        log = [json.loads(line) for line in self.process.communicate(timeout=30)[1].splitlines()]
        assert not any(is_alive(pid) for _, _, pid, _ in self.events)
        return self.process.returncode, log


@contextmanager
def supervised(tmp_path, engine: str = STAYS, front_end: str = STAYS, **constants):
    file = tmp_path / "events"
    file.touch()
    told = {"engine": engine, "front-end": front_end, "events": str(file), **constants}
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.supervised", json.dumps(told)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield Supervised(process, file)
    finally:
        process.kill()
        process.communicate()


def events_of(log: list[dict]) -> list[str]:
    return [entry["event"] for entry in log]


def test_the_engine_is_stopped_first_and_then_the_front_ends(tmp_path):
    with supervised(tmp_path) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == (0, [])
        stops = [role for role, event, _, _ in server.events if event == "stopped"]
        assert stops == ["engine", "front-end", "front-end"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_a_process_that_others_end_is_started_again_however_often(tmp_path, how):
    with supervised(tmp_path) as server:
        server.wait_until_ready()
        for turn in range(MAX_SHORT_LIVES + 2):
            os.kill(server.told("engine", "ready")[-1], how)
            server.wait_until_ready(engines=turn + 2)
        server.process.send_signal(signal.SIGTERM)
        status, log = server.end()
    assert status == 0
    assert events_of(log) == ["process exited; restarting it"] * len(log)
    assert len(log) == MAX_SHORT_LIVES + 2
    assert log[0]["role"] == "engine"
    assert log[0]["status"] == ("SIGKILL" if how is signal.SIGKILL else "exit status 0")


def test_a_process_that_fails_early_again_and_again_stops_the_server(tmp_path):
    with supervised(tmp_path, front_end="sys.exit(3)", FIRST_PAUSE_S=0.05) as server:
        status, log = server.end()
        front_ends = [at for role, event, _, at in server.events if role == "front-end"]
    assert status == 1
    assert log[-1]["event"] == "process keeps failing; stopping the server"
    assert log[-1]["status"] == "exit status 3"
    assert len(front_ends) <= 2 * MAX_SHORT_LIVES


def test_each_start_after_an_early_failure_waits_longer(tmp_path):
    with supervised(tmp_path, engine="sys.exit(3)", FIRST_PAUSE_S=0.05) as server:
        server.end()
        starts = [at for role, event, _, at in server.events if role == "engine"]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert len(starts) == MAX_SHORT_LIVES
    assert all(pause >= 0.05 * 2**n for n, pause in enumerate(pauses[1:]))


def test_a_long_life_makes_up_for_short_ones(tmp_path):
    with supervised(tmp_path, front_end="sys.exit(3)", SHORT_LIFE_S=0.0) as server:
        wait_for(lambda: len(server.told("front-end", "started")) > 4 * MAX_SHORT_LIVES)
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0


@pytest.mark.parametrize("role", ["engine", "front_end"])
def test_a_process_that_would_fail_again_stops_the_server_and_is_not_started_again(tmp_path, role):
    programs = {role: f"sys.exit({CANNOT_SERVE})"}
    with supervised(tmp_path, **programs) as server:
        status, log = server.end()
        started = server.told(role.replace("_", "-"), "started")
    assert (status, log) == (1, [])
    assert len(started) <= (1 if role == "engine" else 2)


def test_an_engine_that_fails_as_it_stops_is_told_by_the_exit_status(tmp_path):
    failing = "end = lambda number, frame: sys.exit(3)\nuntil_stopped()"
    with supervised(tmp_path, engine=failing) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == (1, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_second_signal_ends_everything_at_once(tmp_path, number):
    with supervised(tmp_path, engine=STUCK, AT_ONCE_S=0.2) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        while server.process.poll() is None:  # signals of one kind that wait count as one
            server.process.send_signal(number)
        status, log = server.end()
    assert status == 128 + number
    assert events_of(log) == ["killing processes that do not stop"]
    assert log[0]["roles"] == ["engine"]


def test_a_second_signal_lets_the_engine_tell_what_it_drops(tmp_path):
    told = """
def end(number, frame):
    tell("stopping")
    signal.signal(signal.SIGTERM, lambda *_: (tell("leaving"), os._exit(1)))
until_stopped()
"""
    with supervised(tmp_path, engine=told) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: bool(server.told("engine", "stopping")))
        server.process.send_signal(signal.SIGINT)
        assert server.end() == (128 + signal.SIGINT, [])
        assert len(server.told("engine", "stopped")) == 0
        assert len(server.events) == 3 * 2 + 2


def test_processes_that_do_not_stop_in_time_are_killed(tmp_path):
    limits = {"STOPPING_S": 0.2, "drain_grace_s": 0.1}
    with supervised(tmp_path, engine=STUCK, **limits) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        status, log = server.end()
    assert status == 1
    assert events_of(log) == ["killing processes that do not stop"]
    assert log[0]["roles"] == ["engine", "front end 0", "front end 1"]


def test_a_stop_while_the_engine_is_dead_stops_the_front_ends(tmp_path):
    with supervised(tmp_path, engine="sys.exit(3)", FIRST_PAUSE_S=30.0) as server:
        wait_for(lambda: len(server.told("front-end", "ready")) == 2)
        wait_for(lambda: len(server.told("engine", "started")) == 2)
        server.process.send_signal(signal.SIGTERM)
        status, _ = server.end()
        assert status in (0, 1)  # 1 if it caught the engine failing
        assert len(server.told("front-end", "stopped")) == 2
