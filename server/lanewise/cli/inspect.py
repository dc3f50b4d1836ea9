"""`lanewise inspect`: tensors, profiles and lanes of models on disk, or of a running server."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console

from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import ModelSource, PlanReport
from lanewise.backends.trt.build.plan_header import read_plan_header
from lanewise.cli.main import BACKENDS, Address, is_address
from lanewise.cli.tables import make_table, open_console
from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.errors import ConfigError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import NO_LIMIT, format_shape
from lanewise.rpc.inference.metadata import describe_model
from lanewise.settings.model import SchedulingSettings, read_model_settings
from lanewise.telemetry.logs import configure_logging
from lanewise_client import Client, Lane, ModelCosts, ModelLanes, ModelMetadata
from lanewise_client.metadata import parse_model_metadata

READ_TIMEOUT_S = 10.0
READY = "ready"
PLAN_SUFFIX = ".plan"
_UNITS = ("B", "KiB", "MiB", "GiB")


class PathOrAddress(Address):
    """Takes a path, or else the address of a server."""

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Path:
        """Read what looks like neither as a path; what looks like a URL is refused."""
        if Path(value).exists() or not ("://" in value or is_address(value)):
            return Path(value)
        return super().convert(value, param, ctx)


@click.command("inspect")
@click.argument("target", metavar="PATH|HOST:PORT", type=PathOrAddress())
@click.option("--backend", type=BACKENDS, help="Only with PATH.")
def command(target: str | Path, backend: str | None) -> None:
    """Show tensors, profiles and lanes of the models at PATH, or of a running server.

    Exits with 1 if a model cannot be served.
    """
    configure_logging(format="console", level="warning")
    console = open_console()
    if isinstance(target, Path):
        sound = inspect_path(target, backend, console)
    else:
        sound = inspect_server(target, console)
    sys.exit(0 if sound else 1)


def inspect_path(path: Path, backend: str | None, console: Console) -> bool:
    """Print every model found at `path`, loading each; return whether all could be loaded.

    Raises:
        ConfigError: there is no model at `path`.
    """
    all_loaded = True
    for source in find_models(path):
        _print_heading(source.name, source.version, console)
        try:
            settings = read_model_settings(source.settings_file)
            loaded = load_model(source, settings, backend_override=backend, clock=SystemClock())
        except ConfigError as error:
            all_loaded = False
            _print_plan_header(source, console)
            _print_problem(f"cannot be served: {error}", console)
            continue
        for runner in loaded.runners:
            runner.close()
        _print_model(parse_model_metadata(describe_model(loaded.spec, [source.version])), console)
        _print_padding(loaded.spec, console)
        _print_scheduling(settings.scheduling, console)
        if loaded.plan is not None:
            names = [profile.name for profile in loaded.spec.profiles]
            print_plan(loaded.plan, names, console)
    return all_loaded


def inspect_server(address: str, console: Console) -> bool:
    """Print every model of the server at HOST:PORT; return whether all of them are ready.

    Raises:
        lanewise_client.ServingError: the server cannot be reached or does not answer.
    """
    all_ready = True
    with Client(address, timeout_s=READ_TIMEOUT_S) as client:
        server = client.server_metadata()
        console.print(f"{server.name} {server.version} at {address}", style="bold", highlight=False)
        for model in client.models():
            _print_heading(model.name, model.version, console)
            if model.state != READY:
                all_ready = False
                reason = f": {model.reason}" if model.reason else ""
                _print_problem(f"{model.state}{reason}", console)
                continue
            _print_model(client.model_metadata(model.name, model.version), console)
            _print_lanes(client.lanes(model.name, model.version), console)
            print_costs(client.costs(model.name, model.version), console)
    return all_ready


def _print_heading(name: str, version: str, console: Console) -> None:
    console.print(f"\nmodel {name}, version {version or '-'}", style="bold", highlight=False)


def _print_problem(text: str, console: Console) -> None:
    console.print(text, style="red", markup=False, highlight=False)


def _print_model(model: ModelMetadata, console: Console) -> None:
    batching = "rows are stacked" if model.batching else "every request runs alone"
    if reason := model.properties.get("batching_reason"):
        batching += f": {reason}"
    console.print(f"backend {model.backend}; {batching}", highlight=False, markup=False)
    tensors = make_table("", "tensor", "datatype", "shape")
    for kind, described in (("input", model.inputs), ("output", model.outputs)):
        for tensor in described:
            tensors.add_row(kind, tensor.name, tensor.datatype, format_shape(tensor.shape))
    profiles = make_table("index", "profile", "input", "min", "opt", "max", "max queue delay")
    for profile in model.profiles:
        first = (str(profile.index), profile.name)
        delay = f"{profile.max_queue_delay_ms:g} ms"
        for name, limits in profile.ranges.items():
            most = format_shape(tuple(NO_LIMIT if size < 0 else size for size in limits.max))
            shapes = (format_shape(limits.min), format_shape(limits.opt), most)
            profiles.add_row(*first, name, *shapes, delay)
            first, delay = ("", ""), ""
    console.print(tensors, profiles, sep="\n")


def _print_padding(spec: ModelSpec, console: Console) -> None:
    if spec.padding is None:
        return
    lengths = "; ".join(
        f"{profile.name} to {', '.join(map(str, profile.lengths))}" for profile in spec.profiles
    )
    text = f"{spec.padding.dimension} is padded, by profile: {lengths}"
    console.print(text, markup=False, highlight=False)


def _print_scheduling(settings: SchedulingSettings, console: Console) -> None:
    if settings == SchedulingSettings():
        return
    target_ms = settings.latency_target_ms
    target = "" if target_ms is None else f"latency target {target_ms:g} ms; "
    levels, default = settings.priority_levels, settings.resolve_priority(0)
    console.print(f"{target}priorities 1 to {levels}, by default {default}", highlight=False)


def _print_plan_header(source: ModelSource, console: Console) -> None:
    """Print the header of a plan that cannot be loaded; nothing if it is none."""
    if not source.file.name.endswith(PLAN_SUFFIX):
        return
    try:
        header = read_plan_header(source.file)
    except ConfigError:  # the very reason why it cannot be served
        return
    console.print(
        f"plan for backend {header.backend}, built by version {header.version}; "
        "the rest can be read only where it can be loaded",
        highlight=False,
    )


def print_plan(plan: PlanReport, profiles: Sequence[str], console: Console) -> None:
    """Print who built a plan, its precision, and what each of its `profiles` needs."""
    precision = ", ".join(sorted(dtype.value for dtype in plan.precision))
    console.print(
        f"plan built by {plan.builder}; its inputs and outputs are {precision}",
        highlight=False,
    )
    memory = make_table("profile", "inputs", "scratch", "device memory of a lane")
    values = make_table("profile", "shape tensor", "min values", "opt values", "max values")
    for profile, needs in zip(profiles, plan.profiles, strict=True):
        sizes = (needs.input_bytes, needs.scratch_bytes, needs.device_bytes)
        memory.add_row(profile, *map(_size, sizes))
        for name, admitted in needs.values.items():
            corners = (admitted.min, admitted.opt, admitted.max)
            values.add_row(profile, name, *map(format_shape, corners))
    console.print(memory)
    if values.rows:
        console.print(values)


def _print_lanes(model: ModelLanes, console: Console) -> None:
    lanes = make_table(
        "lane", "profile", "state", "launches", "requests", "rows", "padding", "mean queue",
        "mean execution", "mean predicted", "host", "device",
    )  # fmt: skip
    for lane in model.lanes:
        counted = lane.counters
        lanes.add_row(
            str(lane.lane_id),
            lane.profile.name,
            lane.state.value,
            str(counted.launches),
            str(counted.requests),
            str(counted.rows),
            _share(counted.padded_rows - counted.rows, counted.padded_rows),
            _mean_ms(counted.queue_ns, counted.requests),
            _mean_ms(counted.execution_ns, counted.launches),
            _mean_ms(counted.predicted_ns, counted.launches),
            _size(lane.host_bytes),
            _size(lane.device_bytes),
        )
    console.print(lanes)
    on_device = [lane for lane in model.lanes if lane.device_bytes or lane.graphs is not None]
    if on_device:
        _print_device_use(on_device, console)
    console.print(f"{model.waiting_requests} requests wait", highlight=False)


def _print_device_use(on_device: Iterable[Lane], console: Console) -> None:
    lanes = make_table(
        "lane", "profile", "pinned", "inputs, outputs", "scratch", "graphs", "graph memory",
        "graph launches", "other executions",
    )  # fmt: skip
    for lane in on_device:
        graphs, memory = lane.graphs, lane.memory
        misses = graphs.misses.items() if graphs else ()
        lanes.add_row(
            str(lane.lane_id),
            lane.profile.name,
            _size(memory.pinned_bytes),
            _size(memory.tensor_bytes),
            _size(memory.scratch_bytes),
            str(graphs.held) if graphs else "-",
            _size(memory.graph_bytes),
            str(graphs.launches) if graphs else "-",
            ", ".join(f"{count} {reason}" for reason, count in misses if count) or "-",
        )
    console.print(lanes)


def print_costs(costs: ModelCosts, console: Console) -> None:
    """Print what launches of each kind cost alone, and how much profiles disturb each other."""
    if not costs.launches:
        return
    launches = make_table(
        "profile",
        "rows executed",
        "elements without rows",
        "typical",
        "95 % within",
        "behind another",
        "samples",
    )
    for cost in costs.launches:
        launches.add_row(
            cost.profile,
            str(cost.rows),
            f"about 2^{cost.bucket}",
            _ms(cost.typical_ns),
            _ms(cost.safe_ns),
            _ms(cost.behind_ns) if cost.behind_ns else "-",
            str(cost.samples),
        )
    console.print(launches)
    if costs.pairs:
        pairs = make_table("profile", "while beside", "with rows", "times as long")
        for pair in costs.pairs:
            rows = str(pair.other_rows)
            pairs.add_row(pair.profile, pair.other, rows, f"{pair.slowdown:.2f}")
        console.print(pairs)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _mean_ms(total_ns: int, count: int) -> str:
    return f"{total_ns / count / NS_PER_MS:.2f} ms" if count else "-"


def _ms(time_ns: int) -> str:
    return f"{time_ns / NS_PER_MS:.3f} ms"


def _size(count: int) -> str:
    if not count:
        return "-"
    unit = min((count.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{count / 2 ** (10 * unit):.4g} {_UNITS[unit]}"
