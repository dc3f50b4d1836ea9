"""Show Lanewise at work: three kinds of traffic at once, each through the lane made for it.

Starts a server on the digits model, sends it held-out digits as single rows, as small
batches and as bulk, all at the same time, and checks every answer against the model run
directly. Exits 0 only if the answers are right and every lane was used.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from digits import load_heldout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lanewise_client import AsyncClient, ModelLanes

HERE = Path(__file__).parent
MODELS = HERE / "models"
MODEL_FILE = MODELS / "digits" / "1" / "model.onnx"
START_TIMEOUT_S = 60
CALL_TIMEOUT_S = 30
LEAST_ACCURACY = 0.97
LOGIT_TOLERANCE = 1e-4
"""Largest difference to the model run directly: FP32 sums may be taken in another order."""
TF32_TOLERANCE = 0.1
"""The same on TensorRT, whose convolutions may keep 10 bits of mantissa; logits reach 20."""

Images = NDArray[np.float32]


@dataclass
class Traffic:
    """One kind of request: who sends it, how many rows it has, and what came of it.

    Attributes:
        users: requests in flight at a time.
        rows: gives the rows of the next request.
        profiles: how many rows each profile served, by the profile's name.
    """

    name: str
    users: int
    requests: int
    rows: Callable[[], int]
    latencies_ms: list[float] = field(default_factory=list)
    sent_rows: int = 0
    correct_rows: int = 0
    worst_difference: float = 0.0
    profiles: dict[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        return self.correct_rows / self.sent_rows


@dataclass(frozen=True)
class Answers:
    """The held-out digits, what they are, and what the model says of them when run directly.

    images: (n, 3, 28, 28) float32; labels: (n,) int64; logits: (n, 10) float32.
    """

    images: Images
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


def run_directly() -> Answers:
    """Run the model in this process, without any server."""
    images, labels = load_heldout()
    session = onnxruntime.InferenceSession(MODEL_FILE, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"X": images})
    return Answers(images, labels, logits)


@asynccontextmanager
async def serve() -> AsyncIterator[str]:
    """Start a server as a process of its own; yields its address, stops it at the end."""
    command = [
        sys.executable, "-m", "lanewise", "serve", str(MODELS), "--host", "127.0.0.1",
        "--grpc-port", "0", "--metrics-port", "0", "--log-format", "json",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    try:
        address = await asyncio.wait_for(_read_address(process), START_TIMEOUT_S)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        _, log = await process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the server exited with {process.returncode}:\n{log.decode()}")


async def _read_address(process: asyncio.subprocess.Process) -> str:
    """Get the address from the log line that says the server is serving."""
    assert process.stderr is not None
    log = []
    async for line in process.stderr:
        log.append(line.decode())
        if line.startswith(b"{") and (entry := json.loads(line))["event"] == "serving":
            return str(entry["grpc"])
    raise SystemExit("the server did not start:\n" + "".join(log))


async def send(traffic: Traffic, client: AsyncClient, answers: Answers, progress: Progress) -> None:
    """Send all requests of one kind, `traffic.users` at a time, going round the digits."""
    task = progress.add_task(traffic.name, total=traffic.requests)
    batches = _batches(traffic, len(answers.labels))

    async def user() -> None:
        for chosen in batches:
            started = time.perf_counter()
            result = await client.infer("digits", {"X": answers.images[chosen]})
            traffic.latencies_ms.append((time.perf_counter() - started) * 1e3)
            logits = result["logits"]
            traffic.sent_rows += len(chosen)
            traffic.correct_rows += int((logits.argmax(1) == answers.labels[chosen]).sum())
            difference = float(np.abs(logits - answers.logits[chosen]).max())
            traffic.worst_difference = max(traffic.worst_difference, difference)
            rows = traffic.profiles.get(result.profile, 0)
            traffic.profiles[result.profile] = rows + len(chosen)
            progress.advance(task)

    async with asyncio.TaskGroup() as users:
        for _ in range(traffic.users):
            users.create_task(user())


def _batches(traffic: Traffic, digits: int) -> Iterator[NDArray[np.int64]]:
    first = 0
    for _ in range(traffic.requests):
        rows = traffic.rows()
        yield np.arange(first, first + rows) % digits
        first += rows


def traffic_kinds() -> list[Traffic]:
    """Make the three kinds: a row while a user waits, 1 to 32 rows (mostly 4), bulk of 128."""
    draw = np.random.default_rng(0)
    sizes = np.array([1, 2, 4, 4, 4, 4, 8, 16, 32])
    return [
        Traffic("online", users=2, requests=900, rows=lambda: 1),
        Traffic("dynamic", users=4, requests=400, rows=lambda: int(draw.choice(sizes))),
        Traffic("offline", users=1, requests=40, rows=lambda: 128),
    ]


def print_traffic(kinds: list[Traffic], console: Console) -> None:
    """Print what each kind of traffic got."""
    table = Table(title="Traffic, as the clients saw it", box=None, title_justify="left")
    for column in ("kind", "requests", "rows", "p50 ms", "p99 ms", "accuracy", "rows by lane"):
        table.add_column(column)
    for kind in kinds:
        p50, p99 = np.percentile(kind.latencies_ms, [50, 99])
        lanes = ", ".join(f"{name} {rows}" for name, rows in sorted(kind.profiles.items()))
        table.add_row(
            kind.name, str(len(kind.latencies_ms)), str(kind.sent_rows), f"{p50:.2f}",
            f"{p99:.2f}", f"{kind.accuracy:.2%}", lanes,
        )  # fmt: skip
    console.print(table)


def print_lanes(model: ModelLanes, console: Console) -> None:
    """Print what each lane did."""
    table = Table(title="\nLanes, as the server counted", box=None, title_justify="left")
    for column in (
        "lane",
        "launches",
        "requests",
        "rows",
        "rows a launch",
        "padding",
        "ms a launch",
    ):
        table.add_column(column)
    for lane in model.lanes:
        counted = lane.counters
        launches = max(1, counted.launches)
        padding = (counted.padded_rows - counted.rows) / max(1, counted.padded_rows)
        table.add_row(
            lane.profile.name, str(counted.launches), str(counted.requests), str(counted.rows),
            f"{counted.rows / launches:.1f}", f"{padding:.1%}",
            f"{counted.execution_ns / launches / 1e6:.2f}",
        )  # fmt: skip
    console.print(table)


def find_faults(kinds: list[Traffic], model: ModelLanes) -> list[str]:
    """List what did not hold; empty if all is well."""
    faults = []
    for kind in kinds:
        if len(kind.latencies_ms) != kind.requests:
            faults.append(f"{kind.name}: {len(kind.latencies_ms)} of {kind.requests} answered")
        if kind.accuracy < LEAST_ACCURACY:
            faults.append(f"{kind.name}: accuracy {kind.accuracy:.2%}, below {LEAST_ACCURACY:.0%}")
        tolerance = LOGIT_TOLERANCE if model.backend == "onnxruntime" else TF32_TOLERANCE
        if kind.worst_difference > tolerance:
            faults.append(
                f"{kind.name}: logits differ by {kind.worst_difference:.1e} from the model's"
            )
    faults += [
        f"lane {lane.profile.name} was not used" for lane in model.lanes if not lane.counters.rows
    ]
    return faults


async def main() -> int:
    """Run the demonstration; return the exit status."""
    console = Console()
    answers = run_directly()
    direct = float((answers.logits.argmax(1) == answers.labels).mean())
    console.print(f"{len(answers.labels)} held-out digits; the model run directly: {direct:.2%}\n")
    kinds = traffic_kinds()
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    async with serve() as address, AsyncClient(address, timeout_s=CALL_TIMEOUT_S) as client:
        with Progress(*columns, console=console) as progress:
            async with asyncio.TaskGroup() as tasks:
                for kind in kinds:
                    tasks.create_task(send(kind, client, answers, progress))
        model = await client.lanes("digits")
    console.print()
    print_traffic(kinds, console)
    print_lanes(model, console)
    faults = find_faults(kinds, model)
    for fault in faults:
        console.print(f"FAILED {fault}", style="bold red")
    if not faults:
        worst = max(kind.worst_difference for kind in kinds)
        console.print(
            f"\nOK: every answer is the model's own (logits differ by {worst:.1e} at most), "
            "every lane was used, the server stopped with 0",
            style="bold green",
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
