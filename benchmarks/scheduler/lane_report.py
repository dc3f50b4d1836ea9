"""What came of real lanes as tables for people and as plain data for programs."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scheduler.figures import TOLERANCE, Figures, deviation, median_of
from benchmarks.scheduler.lane_runs import Case, LaneRuns
from lanewise.bench.report import markdown_table


def describe_run(backend: str, arguments: Sequence[str]) -> dict[str, str]:
    """Tell when, on what and how the lanes were run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": _machine(backend),
        "backend": _title(backend),
        "python": platform.python_version(),
        "command": " ".join(["python -m benchmarks.scheduler.real_lanes", *arguments]),
    }


def _title(backend: str) -> str:
    if backend == "tensorrt-rtx":
        from lanewise.backends.trt.binding import bind

        return bind("tensorrt-rtx").name
    if backend == "onnxruntime":
        return f"{backend} {importlib.metadata.version(backend)}"
    return backend


def _machine(backend: str) -> str:
    cores = f"{_cpu()}, {os.cpu_count()} cores"
    if backend != "tensorrt-rtx":
        return cores
    from lanewise.memory.device import require_device

    return f"{require_device().title}; {cores}"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def as_json(runs: LaneRuns, circumstances: dict[str, str]) -> dict[str, Any]:
    """Get everything that was measured and predicted."""
    costs = runs.model.costs
    plan = {**dataclasses.asdict(runs.plan), "trace": len(runs.plan.trace)}
    return {
        **circumstances,
        "plan": plan,
        "capacity": runs.capacity,
        "host_ns": {name: dataclasses.asdict(host) for name, host in runs.hosts.items()},
        "launches_ns": [
            {**kind._asdict(), "samples": estimate.samples_ns} for kind, estimate in costs.kinds()
        ],
        "beside": [one._asdict() for one in costs.pairs()],
        "cases": [dataclasses.asdict(case) for case in runs.cases],
    }


def as_markdown(runs: LaneRuns, circumstances: dict[str, str]) -> str:
    """Get the report as text."""
    title = "\n".join(f"- {key}: {value}" for key, value in circumstances.items())
    settings = {case.policy: case.settings for case in runs.cases if case.settings}
    return "\n\n".join(
        [
            "# Scheduling policies on real lanes",
            title,
            f"Capacity: {runs.capacity:.0f} requests/s of the mix. Medians of "
            f"{runs.plan.repeats} repeats of {runs.plan.seconds:g} s, in turn.\n"
            + "\n".join(f"- {name}: {words}" for name, words in settings.items()),
            "## Measured",
            markdown_table(_MEASURED, [_measured_row(case) for case in runs.cases]),
            "## Predicted\n\nBy the simulator, from what the lanes had learnt of another trace "
            "at the same load right before, and how far that is from what was measured: medians of "
            "the repeats, bold beyond "
            f"{TOLERANCE:.0%}.",
            markdown_table(_PREDICTED, [_predicted_row(case) for case in runs.cases]),
            "## Costs",
            markdown_table(("profile", "rows", "median ms", "spread ms"), list(_cost_rows(runs))),
            markdown_table(("profile", "while", "takes times"), list(_pair_rows(runs))),
            markdown_table(("policy", "us a request", "us a launch"), list(_host_rows(runs))),
        ]
    ) + "\n"  # fmt: skip


_MEASURED = (
    "load", "policy", "requests", "throughput/s", "goodput/s", "p50 ms", "p99 ms (range)",
    "p99 ms of 1 row", "generator late, p99 us", "others took",
)  # fmt: skip

_PREDICTED = ("load", "policy", "throughput/s", "goodput/s", "p50 ms", "p99 ms", "p99 ms of 1 row")


def _measured_row(case: Case) -> list[str]:
    median = median_of(case.measured)
    p99s = [one.p99_ms for one in case.measured]
    return [
        f"{case.load:.0%}",
        case.policy,
        f"{case.requests}",
        f"{median.throughput:.1f}",
        f"{median.goodput:.1f}",
        f"{median.p50_ms:.2f}",
        f"{median.p99_ms:.2f} ({min(p99s):.2f} to {max(p99s):.2f})",
        f"{_interactive(median):.2f}",
        f"{max(case.late_p99_us):.0f}",
        f"{max(case.others):.0%}",
    ]


def _predicted_row(case: Case) -> list[str]:
    def beside(figure: Callable[[Figures], float], form: str) -> str:
        predicted = statistics.median(map(figure, case.predicted))
        off = median_deviation(case, figure)
        share = f"{off:+.0%}"
        return f"{predicted:{form}} ({f'**{share}**' if abs(off) > TOLERANCE else share})"

    return [
        f"{case.load:.0%}",
        case.policy,
        beside(lambda one: one.throughput, ".1f"),
        beside(lambda one: one.goodput, ".1f"),
        beside(lambda one: one.p50_ms, ".2f"),
        beside(lambda one: one.p99_ms, ".2f"),
        beside(_interactive, ".2f"),
    ]


def median_deviation(case: Case, figure: Callable[[Figures], float]) -> float:
    """Tell how far predictions were off, as the median over the repeats."""
    pairs = zip(case.predicted, case.measured, strict=True)
    return statistics.median(deviation(figure(one), figure(other)) for one, other in pairs)


def _interactive(figures: Figures) -> float:
    return figures.p99_ms_by_kind.get("interactive", float("nan"))


def _cost_rows(runs: LaneRuns) -> Iterator[list[str]]:
    for kind, estimate in runs.model.costs.kinds():
        low, high = min(estimate.samples_ns) / 1e6, max(estimate.samples_ns) / 1e6
        median = f"{estimate.typical_ns / 1e6:.2f}"
        yield [_profile(runs, kind.profile), f"{kind.rows}", median, f"{low:.2f} to {high:.2f}"]


def _pair_rows(runs: LaneRuns) -> Iterator[list[str]]:
    for one in runs.model.costs.pairs():
        beside = f"{_profile(runs, one.other)} runs {one.rows}"
        yield [_profile(runs, one.profile), beside, f"{one.slowdown:.2f}"]


def _host_rows(runs: LaneRuns) -> Iterator[list[str]]:
    for name, host in runs.hosts.items():
        yield [name, f"{host.request_ns / 1e3:.0f}", f"{host.launch_ns / 1e3:.0f}"]


def _profile(runs: LaneRuns, index: int) -> str:
    return runs.model.spec.profiles[index].name
