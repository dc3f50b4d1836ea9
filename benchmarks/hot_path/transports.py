"""What grpc.aio takes for a call that does nothing: the floor under every stage here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.hot_path.child import LISTENER

ECHO_FLOOR = Path(__file__).parents[1] / "transport" / "echo_floor.py"


@dataclass(frozen=True, slots=True)
class Floor:
    """An echo server's CPU microseconds of one request, a median."""

    name: str
    in_flight: int
    requests_per_s: float
    server_us: float


def measure_floor(core: int, in_flight: Sequence[int]) -> list[Floor]:
    """Measure a bare echo as `lanewise serve` sets up grpc.aio; its client is on another core."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "echo.json"
        command = [sys.executable, str(ECHO_FLOOR), "run", "--repeats", "3", "--seconds", "1"]
        loop = "asyncio" if find_spec("uvloop") is None else "uvloop"
        command += ["--config", f"grpc.aio echo on {loop}|{sys.executable}|{loop}|{LISTENER}"]
        command += ["--concurrency", ",".join(map(str, in_flight)), "--output", str(output)]
        command += ["--server-core", str(core), "--client-core", str((core + 1) % cores)]
        subprocess.run(
            ["taskset", "-c", f"0-{cores - 1}", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        found = json.loads(output.read_text())
    (echo,) = found["configurations"]
    return [
        Floor(
            echo["name"],
            row["concurrency"],
            row["rps"]["median"],
            row["server_cpu_us_per_request"]["median"],
        )
        for row in echo["summary"]
    ]
