"""The measurement: every server in turn, at every point, several times over."""

from __future__ import annotations

import datetime
import json
import math
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import environments, running
from benchmarks.peers.disturbance import Disturbance
from benchmarks.peers.subjects import (
    MLSERVER,
    REPOSITORY,
    SERVERS,
    Environment,
    Place,
    Subject,
)
from lanewise.bench.fleet import Fleet, Outcome, Timing
from lanewise.bench.loads import Load, Target
from lanewise.bench.mix import RowShare
from lanewise.bench.payloads import build_payloads
from lanewise.clock import NS_PER_MS
from lanewise.errors import ConfigError
from lanewise.model.tensors import DType, TensorSpec

SERVER_CORE, CLIENT_CORE = 0, 1
CONCURRENCIES = (1, 8, 32, 128)
RATE = 800.0
GRACE_S = 10.0
DISTURBED = "to others"
"""The share of the two cores that others used during a measurement."""

MAX_DISTURBED = 0.1
ATTEMPTS = 3
BULK_ROWS, BULK_IN_FLIGHT = 32, 8
DIGITS = REPOSITORY / "examples" / "digits" / "models" / "digits"
LOOP = "ONNX Runtime in a loop"

Figures = dict[str, float]
"""By name: what one server did in one repeat."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    repeats: int
    warmup_s: float
    seconds: float


FULL = Plan(repeats=3, warmup_s=1.0, seconds=4.0)
SHORT = Plan(repeats=1, warmup_s=0.5, seconds=1.5)


@dataclass(slots=True)
class Results:
    """What was measured.

    Attributes:
        samples: of each subject, one of each repeat.
        problems: why a subject is missing, or some of its samples.
        versions: of the packages that matter, by subject.
    """

    samples: dict[str, list[Figures]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    def median(self, subject: str, figure: str) -> float:
        """Get the median over the repeats; NaN if it was never measured."""
        values = [sample[figure] for sample in self.samples.get(subject, []) if figure in sample]
        return statistics.median(values) if values else math.nan


_TOLD = ("grpcio", "protobuf", "onnxruntime", "numpy", "nvidia-pytriton", "kserve", "mlserver")


def measure(
    subjects: Sequence[Subject], plan: Plan, work: Path, log: Callable[[str], None]
) -> Results:
    """Measure the subjects, interleaved; this process stays on the client's core from now on."""
    running.require_taskset()
    results = Results()
    pythons = _prepare(subjects, work, results, log)
    os.sched_setaffinity(0, {CLIENT_CORE})
    _make_repository(work)
    for repeat in range(plan.repeats):
        loop_python = next(iter(pythons.values()))
        _keep(results, LOOP, _measure_loop(loop_python, plan.seconds / 4))
        # Turned round, so that no server always follows the same one.
        turn = repeat % max(1, len(subjects))
        for subject in (*subjects[turn:], *subjects[:turn]):
            if (python := pythons.get(subject.environment)) is None:
                continue
            log(f"repeat {repeat + 1} of {plan.repeats}: {subject.name}")
            try:
                figures = _measure_undisturbed(subject, python, plan, work, log)
            except (running.DidNotServe, ConfigError) as error:
                results.problems[subject.name] = str(error)
                log(f"  {error}")
                continue
            _keep(results, subject.name, figures)
    return results


def _prepare(
    subjects: Sequence[Subject], work: Path, results: Results, log: Callable[[str], None]
) -> dict[Environment, Path]:
    pythons: dict[Environment, Path] = {}
    for subject in subjects:
        try:
            if subject.environment not in pythons:
                log(f"preparing the environment '{subject.environment.name}'")
            python = environments.prepare(subject.environment, work)
        except environments.NotInstalled as error:
            results.problems[subject.name] = f"not installed: {error}"
            log(f"  {error}")
            continue
        pythons[subject.environment] = python
        known = environments.versions(python)
        named = ("python", *_TOLD)
        results.versions[subject.name] = {name: known[name] for name in named if name in known}
    if not pythons:
        raise SystemExit("nothing to measure: no environment could be made")
    return pythons


def _keep(results: Results, name: str, figures: Figures) -> None:
    results.samples.setdefault(name, []).append(figures)


