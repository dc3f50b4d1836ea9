"""`lanewise simulate`: what the scheduler makes of traffic, shown in tables.

The simulator is imported when it is needed, so that `--help` does not wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from lanewise.cli.main import PATH, POSITIVE, REQUESTS
from lanewise.cli.tables import open_console
from lanewise.errors import ConfigError
from lanewise.settings.server import DEFAULT_MAX_QUEUE_REQUESTS

if TYPE_CHECKING:
    from lanewise.model.spec import ModelSpec
    from lanewise.simulator.report import KindReport, LaneReport, Report
    from lanewise.simulator.traffic import Arrival

POLICIES = ("cost-aware", "first-fit", "one-context", "triton", "triton-as-coded", "tf-serving")
"""Those of `lanewise.simulator.policies`; the default first."""


@dataclass(frozen=True, slots=True)
class TrafficArguments:
    """Where the requests come from: a trace, or the options that make some up."""

    trace: Path | None
    mix: Sequence[str]
    rate: float | None
    duration_s: float
    burst: float


@click.command("simulate")
@click.argument("costs", type=PATH)
@click.argument("trace", type=PATH, required=False)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    default=POLICIES[:1],
    help="Several are compared on the same traffic.",
)
@click.option(
    "--mix",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="A kind of request: rows=1-4-32,rate=300,timeout-ms=20; 1 a second without rate. "
    "May be given several times.",
)
@click.option(
    "--rate",
    type=POSITIVE,
    help="Requests a second in all: the mix is scaled to it; without one it is equally often "
    "what each profile is for.",
)
@click.option("--duration-s", type=POSITIVE, default=60.0)
@click.option(
    "--burst",
    type=click.FloatRange(min=1),
    default=1.0,
    help="Requests come in bursts of so many times the rate.",
)
@click.option("--seed", type=int, default=0)
@click.option(
    "--max-queue-requests",
    type=REQUESTS,
    default=DEFAULT_MAX_QUEUE_REQUESTS,
    help="As for `lanewise serve`.",
)
@click.option("--unlearned", is_flag=True, help="The scheduler begins without the costs.")
@click.option("--varied", is_flag=True, help="Launches take measured times, not their median.")
@click.option("--json", "json_file", type=PATH, help="File for the figures.")
@click.option(
    "--plot",
    "plot_file",
    type=PATH,
    help="File for a picture, .svg or .png. Needs the extra `plots`.",
)
def command(  # noqa: PLR0917 - click passes options by name
    costs: Path,
    policies: Sequence[str],
    seed: int,
    max_queue_requests: int,
    unlearned: bool,
    varied: bool,
    json_file: Path | None,
    plot_file: Path | None,
    **traffic: Any,  # noqa: ANN401 - the fields of TrafficArguments
) -> None:
    """Tell what the scheduler would make of some traffic, without a device.

    COSTS is a cost file; the requests come from TRACE, which a server recorded, or are made
    up: give --mix, --rate or both.
    """
    from lanewise.scheduler.costs.file import load_costs
    from lanewise.simulator import policies as known
    from lanewise.simulator.plot import draw, require_plots
    from lanewise.simulator.report import summarize
    from lanewise.simulator.simulation import Options, simulate

    model = load_costs(costs)
    arrivals = _open_traffic(TrafficArguments(**traffic), model.spec, seed)
    if json_file is not None:
        _require_folder(json_file)
    if plot_file is not None:
        _require_folder(plot_file)
        require_plots()
    options = Options(max_queue_requests, learned=not unlearned, varied=varied, seed=seed)
    results = {name: simulate(model, arrivals, known.POLICIES[name], options) for name in policies}
    reports = [summarize(name, result) for name, result in results.items()]
    open_console().print(_totals(reports), _kinds(reports), _lanes(reports))
    if json_file is not None:
        _write_json(json_file, reports)
    if plot_file is not None:
        draw(results, plot_file)


def _open_traffic(arguments: TrafficArguments, spec: ModelSpec, seed: int) -> Iterable[Arrival]:
    from lanewise.simulator.mix import (
        default_mix,
        parse_kind,
        require_admitted,
        scale,
    )
    from lanewise.simulator.trace import TraceFile
    from lanewise.simulator.traffic import Traffic

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
    return Traffic(spec, mix, arguments.duration_s, seed, arguments.burst)


def _require_folder(file: Path) -> None:
    """Fail before the simulation, which may take long, if `file` could not be written after it."""
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
