"""What clients get over the wire from TensorRT lanes on this GPU, by transport and processes.

    python benchmarks/gpu/wire.py --output benchmarks/gpu/results/NAME.json

A perceptron (3 KB a row), ResNet-50 in FP16 (301 KB a row), each with profiles for 1 row, for few
and for 128. `lanewise serve` and `lanewise bench` run as processes on this host, as many of
the latter as `--clients`. Repeats are interleaved; figures are medians of repeats.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import models

from lanewise import __version__

GRPC_PORT, HTTP_PORT = 9401, 9402
SERVERS = (
    "aio/0",
    "aio/1",
    "aio/2",
    "aio/4",
    "aio/6",
    "aio/8",
    "edge/0",
    "edge/1",
    "edge/2",
    "edge/4",
    "edge/6",
)
LOADS = {
    "ranker, 1 row, 256 in flight": ("ranker", "--concurrency", "256", "--rows", "1"),
    "ranker, 1 row, 2 000/s": ("ranker", "--rate", "2000", "--rows", "1"),
    "ResNet-50, 1 row, 128 in flight": ("resnet50", "--concurrency", "128", "--rows", "1"),
    "ResNet-50, 128 rows, 8 in flight": ("resnet50", "--concurrency", "8", "--rows", "128"),
}
READY_S = 120.0


def main() -> None:
    """Measure and write the result."""
    arguments = _parse()
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        _save_models(repository)
        _prepare_plans(repository)
        for repeat in range(arguments.repeats):
            turn = repeat % len(arguments.servers)
            for server in (*arguments.servers[turn:], *arguments.servers[:turn]):
                with _serving(repository, server) as memory:
                    for name in arguments.loads:
                        figures = _load(LOADS[name], arguments, Path(folder))
                        figures["pss_mb"] = memory()
                        samples.setdefault(server, {}).setdefault(name, []).append(figures)
                        _tell(server, name, figures)
    arguments.output.write_text(json.dumps(_result(samples, arguments), indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--servers", nargs="+", default=SERVERS, help="transport/front ends")
    parser.add_argument("--loads", nargs="+", default=tuple(LOADS), choices=LOADS)
    return parser.parse_args()


def _save_models(repository: Path) -> None:
    for name, save, profiles in (
        ("ranker", models.save_ranker, models.ranker_profiles()),
        ("resnet50", models.save_resnet, models.resnet_profiles()),
    ):
        file = save(repository / name, profiles)
        version = repository / name / "1"
        version.mkdir()
        file.rename(version / "model.onnx")


def _prepare_plans(repository: Path) -> None:
    """Build what a server would build, and let it settle, before anything is measured."""
    with _serving(repository, "aio/0", ready_s=400.0):
        pass


@contextmanager
def _serving(repository: Path, server: str, ready_s: float = READY_S) -> Iterator[Any]:
    transport, front_ends = server.split("/")
    command = [
        *(sys.executable, "-m", "lanewise", "serve", str(repository), "--host", "127.0.0.1"),
        *("--grpc-port", str(GRPC_PORT), "--metrics-port", str(HTTP_PORT)),
        *("--transport", transport, "--frontends", front_ends, "--log-level", "warning"),
    ]
    process = subprocess.Popen(command)
    try:
        _wait_until_ready(process, ready_s)
        yield lambda: _pss_mb(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], ready_s: float) -> None:
    until = time.monotonic() + ready_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/health/ready"):
                break
        except OSError:
            time.sleep(0.1)
    else:
        raise SystemExit("the server was not ready in time")
    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:  # front ends may be later
        grpc.channel_ready_future(channel).result(timeout=30)


def _load(load: tuple[str, ...], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    report = folder / "report.json"
    model, *rest = load
    command = [
        *(sys.executable, "-m", "lanewise", "bench", f"127.0.0.1:{GRPC_PORT}", "--model", model),
        *(*rest, "--processes", str(arguments.clients), "--duration-s", str(arguments.seconds)),
        *("--warmup-s", "1", "--report", str(report)),
    ]
    # What the server reads when it imports grpc is not for the client.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=dict(os.environ))
    (figures,) = json.loads(report.read_text())["loads"]
    figures.pop("course", None)
    return dict(figures)


def _pss_mb(pid: int) -> dict[str, float]:
    """Get the proportional memory of a process and of its children, by what they run."""
    found = {}
    for each in (pid, *_children(pid)):
        text = Path(f"/proc/{each}/smaps_rollup").read_text()
        kb = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        found[f"{Path(f'/proc/{each}/comm').read_text().strip()} {each}"] = round(kb / 1024, 1)
    return found


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in listed]


def _tell(server: str, name: str, figures: dict[str, Any]) -> None:
    kind = figures["kinds"][0]
    shares = " ".join(f"{share:.2f}" for share in figures["cpu_shares"])
    print(
        f"{server:7} {name:34} {kind['answered_per_s']:9.0f}/s {kind['rows_per_s']:9.0f} rows/s"
        f"  p50 {kind['p50_ms'] or 0:7.2f} p99 {kind['p99_ms'] or 0:7.2f} ms"
        f"  failed {kind['failed']}  clients {shares}",
        flush=True,
    )


def _result(
    samples: dict[str, dict[str, list[dict[str, Any]]]], arguments: argparse.Namespace
) -> dict[str, Any]:
    medians = {
        server: {
            name: {
                key: statistics.median(run["kinds"][0][key] or 0 for run in runs)
                for key in ("answered_per_s", "rows_per_s", "p50_ms", "p99_ms", "failed")
            }
            for name, runs in loads.items()
        }
        for server, loads in samples.items()
    }
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(sys.argv),
        "lanewise": __version__,
        "grpcio": grpc.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "repeats": arguments.repeats,
        "seconds": arguments.seconds,
        "client_processes": arguments.clients,
        "medians": medians,
        "samples": samples,
    }


if __name__ == "__main__":
    main()