def _make_repository(work: Path) -> None:
    """Copy the example, with ONNX Runtime on one thread as everywhere."""
    model = work / "models" / "digits"
    shutil.copytree(DIGITS, model, dirs_exist_ok=True)
    settings = (DIGITS / "model.toml").read_text(encoding="utf-8")
    (model / "model.toml").write_text(f"{settings}\n[onnxruntime]\nthreads = 1\n")


def _measure_loop(python: Path, seconds: float) -> Figures:
    command = ["taskset", "--cpu-list", str(SERVER_CORE), python, SERVERS / "ort_loop.py"]
    done = subprocess.run(
        [str(part) for part in (*command, DIGITS / "1" / "model.onnx", seconds)],
        check=True,
        capture_output=True,
        text=True,
    )
    rates = json.loads(done.stdout)["calls_per_s"]
    return {f"calls/s of {rows}": rate for rows, rate in rates.items()}


def _place(subject: Subject, python: Path, work: Path) -> Place:
    folder = work / "running"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    place = Place(
        python=python,
        model=DIGITS / "1" / "model.onnx",
        repository=work / "models",
        folder=folder,
        ports=running.free_ports(),
    )
    if subject.name == MLSERVER:
        _configure_mlserver(place)
    return place


def _configure_mlserver(place: Place) -> None:
    grpc_port, http_port, metrics_port = place.ports
    shutil.copy(SERVERS / "mlserver" / "digits_runtime.py", place.folder)
    settings = {
        "debug": False,
        "parallel_workers": 0,  # its default, a pool of processes, costs more than it brings
        "host": "127.0.0.1",
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "grpc_max_message_length": 64 << 20,
    }
    model = {
        "name": "digits",
        "implementation": "digits_runtime.Digits",
        "parameters": {"uri": str(place.model)},
    }
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model))


def _measure_undisturbed(
    subject: Subject, python: Path, plan: Plan, work: Path, log: Callable[[str], None]
) -> Figures:
    """Measure a server, again if others used its core or the client's; the last try counts."""
    for attempt in range(ATTEMPTS):
        figures = _measure_server(subject, python, plan, work)
        log("  " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        if figures[DISTURBED] <= MAX_DISTURBED:
            break
        again = ": measured again" if attempt + 1 < ATTEMPTS else ""
        log(f"  others used {figures[DISTURBED]:.0%} of the two cores{again}")
    return figures


def _measure_server(subject: Subject, python: Path, plan: Plan, work: Path) -> Figures:
    timing = Timing(plan.warmup_s, plan.seconds, GRACE_S)
    single, bulk = _target(1), _target(BULK_ROWS)
    place = _place(subject, python, work)
    with running.serve(subject, place, SERVER_CORE, single.payloads[0].data) as server:
        figures = {"ready s": server.ready_s}
        disturbance = Disturbance((SERVER_CORE, CLIENT_CORE), (server.pid, os.getpid()))
        with Fleet(_at(single, server.address), 1) as fleet:
            for concurrency in CONCURRENCIES:
                outcome = fleet.run(Load(concurrency=concurrency), timing)
                figures |= _figures(f"c{concurrency}", outcome)
            figures |= _figures("open", fleet.run(Load(rate=RATE), timing))
        with Fleet(_at(bulk, server.address), 1) as fleet:
            outcome = fleet.run(Load(concurrency=BULK_IN_FLIGHT), timing)
            figures |= _figures("bulk", outcome)
            figures["bulk rows/s"] = figures["bulk /s"] * BULK_ROWS
        figures[DISTURBED] = disturbance.share()
        figures["PSS MB"] = running.proportional_mb(server.pid)
    return figures


def _target(rows: int) -> Target:
    tensors = [TensorSpec("X", DType.FP32, (-1, 3, 28, 28))]
    payloads = build_payloads("digits", "", tensors, [RowShare(rows, 1.0)], random=True, seed=0)
    return Target("", payloads)


def _at(target: Target, address: str) -> Target:
    return Target(address, target.payloads)


def _figures(name: str, outcome: Outcome) -> Figures:
    (kind,) = outcome.kinds
    return {
        f"{name} /s": kind.latencies.count / outcome.seconds,
        f"{name} p50 ms": kind.latencies.quantile_ns(0.5) / NS_PER_MS,
        f"{name} p99 ms": kind.latencies.quantile_ns(0.99) / NS_PER_MS,
        f"{name} failed": float(kind.failures.total()),
        f"{name} client CPU": sum(outcome.cpu_shares),
    }
