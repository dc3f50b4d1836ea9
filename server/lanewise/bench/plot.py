"""Pictures of a run; needs matplotlib, which comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lanewise.bench.figures import LoadFigures
from lanewise.clock import NS_PER_MS
from lanewise.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 250
"""Of a curve: more could not be distinguished, and would make the file large."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def draw(loads: Sequence[LoadFigures], path: Path) -> None:
    """Draw latencies by load, and their course over time.

    Args:
        loads: what to draw.
        path: its ending, .svg or .png, selects the format.

    Raises:
        ConfigError: the file cannot be written, or matplotlib does not know the format.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 7), layout="constrained")
    (latencies, rates), (median, tail) = figure.subplots(2, 2)
    _draw_latencies(latencies, loads)
    _draw_course(rates, loads, "answered_per_s", "answered/s")
    _draw_course(median, loads, "p50_ms", "p50, ms")
    _draw_course(tail, loads, "p99_ms", "p99, ms")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be drawn: {error}") from error


def _draw_latencies(axes: Axes, loads: Sequence[LoadFigures]) -> None:
    shares = 1 - np.geomspace(1, 1e-4, MAX_POINTS)
    for load in loads:
        if load.latencies.count:
            times = [load.latencies.quantile_ns(share) / NS_PER_MS for share in shares]
            axes.plot(times, 1 - shares, label=load.load)
    axes.set(xlabel="latency, ms", ylabel="share that takes longer", xscale="log", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    if axes.get_lines():
        axes.legend(fontsize="small")


def _draw_course(axes: Axes, loads: Sequence[LoadFigures], name: str, label: str) -> None:
    for load in loads:
        times = [point.at_s for point in load.course]
        axes.plot(times, [getattr(point, name) for point in load.course], label=load.load)
    axes.set(xlabel="time, s", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
