"""Models whose costs are known, to be simulated."""

from __future__ import annotations

from collections.abc import Mapping

from helpers.sim import mission_model
from lanewise.clock import NS_PER_MS
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.costs.file import HostCosts, MeasuredModel
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.lane import Lane, LaneId

SCALAR_BUCKET = 0
"""Of rows with a single element, as those of `mission_model`."""


def measured_model(
    times_ms: Mapping[tuple[int, int], float | tuple[float, ...]],
    *,
    beside: Mapping[tuple[int, int], float] | None = None,
    change_ms: Mapping[int, float] | None = None,
    switch_ms: float = 0.0,
    depth: int = 1,
    host: HostCosts | None = None,
    spec: ModelSpec | None = None,
) -> MeasuredModel:
    """A model with a lane for each profile and these costs.

    Args:
        times_ms: by profile and rows: the time of a launch, or several samples of it.
        beside: by a profile and the other that runs beside it.
        change_ms: by profile.
        spec: by default, the three profiles of `mission_model`.
    """
    spec = spec or mission_model()
    costs = CostTable()
    for (profile, rows), times in times_ms.items():
        for time_ms in times if isinstance(times, tuple) else (times,):
            costs.record(profile, rows, SCALAR_BUCKET, round(time_ms * NS_PER_MS))
    for pair, slowdown in (beside or {}).items():
        costs.record_beside(*pair, 1, slowdown)
    costs.change_ns = {p: round(ms * NS_PER_MS) for p, ms in (change_ms or {}).items()}
    costs.switch_ns = round(switch_ms * NS_PER_MS)
    lanes = tuple(Lane(LaneId(i), p, depth) for i, p in enumerate(spec.profiles))
    return MeasuredModel(spec, lanes, costs, host or HostCosts())
