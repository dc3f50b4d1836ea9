"""Bulk of 128 rows from a client process to the lanes, by shared memory and over the wire.

    python benchmarks/gpu/shared_memory.py --output benchmarks/gpu/results/NAME.json

A server and a client run as processes of their own; this one drives an engine of the same plan
without lanes, for the bare execution loop that both are compared with. Repeats are interleaved;
figures are medians of repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bare import BareContext, BareEngine
from lanes import BULK_RUNS, build
from speed import describe_run
from subjects import BULK_ROWS, Subject, bert, resnet

from lanewise.bench.report import markdown_table
from lanewise_client import Client

START_TIMEOUT_S = 300.0
WIRE_RUNS = 20
OUTSTANDING = 4
HERE = Path(__file__).parent

WAYS = {
    "region": "inputs and outputs in shared memory",
    "copied": "inputs copied into shared memory for each request (`shared_memory=True`)",
    "wire": "in messages",
}


class ClientProcess:
    """The client, which is asked over a pipe to measure."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, way: str, requests: int, outstanding: int) -> float:
        """See `BulkClient.measure`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"way": way, "requests": requests, "outstanding": outstanding}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return float(json.loads(self._process.stdout.readline()))


def measure(subject: Subject, repeats: int, server_arguments: list[str]) -> dict[str, Any]:
    """Build and serve the subject's model, then measure every way, interleaved."""
    bulk = subject.bulk(BULK_ROWS)
    request_bytes = sum(array.nbytes for array in bulk.values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = build(subject, folder)
        np.savez(folder / "bulk.npz", **bulk)
        with (
            _server(plan, server_arguments) as address,
            closing(BareEngine(plan)) as engine,
            closing(BareContext(engine, _offline(address), bulk)) as bare,
            _client(address, folder / "bulk.npz") as client,
        ):
            bare.capture()
            steps = _steps(bare, client)
            samples: dict[str, list[float]] = {step: [] for step in steps}
            for _ in range(repeats):
                for step, run in steps.items():
                    samples[step].append(run())
    return {
        "title": subject.title,
        "items": subject.items,
        "server_arguments": server_arguments,
        "request_bytes": request_bytes,
        "outstanding": OUTSTANDING,
        "medians": {step: statistics.median(values) for step, values in samples.items()},
        "samples": samples,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Each way of each model: rows/s, as a share of the bare loop, and GB/s of inputs."""
    rows = []
    for result in results:
        medians = result["medians"]
        row_bytes = result["request_bytes"] / BULK_ROWS
        for step, rate in medians.items():
            rows.append(
                (
                    result["title"],
                    _describe(step),
                    f"{rate:,.0f}",
                    f"{rate / medians['bare']:.1%}",
                    f"{rate * row_bytes / 1e9:.2f}",
                )
            )
    return markdown_table(
        ("model", "128 rows a request", "rows/s", "of the bare loop", "GB/s"), rows
    )


def _steps(bare: BareContext, client: ClientProcess) -> dict[str, Callable[[], float]]:
    steps: dict[str, Callable[[], float]] = {"bare": lambda: _bare_rate(bare)}
    for way in WAYS:
        runs = WIRE_RUNS if way == "wire" else BULK_RUNS
        for outstanding in (1, OUTSTANDING):
            steps[f"{way}_{outstanding}"] = lambda w=way, r=runs, o=outstanding: client.measure(
                w, r, o
            )
    return steps


def _describe(step: str) -> str:
    if step == "bare":
        return "bare execution loop: a graph launched back to back, no copies"
    way, _, outstanding = step.rpartition("_")
    return f"{WAYS[way]}, {outstanding} outstanding"


def _bare_rate(bare: BareContext) -> float:
    began = time.perf_counter()
    for _ in range(BULK_RUNS):
        bare.launch()
    bare.wait()
    return BULK_ROWS * BULK_RUNS / (time.perf_counter() - began)


def _offline(address: str) -> int:
    """Get the index of the profile for bulk."""
    with Client(address, timeout_s=START_TIMEOUT_S) as client:
        (model,) = client.models()
        profiles = client.model_metadata(model.name).profiles
    return next(profile.index for profile in profiles if profile.name == "offline")


@contextmanager
def _server(plan: Path, arguments: list[str]) -> Iterator[str]:
    """Serve the plan, until it is ready; killed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "lanewise", "serve", str(plan), "--host", "127.0.0.1"),
        *("--grpc-port", str(port), "--metrics-port", "0", "--log-level", "warning", *arguments),
    ]
    process = subprocess.Popen(command)
    address = f"127.0.0.1:{port}"
    try:
        with Client(address, timeout_s=START_TIMEOUT_S) as client:
            while not client.is_ready(timeout_s=1.0):
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with {process.returncode}")
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _client(address: str, inputs: Path) -> Iterator[ClientProcess]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "bulk_client.py"), address, str(inputs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        yield ClientProcess(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "server_arguments", nargs="*", help="of `lanewise serve`, after --: -- --frontends 1"
    )
    arguments = parser.parse_args()
    results = [
        measure(make(), arguments.repeats, arguments.server_arguments) for make in (resnet, bert)
    ]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(describe_run(results), indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
