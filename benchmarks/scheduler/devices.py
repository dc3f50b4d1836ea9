"""Two models on an NVIDIA H200, as measured, for the simulator.

TensorRT-RTX 1.6.1.120, FP16, driver 580, 2026-11-22, contexts activated before. What was not
measured is said so beside it.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import random
from collections.abc import Callable, Sequence

from lanewise.model.spec import ModelSpec, Profile, RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, DType, Shape, TensorSpec
from lanewise.scheduler.costs.estimate import KEPT_SAMPLES
from lanewise.scheduler.costs.file import MeasuredModel
from lanewise.scheduler.costs.table import CostTable, bucket_of
from lanewise.scheduler.lane import Lane, LaneId

ROWS = ((1, 1, 1), (1, 4, 32), (128, 128, 128))
"""Least, preferred and most rows of the profiles: somebody waits; moderate load; bulk work."""

ROW_COUNTS = (1, 2, 4, 8, 16, 32, 128)
"""Numbers of rows that are warm; others are padded, for every policy."""

QUEUE_DELAY_NS = 2_000_000

RESNET_MS = {
    0: {1: 0.82},
    1: {1: 0.79, 2: 0.98, 4: 0.88, 8: 1.03, 16: 1.33, 32: 2.09},
    2: {128: 5.42},
}
"""ResNet-50, 3x224x224: milliseconds by profile and rows."""

BERT_MS = ((32, 0.52), (8 * 64, 0.59), (32 * 128, 0.70), (128 * 128, 2.02))
"""A 6-layer, 384-wide BERT encoder: milliseconds by rows x tokens. Measured at four points;
straight lines between them."""

CHANGE_NS = 480_000
"""Rows 4 and 8 in turn in one context took 1.43 ms a launch instead of 0.95 ms."""

SWITCH_NS = 1_300_000
"""A pair of launches through one context that changes its profile took 4.35 ms, and 1.75 ms
through two contexts one after the other: two changes."""

AHEAD = 0.3
"""Of a launch on lanes that work ahead. Assumed, not measured."""

BESIDE = {
    # Both small: a pair took 1.32 ms instead of 1.70 ms.
    (0, 1): 1.54,
    (1, 0): 1.54,
    # One row beside 128 on a stream of high priority: its median went from 0.82 to 1.13 ms,
    # and the bulk work lost 4 %; 10 % is assumed, for single rows without a pause.
    (0, 2): 1.38,
    (2, 0): 1.10,
    # Not measured; together they are as fast as the pair that was, 1.3 times one alone.
    (1, 2): 1.60,
    (2, 1): 1.45,
}
"""How many times longer the first profile takes while the second runs."""


def resnet() -> MeasuredModel:
    """Get ResNet-50: one shape, only rows vary."""
    item = (3, 224, 224)
    spec = _spec("resnet50", DType.FP16, [(n, n, n) for n in item])
    costs = _empty_costs()
    for profile, by_rows in RESNET_MS.items():
        for rows, ms in by_rows.items():
            costs.record(profile, rows, bucket_of([item]), round(ms * 1e6))
    return _measured(spec, costs)


def bert() -> MeasuredModel:
    """Get the BERT encoder: 16 to 128 tokens, which may not be stacked with other lengths."""
    spec = _spec("bert", DType.INT64, [(16, 64, 128)])
    costs = _empty_costs()
    for tokens in (16, 32, 64, 128):
        for lane in _lanes(spec):
            for rows in lane.row_counts:
                ms = _bert_ms(rows * tokens)
                costs.record(lane.profile.index, rows, bucket_of([(tokens,)]), round(ms * 1e6))
    return _measured(spec, costs)


def mistaken(costs: CostTable, share: float, seed: int) -> CostTable:
    """Get costs like these, the time of each kind of launch wrong by up to `share`.

    As certain as can be: a whole memory of such times has to be outweighed by true ones.
    """
    draw = random.Random(seed)
    wrong = copy.deepcopy(costs)
    for kind, estimate in costs.kinds():
        took_ns = round(estimate.typical_ns * draw.uniform(1 - share, 1 + share))
        for _ in range(KEPT_SAMPLES):
            wrong.record(*kind, took_ns)
    return wrong


def working_ahead(model: MeasuredModel) -> MeasuredModel:
    """Get the same lanes, but each does AHEAD of a launch while the one before it executes."""
    costs = copy.deepcopy(model.costs)
    costs.ahead = {profile.index: AHEAD for profile in model.spec.profiles}
    lanes = tuple(Lane(one.lane_id, one.profile, 2, one.row_counts) for one in model.lanes)
    return dataclasses.replace(model, lanes=lanes, costs=costs)


def serial(model: MeasuredModel) -> MeasuredModel:
    """Get the same lanes without anything but the time of a launch that runs alone."""
    costs = CostTable()
    for kind, estimate in model.costs.kinds():
        costs.record(kind.profile, kind.rows, kind.bucket, estimate.typical_ns)
    return _measured(model.spec, costs)


def launch_ns(model: MeasuredModel, rows: int, shapes: Sequence[Shape]) -> int | None:
    """Get the least time of one launch of `rows` rows alone; None if no lane takes so many."""
    bucket = bucket_of(shapes)
    return min(
        (
            model.costs.typical_ns(lane.profile.index, lane.padded(rows), bucket)
            for lane in model.lanes
            if rows <= lane.profile.rows.max
        ),
        default=None,
    )


def _bert_ms(tokens: int) -> float:
    points = BERT_MS
    right = min(max(1, bisect.bisect_left(points, (tokens, 0.0))), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return max(points[0][1], y0 + (y1 - y0) * (tokens - x0) / (x1 - x0))


def _empty_costs() -> CostTable:
    costs = CostTable()
    costs.change_ns = dict.fromkeys(range(len(ROWS)), CHANGE_NS)
    costs.switch_ns = SWITCH_NS
    for (profile, other), slowdown in BESIDE.items():
        costs.record_beside(profile, other, 1, slowdown)  # for any rows
    return costs


def _spec(name: str, dtype: DType, item: Sequence[tuple[int, int, int]]) -> ModelSpec:
    def profile(index: int, rows: tuple[int, int, int]) -> Profile:
        pick: Callable[[int], Shape] = lambda i: (rows[i], *(size[i] for size in item))  # noqa: E731
        ranges = {"X": ShapeRange(pick(0), pick(1), pick(2))}
        names = ("online", "dynamic", "offline")
        return Profile(index, names[index], ranges, RowRange(*rows), QUEUE_DELAY_NS)

    x = TensorSpec("X", dtype, (DYNAMIC,) * (1 + len(item)))
    y = TensorSpec("Y", DType.FP16, (DYNAMIC, DYNAMIC))
    profiles = tuple(profile(i, rows) for i, rows in enumerate(ROWS))
    return ModelSpec(name, "1", "simulated", (x,), (y,), True, frozenset({"X"}), profiles)


def _lanes(spec: ModelSpec) -> tuple[Lane, ...]:
    return tuple(
        Lane(
            LaneId(profile.index),
            profile,
            row_counts=tuple(n for n in ROW_COUNTS if profile.rows.min <= n <= profile.rows.max),
        )
        for profile in spec.profiles
    )


def _measured(spec: ModelSpec, costs: CostTable) -> MeasuredModel:
    return MeasuredModel(spec, _lanes(spec), costs, source="NVIDIA H200, 2026-11-22")
