"""The report of a run, as Markdown and as JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lanewise import __version__
from lanewise.bench.figures import KindFigures, LoadFigures
from lanewise.bench.fleet import Timing
from lanewise.bench.loads import Payload
from lanewise.cores import usable_cores

COLUMNS = ("answered/s", "good/s", "rows/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")


@dataclass(frozen=True, slots=True)
class Run:
    """What was sent to whom, and what came of it."""

    command: str
    date: str
    address: str
    server: str
    model: str
    payloads: tuple[Payload, ...]
    timeout_ms: float | None
    timing: Timing
    processes: int
    channels: int
    loads: tuple[LoadFigures, ...]


def cells_of(figures: KindFigures) -> list[str]:
    """Write the figures of COLUMNS; a dash where there is none."""
    rates = (figures.answered_per_s, figures.good_per_s, figures.rows_per_s)
    times = (figures.p50_ms, figures.p90_ms, figures.p99_ms, figures.p999_ms, figures.longest_ms)
    return [f"{rate:.1f}" for rate in rates] + [
        "-" if time is None else f"{time:.2f}" for time in times
    ]


def as_markdown(run: Run, picture: str | None) -> str:
    """Write the report.

    Args:
        run: what is reported.
        picture: the file of the plots, as seen from the report; None without.
    """
    return "\n".join(_lines(run, picture)) + "\n"


def as_json(run: Run) -> dict[str, Any]:
    """Get the report for programs."""
    names = ("command", "date", "address", "server", "model", "timeout_ms", "processes")
    return {
        **{name: getattr(run, name) for name in names},
        "channels": run.channels,
        "timing": asdict(run.timing),
        "client": _client(),
        "payloads": [
            {
                "kind": payload.name,
                "rows": payload.rows,
                "share": payload.share,
                "bytes": len(payload.data),
            }
            for payload in run.payloads
        ],
        "loads": [load.as_json() for load in run.loads],
    }


def _client() -> dict[str, str]:
    return {
        "lanewise": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {usable_cores()} cores, {platform.system()}",
    }


def _lines(run: Run, picture: str | None) -> Iterator[str]:
    yield f"# Load test of {run.model} on {run.address}"
    yield ""
    yield f"- {run.date}; command: `{run.command}`"
    yield f"- server: {run.server}"
    client = ", ".join(f"{name} {value}" for name, value in _client().items())
    yield f"- client: {client}; {run.processes} processes with {run.channels} connections each"
    for payload in run.payloads:
        yield f"- {payload.share:.0%} of the requests: {payload.name}, {len(payload.data)} bytes"
    deadline = "no deadline" if run.timeout_ms is None else f"deadline after {run.timeout_ms:g} ms"
    yield (
        f"- {deadline}; {run.timing.duration_s:g} s each after {run.timing.warmup_s:g} s that "
        "do not count"
    )
    yield ""
    yield markdown_table(("load", "requests", *COLUMNS, "failed"), _rows(run.loads))
    yield ""
    yield from _failures(run.loads)
    for load in run.loads:
        for warning in load.warnings:
            yield f"**{load.load}: {warning}.**"
            yield ""
    if picture is not None:
        yield f"![latencies and their course]({picture})"
        yield ""
    yield (
        "Latencies count from when a request was due to be sent, and are of answered requests; "
        "quantiles are exact to 0.3 %."
    )


def _rows(loads: Sequence[LoadFigures]) -> Iterator[Sequence[str]]:
    for load in loads:
        for kind in load.kinds:
            yield load.load, kind.kind, *cells_of(kind), str(kind.failed)


def _failures(loads: Sequence[LoadFigures]) -> Iterator[str]:
    rows = [
        (load.load, label, str(count), load.examples.get(label, "").replace("|", "\\|")[:200])
        for load in loads
        for label, count in load.total.failures.items()
    ]
    if rows:
        yield markdown_table(("load", "failure", "requests", "for example"), rows)
        yield ""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "---") -> str:
    """Write a table in Markdown; `rule` is "---:" where all columns but the first are right."""
    lines = [head, ["---", *[rule] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
