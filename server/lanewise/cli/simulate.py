"""Simulates from the command line and shows what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lanewise.errors import ConfigError
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.costs.file import load_costs
from lanewise.simulator.mix import default_mix, parse_kind, require_admitted, scale
from lanewise.simulator.plot import draw, require_plots
from lanewise.simulator.report import KindReport, LaneReport, Report, summarize
from lanewise.simulator.rivals import POLICIES
from lanewise.simulator.simulation import Options, simulate
from lanewise.simulator.trace import TraceFile
from lanewise.simulator.traffic import Arrival, Traffic


@dataclass(frozen=True, slots=True)
class TrafficArguments:
    """Where the requests come from: a trace, or the options that make some up."""

    trace: Path | None
    mix: Sequence[str]
    rate: float | None
    duration_s: float
    burst: float
    seed: int


def run(
    costs: Path,
    traffic: TrafficArguments,
    policies: Sequence[str],
    options: Options,
    *,
    json_file: Path | None,
    plot_file: Path | None,
    console: Console,
) -> None:
    """Simulate the same traffic under each of the policies, whose names are those in POLICIES.

    The reports are written to `json_file` and a picture to `plot_file`, over what is there.

    Raises:
        ConfigError: a file cannot be read or written, or holds what it must not.
    """
    model = load_costs(costs)
    arrivals = _open_traffic(traffic, model.spec)
    if json_file is not None:
        _require_folder(json_file)
    if plot_file is not None:
        _require_folder(plot_file)
        require_plots()
    results = {name: simulate(model, arrivals, POLICIES[name], options) for name in policies}
    reports = [summarize(name, result) for name, result in results.items()]
    console.print(_totals(reports), _kinds(reports), _lanes(reports))
    if json_file is not None:
        _write_json(json_file, reports)
    if plot_file is not None:
        draw(results, plot_file)


def _open_traffic(arguments: TrafficArguments, spec: ModelSpec) -> Iterable[Arrival]:
    if arguments.trace is not None:
        if arguments.mix or arguments.rate is not None:
            raise ConfigError("give a trace, or --mix and --rate, not both")
        trace = TraceFile(arguments.trace)
        expected = tuple(tensor.name for tensor in spec.inputs)
        if trace.inputs != expected:
            raise ConfigError(
                f"{arguments.trace}: is of a model with the inputs {', '.join(trace.inputs)}; "
                f"the costs are of '{spec.name}' with {', '.join(expected)}"
            )
        return trace
    mix = tuple(parse_kind(text, spec) for text in arguments.mix) or default_mix(spec)
    if arguments.rate is not None:
        mix = scale(mix, arguments.rate)
    elif not arguments.mix:
        raise ConfigError("give a trace, or --rate, or --mix for requests that are made up")
    require_admitted(mix, spec)
    return Traffic(spec, mix, arguments.duration_s, arguments.seed, arguments.burst)


def _require_folder(file: Path) -> None:
    """Refuse before the simulation, which may take long, what could not be written after it."""
    if not file.parent.is_dir():
        raise ConfigError(f"{file}: cannot be written: {file.parent} is not a folder")


def _write_json(path: Path, reports: Sequence[Report]) -> None:
    text = json.dumps([report.as_json() for report in reports], indent=2)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _totals(reports: Sequence[Report]) -> Table:
    table = _table("In all", ("policy",), ("requests", "seconds", "goodput/s", "attainment"))
    for report in reports:
        table.add_row(
            report.policy,
            f"{report.requests}",
            f"{report.duration_s:.2f}",
            f"{report.goodput:.1f}",
            f"{report.attainment:.2%}",
        )
    return table


def _kinds(reports: Sequence[Report]) -> Table:
    counts = ("requests", "in time", "late", "refused", "expired")
    quantiles = ("p50 ms", "p90 ms", "p99 ms", "p99.9 ms")
    table = _table("Requests", ("kind", "policy"), counts + quantiles)
    both = [(kind, report.policy) for report in reports for kind in report.kinds]
    for kind, policy in sorted(both, key=lambda pair: pair[0].kind):
        table.add_row(kind.kind, policy, *_counts_of(kind), *_quantiles_of(kind))
    return table


def _counts_of(kind: KindReport) -> list[str]:
    counts = (kind.requests, kind.met, kind.late, kind.refused, kind.expired)
    return [str(count) for count in counts]


def _quantiles_of(kind: KindReport) -> list[str]:
    quantiles = (kind.p50_ms, kind.p90_ms, kind.p99_ms, kind.p999_ms)
    return ["-" if value is None else f"{value:.2f}" for value in quantiles]


def _lanes(reports: Sequence[Report]) -> Table:
    table = _table(
        "Lanes", ("lane", "policy"), ("launches", "rows", "rows/launch", "padding", "busy")
    )
    both = [(lane, report.policy) for report in reports for lane in report.lanes]
    for lane, policy in sorted(both, key=lambda pair: pair[0].lane):
        table.add_row(f"{lane.lane} {lane.profile}", policy, *_figures_of(lane))
    return table


def _figures_of(lane: LaneReport) -> list[str]:
    mean = f"{lane.rows / lane.launches:.1f}" if lane.launches else "-"
    shares = f"{lane.padding_waste:.1%}", f"{lane.busy_share:.1%}"
    return [f"{lane.launches}", f"{lane.rows}", mean, *shares]


def _table(title: str, names: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for name in figures:
        table.add_column(name, justify="right")
    return table
