"""Starts a server on a core of its own, waits until it answers, and weighs it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.peers.subjects import Place, Subject

METHOD = "/inference.GRPCInferenceService/ModelInfer"
READY_S = 90.0
STOP_S = 20.0


class DidNotServe(Exception):
    """A server that ended or never answered; the text has its last words."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has answered a request.

    Attributes:
        ready_s: from its start to its first answer.
    """

    pid: int
    address: str
    ready_s: float


@contextmanager
def serve(subject: Subject, place: Place, core: int, request: bytes) -> Iterator[Running]:
    """Run a server on one core until the context ends.

    Args:
        subject: what to run.
        place: where.
        core: on which.
        request: is sent until it is answered.

    Raises:
        DidNotServe: it ended, or did not answer in time.
    """
    command = ["taskset", "--cpu-list", str(core), *(str(p) for p in subject.command(place))]
    environ = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",
        "PATH": f"{place.python.parent}:{os.environ['PATH']}",
        **subject.environ,
    }
    log = place.folder / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=place.folder,
            start_new_session=True,
        )
        try:
            address = f"127.0.0.1:{place.ports[0]}"
            _await_answer(process, address, request, log)
            yield Running(process.pid, address, time.perf_counter() - began)
        finally:
            _stop(process)


def proportional_mb(pid: int) -> float:
    """Get the memory of a process and its descendants (PSS), in MB of 10^6 bytes."""
    return sum(_pss_kib(each) for each in (pid, *descendants(pid))) * 1024 / 1e6


def free_ports() -> tuple[int, int, int]:
    """Find three free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports[0], ports[1], ports[2]


def _await_answer(
    process: subprocess.Popen[bytes], address: str, request: bytes, log: Path
) -> None:
    deadline = time.perf_counter() + READY_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise DidNotServe(f"ended with {process.returncode}: {_last_words(log)}")
        if _answers(address, request):
            return
        time.sleep(0.02)
    raise DidNotServe(f"did not answer within {READY_S:g} s: {_last_words(log)}")


def _answers(address: str, request: bytes) -> bool:
    # A channel waits longer and longer between attempts; a socket tells when there is a use.
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=0.2).close()
    except OSError:
        return False
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            channel.unary_unary(METHOD)(request, timeout=1.0)
        except grpc.RpcError:
            return False
    return True


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-400:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    started = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in started:  # some servers leave theirs behind
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Find the processes that a process has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def _pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def require_taskset() -> None:
    """Make sure that servers can be given a core of their own."""
    if shutil.which("taskset") is None:
        raise SystemExit("taskset is missing: it comes with util-linux")
