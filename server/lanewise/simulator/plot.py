"""Pictures of simulations; needs matplotlib, which comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lanewise.clock import NS_PER_MS, NS_PER_S
from lanewise.errors import ConfigError
from lanewise.simulator.simulation import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

BINS = 100
"""Points in time at which occupancy is shown."""

MAX_POINTS = 250
"""Of a curve: more than can be told apart would make the file large."""


def require_plots() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            "a plot needs matplotlib, which is not installed: pip install 'lanewise[plots]'"
        ) from error


def draw(results: Mapping[str, Result], path: Path) -> None:
    """Draw latencies by kind and the lanes' occupancy over time, a row for each policy.

    Args:
        results: by the policy's name.
        path: its ending, such as .svg or .png, tells the format. The same results always
            give the same file.

    Raises:
        ConfigError: matplotlib is not installed, does not know the format, or the file
            cannot be written.
    """
    require_plots()
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 3.2 * len(results)), layout="constrained")
    rows = figure.subplots(len(results), 2, squeeze=False, sharex="col")
    for (policy, result), (left, right) in zip(results.items(), rows, strict=True):
        _draw_latencies(left, policy, result)
        _draw_occupancy(right, policy, result)
    rows[-1][0].set_xlabel("latency, ms")
    rows[-1][1].set_xlabel("time, s")
    try:
        # Letters that stay text are smaller than their outlines, and can be searched.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lanewise"}):
            figure.savefig(path, metadata=_metadata(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be drawn: {error}") from error


def _metadata(path: Path) -> dict[str, None]:
    """Leave out when a picture was drawn, in the formats that would tell: SVG, but not PNG."""
    return {"Date": None} if path.suffix.lower() in {".svg", ".svgz"} else {}


def _draw_latencies(axes: Axes, policy: str, result: Result) -> None:
    for name, outcome in sorted(result.outcomes.kinds.items()):
        if outcome.latencies_ns:
            shares = np.linspace(0, 1, min(len(outcome.latencies_ns), MAX_POINTS))
            axes.plot(np.quantile(outcome.latencies_ns, shares) / NS_PER_MS, shares, label=name)
    axes.set(title=policy, ylabel="share of completed requests", ylim=(0, 1), xscale="log")
    axes.grid(visible=True, alpha=0.3)
    if axes.get_lines():
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_occupancy(axes: Axes, policy: str, result: Result) -> None:
    edges = np.linspace(result.began_ns, max(result.ended_ns, result.began_ns + 1), BINS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2 - result.began_ns) / NS_PER_S
    for lane, busy in zip(result.lanes, result.busy, strict=True):
        axes.plot(middles, occupancy(busy, edges), label=f"{lane.lane_id} {lane.profile.name}")
    axes.set(title=policy, ylabel="share of time busy", ylim=(0, 1.02))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def occupancy(busy: Sequence[int], edges: Floats) -> Floats:
    """Compute the busy share of each of the n - 1 spans between n ascending `edges`.

    `busy` is when something began and when it was over, in turn and ascending.
    """
    if not len(busy):
        return np.zeros(len(edges) - 1)
    times = np.asarray(busy, dtype=np.float64)
    # Time busy until each of `times`: it grows from a beginning to its end, and then rests.
    grown = np.zeros(len(times))
    grown[1::2] = times[1::2] - times[::2]
    shares: Floats = np.diff(np.interp(edges, times, np.cumsum(grown))) / np.diff(edges)
    return shares
