"""The report: a table for each place, stages by numbers in flight."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.hot_path.frames import Frames
from benchmarks.hot_path.measuring import Breakdown
from benchmarks.hot_path.over_grpc import ThreadShare
from benchmarks.hot_path.stages import LAUNCH, TURN
from benchmarks.hot_path.stopwatch import Overhead
from benchmarks.hot_path.transports import Floor

PACKAGES = ("grpcio", "protobuf", "numpy", "onnxruntime", "uvloop")
MODULES = {"grpcio": "grpc", "protobuf": "google.protobuf"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a result was measured with."""

    date: str
    commit: str
    command: str
    cpu: str
    cores: int
    pinned_to: list[int]
    python: str
    packages: dict[str, str]
    overhead_ns: tuple[float, float]

    @classmethod
    def gather(cls, command: str, overhead: Overhead) -> Facts:
        """Find out about this machine and process."""
        return cls(
            datetime.date.today().isoformat(),
            _commit(),
            command,
            _cpu(),
            os.cpu_count() or 0,
            sorted(os.sched_getaffinity(0)),
            platform.python_version(),
            {name: version(name) for name in PACKAGES if find_spec(MODULES.get(name, name))},
            (overhead.own_ns, overhead.inner_ns),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that was measured; `floor` may be empty."""

    breakdowns: Sequence[Breakdown]
    threads: Sequence[ThreadShare]
    frames: Sequence[Frames]
    floor: Sequence[Floor]


def as_markdown(facts: Facts, result: Result) -> str:
    """Write tables of microseconds."""
    found = result.breakdowns
    packages = ", ".join(f"{name} {number}" for name, number in facts.packages.items())
    parts = [
        f"# Where the CPU time of a request goes, {facts.date}",
        f"`{facts.command}` at {facts.commit}; {facts.cpu}, {facts.cores} cores, server pinned to "
        f"{facts.pinned_to}; Python {facts.python}, {packages}.",
        "CPU microseconds of one request of one row, medians. The stages and the last line but "
        "one add up to the whole, which was measured without a look at them. Measuring added "
        f"{facts.overhead_ns[0]:.0f} ns to a stage for each call and {facts.overhead_ns[1]:.0f} ns "
        "for each stage it called, which were taken off. Requests per launch and turns waited "
        "are counted in the runs with a look at the stages.",
    ]
    parts += (
        _table(place, [each for each in found if each.place == place])
        for place in dict.fromkeys(each.place for each in found)
    )
    parts += [_threads_table(result.threads), _frames_table(result.frames)]
    if result.floor:
        parts.append(_floor_table(result.floor))
    return "\n\n".join(parts) + "\n"


def _table(place: str, found: Sequence[Breakdown]) -> str:
    head = " | ".join(str(each.in_flight) for each in found)
    lines = [f"## {place.capitalize()}", "", f"| in flight | {head} |"]
    lines.append("|---|" + "---:|" * len(found))
    lines += (
        _row(name, [each.stages_us[name] for each in found], 1) for name in found[0].stages_us
    )
    lines.append(_row("**whole**", [each.whole_us for each in found], 1))
    lines.append(_row("requests/s", [each.requests_per_s for each in found], 0))
    if LAUNCH in found[0].calls:
        lines.append(_row("requests per launch", [1 / each.calls[LAUNCH] for each in found], 1))
    if TURN in found[0].calls:
        lines.append(_row("turns waited", [each.calls[TURN] for each in found], 1))
    return "\n".join(lines)


def _threads_table(threads: Sequence[ThreadShare]) -> str:
    """Write what each thread of the server takes over gRPC: CPU (kernel), switches."""
    in_flight = list(dict.fromkeys(each.in_flight for each in threads))
    cells = {(each.name, each.in_flight): each for each in threads}
    head = " | ".join(map(str, in_flight))
    lines = [
        "## Threads of the server over gRPC",
        "",
        "CPU microseconds of a request, of them in the kernel; voluntary + involuntary context "
        "switches.",
        "",
        f"| in flight | {head} |",
        "|---|" + "---:|" * len(in_flight),
    ]
    for name in dict.fromkeys(each.name for each in threads):
        row = [_thread_cell(cells.get((name, each))) for each in in_flight]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    whole = [sum(each.cpu_us for each in threads if each.in_flight == n) for n in in_flight]
    lines.append(_row("**whole process**", whole, 0))
    return "\n".join(lines)


def _thread_cell(share: ThreadShare | None) -> str:
    if share is None:
        return ""
    cpu = f"{share.cpu_us:.0f}, {share.kernel_us:.0f}"
    return f"{cpu}; {share.voluntary:.1f} + {share.involuntary:.1f}"


def _frames_table(frames: Sequence[Frames]) -> str:
    head = " | ".join(str(each.in_flight) for each in frames)
    lines = ["## Calls of a request, in one process", "", f"| in flight | {head} |"]
    lines.append("|---|" + "---:|" * len(frames))
    lines.append(_row("Python frames", [each.python for each in frames], 0))
    lines.append(_row("C calls", [each.c for each in frames], 0))
    return "\n".join(lines)


def _floor_table(floor: Sequence[Floor]) -> str:
    head = " | ".join(str(each.in_flight) for each in floor)
    lines = [f"## {floor[0].name}", "", f"| in flight | {head} |", "|---|" + "---:|" * len(floor)]
    lines.append(_row("server CPU", [each.server_us for each in floor], 1))
    lines.append(_row("requests/s", [each.requests_per_s for each in floor], 0))
    return "\n".join(lines)


def _row(name: str, values: Sequence[float], digits: int) -> str:
    return f"| {name} | " + " | ".join(f"{value:.{digits}f}" for value in values) + " |"


def as_json(facts: Facts, result: Result) -> dict[str, Any]:
    """Get everything, for programs."""
    return {"facts": asdict(facts), **asdict(result)}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
