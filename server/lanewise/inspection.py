"""Prints what a model is: tensors, profiles and lanes, from disk or from a running server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.engine.repository import find_models, load_model
from lanewise.errors import ConfigError
from lanewise.model_settings import read_model_settings
from lanewise.rpc.metadata import describe_model
from lanewise_client import Client, ModelLanes, ModelMetadata
from lanewise_client.metadata import parse_model_metadata

READ_TIMEOUT_S = 10.0
READY = "ready"
_UNITS = ("B", "KiB", "MiB", "GiB")


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
            _print_problem(f"cannot be served: {error}", console)
            continue
        for runner in loaded.runners:
            runner.close()
        _print_model(parse_model_metadata(describe_model(loaded.spec, [source.version])), console)
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
    return all_ready


def _print_heading(name: str, version: str, console: Console) -> None:
    console.print(f"\nmodel {name}, version {version or '-'}", style="bold", highlight=False)


def _print_problem(text: str, console: Console) -> None:
    console.print(text, style="red", markup=False, highlight=False)


def _print_model(model: ModelMetadata, console: Console) -> None:
    batching = "rows are stacked" if model.batching else "every request runs alone"
    console.print(f"backend {model.backend}; {batching}", highlight=False)
    tensors = _table("", "tensor", "datatype", "shape")
    for kind, described in (("input", model.inputs), ("output", model.outputs)):
        for tensor in described:
            tensors.add_row(kind, tensor.name, tensor.datatype, _sizes(tensor.shape))
    profiles = _table("index", "profile", "input", "min", "opt", "max", "max queue delay")
    for profile in model.profiles:
        first = (str(profile.index), profile.name)
        delay = f"{profile.max_queue_delay_ms:g} ms"
        for name, limits in profile.ranges.items():
            shapes = (_sizes(limits.min), _sizes(limits.opt), _sizes(limits.max))
            profiles.add_row(*first, name, *shapes, delay)
            first, delay = ("", ""), ""
    console.print(tensors, profiles, sep="\n")


def _print_lanes(model: ModelLanes, console: Console) -> None:
    lanes = _table(
        "lane", "profile", "state", "launches", "requests", "rows", "padding", "mean queue",
        "mean execution", "host", "device",
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
            _size(lane.host_bytes),
            _size(lane.device_bytes),
        )
    console.print(lanes)
    console.print(f"{model.waiting_requests} requests wait", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _sizes(shape: Iterable[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _mean_ms(total_ns: int, count: int) -> str:
    return f"{total_ns / count / NS_PER_MS:.2f} ms" if count else "-"


def _size(count: int) -> str:
    """Write a number of bytes in the largest unit of which it is at least one; - for none."""
    if not count:
        return "-"
    unit = min((count.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{count / 2 ** (10 * unit):.4g} {_UNITS[unit]}"
