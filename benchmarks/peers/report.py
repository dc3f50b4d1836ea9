"""The report of the comparison, as Markdown and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.goals import Verdict, check
from benchmarks.peers.measuring import (
    BULK_IN_FLIGHT,
    BULK_ROWS,
    CONCURRENCIES,
    DISTURBED,
    LOOP,
    RATE,
    Plan,
    Results,
)
from lanewise.bench.report import markdown_table


def as_markdown(results: Results, plan: Plan, command: str) -> str:
    """Write the report."""
    return "\n".join(_lines(results, plan, command, check(results))) + "\n"


def as_json(results: Results, plan: Plan, command: str) -> dict[str, Any]:
    """Get every sample, and what the report says of them."""
    return {
        "command": command,
        "machine": machine(),
        "plan": asdict(plan),
        **asdict(results),
        "goals": [asdict(verdict) for verdict in check(results)],
    }


def machine() -> str:
    """Name the processor, its cores and the kernel."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    name = models[0] if models else platform.machine()
    return f"{name}, {os.cpu_count()} cores, Linux {platform.release()}"


def _lines(
    results: Results, plan: Plan, command: str, verdicts: Sequence[Verdict]
) -> Iterator[str]:
    yield "# Lanewise beside other servers"
    yield ""
    yield f"- `{command}`, on {results.date}"
    yield f"- {machine()}; server on one core, client on another"
    yield (
        f"- the digits model on ONNX Runtime with one thread; medians of {plan.repeats} "
        f"interleaved repeats, {plan.seconds:g} s a point after {plan.warmup_s:g} s that do "
        "not count"
    )
    yield ""
    yield from _rates(results)
    yield from _latencies(results)
    yield from _loop(results)
    yield from _goals(verdicts)
    yield from _versions(results)


def _rates(results: Results) -> Iterator[str]:
    yield "## Requests of one row, requests/s by requests in flight"
    yield ""
    rows = []
    for name in _servers(results):
        rates = [_number(results.median(name, f"c{c} /s"), 0) for c in CONCURRENCIES]
        tails = [_number(results.median(name, f"c{c} p99 ms"), 1) for c in CONCURRENCIES]
        rows.append((name, *rates, *tails))
    head = [f"{c}" for c in CONCURRENCIES] + [f"p99 ms, {c}" for c in CONCURRENCIES]
    yield from _table(("server", *head), rows)


def _latencies(results: Results) -> Iterator[str]:
    yield (
        f"## Open loop at {RATE:g}/s; {BULK_ROWS}-row requests, {BULK_IN_FLIGHT} in flight; "
        "start and memory"
    )
    yield ""
    figures = (
        ("open p50 ms", 2),
        ("open p99 ms", 2),
        ("bulk rows/s", 0),
        ("ready s", 2),
        ("PSS MB", 0),
    )
    head = ("server", "p50 ms", "p99 ms", "rows/s", "first answer s", "PSS MB", "failed", DISTURBED)
    rows = []
    for name in _servers(results):
        values = [_number(results.median(name, figure), digits) for figure, digits in figures]
        disturbed = f"{results.median(name, DISTURBED):.0%}"
        rows.append((name, *values, str(_failed(results, name)), disturbed))
    yield from _table(head, rows)


def _failed(results: Results, name: str) -> int:
    return int(
        sum(
            value
            for sample in results.samples[name]
            for figure, value in sample.items()
            if figure.endswith("failed")
        )
    )


def _loop(results: Results) -> Iterator[str]:
    yield f"## {LOOP}: the model's own time"
    yield ""
    sizes = (1, 4, 8, 16, 32)
    rates = [size * results.median(LOOP, f"calls/s of {size}") for size in sizes]
    head = ("rows a call", *map(str, sizes))
    yield from _table(head, [("rows/s", *(_number(rate, 0) for rate in rates))])


def _goals(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "## Goals"
    yield ""
    rows = [(v.subject, v.goal, v.wanted, v.measured, v.word) for v in verdicts]
    yield from _table(("server", "goal", "wanted", "measured", ""), rows)


def _versions(results: Results) -> Iterator[str]:
    yield "## Versions"
    yield ""
    for name, versions in results.versions.items():
        yield f"- {name}: {', '.join(f'{key} {value}' for key, value in versions.items())}"
    for name, problem in results.problems.items():
        yield f"- **{name} is missing, or some of it: {problem}**"


def _servers(results: Results) -> list[str]:
    """List what was measured in the order of the subjects; the loop is no server."""
    return [name for name in results.versions if name in results.samples]


def _number(value: float, digits: int) -> str:
    return "-" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield markdown_table(head, rows, rule="---:")
    yield ""
