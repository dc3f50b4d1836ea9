"""Measures what launches cost before the first request comes, on the runners themselves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lanewise.backends.inputs import (
    Corner,
    blank_batch_at,
    corner_shapes,
    tuned_corner,
    warm_corners,
)
from lanewise.backends.runner import Batch, Runner
from lanewise.backends.threads import RunnerThreads
from lanewise.clock import NS_PER_S, Clock
from lanewise.errors import ExecutionFailed, ShapeMismatch
from lanewise.model.spec import ModelSpec, Profile
from lanewise.scheduler.costs.table import Bucket, CostTable, bucket_of

RUNS = 5
"""Launches of a kind in a row: enough for a median."""

ROUNDS = 6
"""How often every kind has its turn, if there is time: some noise of the machine then spoils a part
of the launches of every kind, and not all of one."""

ROUNDS_NS = NS_PER_S // 2
"""When no further round is begun: a server that starts has more urgent things to do."""

BUDGET_NS = 2 * NS_PER_S
"""Time for the launches of one model after the first of each kind, so that models of slow launches
are not kept from serving."""


@dataclass(frozen=True, slots=True)
class MeasuredLane:
    """A runner and the threads it is called on."""

    runner: Runner
    threads: RunnerThreads

    async def run(self, batch: Batch) -> None:
        await self.threads.call(functools.partial(self.runner.run, batch))


async def measure_costs(
    spec: ModelSpec, lanes: Sequence[MeasuredLane], costs: CostTable, clock: Clock
) -> None:
    """Record what every number of rows costs in every profile, and every two side by side.

    Takes a launch of each kind, and BUDGET_NS for more of them and for the pairs: each beside
    the opt of the other first, then beside the most rows it executes. Pairs of
    profiles that remain unmeasured are taken not to disturb each other.

    Args:
        spec: of the model.
        lanes: of every runner of the model, warmed up and idle.
        costs: what is measured is added to these.
        clock: to measure with.
    """
    first_of = {lane.runner.profile.index: lane for lane in reversed(lanes)}
    kinds = [(lane, *kind) for lane in first_of.values() for kind in _kinds(spec, lane.runner)]
    at_opt = [(one, other, _opt_rows(other)) for one, other in itertools.permutations(lanes, 2)]
    # The more rows a lane runs, the less is left of the device for others.
    at_most = [
        (one, other, _most_rows(other)) for one, other, opt in at_opt if _most_rows(other) > opt
    ]
    slowdowns: dict[tuple[int, int, int], list[float]] = {}
    began_ns = clock.now_ns()
    end_ns = began_ns + BUDGET_NS

    async def measure_pairs(some: Sequence[tuple[MeasuredLane, MeasuredLane, int]]) -> None:
        for one, other, rows in some:
            if clock.now_ns() >= end_ns:
                return
            try:
                slowdown = await _measure_pair(spec, one, other, rows, costs=costs, clock=clock)
            except (ShapeMismatch, ExecutionFailed):
                continue
            key = (one.runner.profile.index, other.runner.profile.index, rows)
            found = slowdowns.setdefault(key, [])
            found.append(slowdown)
            costs.record_beside(*key, statistics.median(found))

    for turn in range(ROUNDS):
        if turn and clock.now_ns() >= began_ns + ROUNDS_NS:
            break
        for lane, rows, batch, bucket in kinds:
            for run in range(RUNS):
                if (turn or run) and clock.now_ns() >= end_ns:
                    break
                try:
                    took_ns = await _time(lane, batch, clock)
                except (ShapeMismatch, ExecutionFailed):
                    # The largest shapes of several inputs need not go together, and not every
                    # model runs on made-up inputs: traffic will tell.
                    break
                costs.record(lane.runner.profile.index, rows, bucket, took_ns)
        await measure_pairs(at_opt)
    for lane in first_of.values():
        if lane.runner.depth > 1 and clock.now_ns() < end_ns:
            with contextlib.suppress(ShapeMismatch, ExecutionFailed):
                ahead = await _measure_ahead(spec, lane, costs, clock)
                costs.ahead[lane.runner.profile.index] = ahead
    await measure_pairs(at_most)


async def _time(lane: MeasuredLane, batch: Batch, clock: Clock) -> int:
    began_ns = clock.now_ns()
    await lane.run(batch)
    return clock.now_ns() - began_ns


def _kinds(spec: ModelSpec, runner: Runner) -> Iterator[tuple[int, Batch, Bucket]]:
    """Iterate over the launches of a runner that are worth knowing: rows, batch and bucket."""
    profile = runner.profile
    seen = set()
    for corner in warm_corners(spec, profile):
        bucket = _bucket(spec, profile, corner)
        # Where values decide on shapes, not every end can be executed; the opt can.
        if bucket not in seen and (corner.end == "opt" or not profile.values):
            seen.add(bucket)
            for rows in _row_counts(runner):
                yield rows, blank_batch_at(spec, profile, corner, rows), bucket


def _some_rows(profile: Profile) -> tuple[int, ...]:
    """Choose numbers of rows for a lane that may execute any: powers of two, and the ends."""
    return tuple(sorted(profile.rows.powers_of_two | {profile.rows.opt}))


def _bucket(spec: ModelSpec, profile: Profile, corner: Corner) -> Bucket:
    shapes = corner_shapes(spec, profile, corner)
    return bucket_of(
        [shape[1:] if name in spec.rowwise else shape for name, shape in shapes.items()]
    )


def _row_counts(runner: Runner) -> Sequence[int]:
    return runner.row_counts or _some_rows(runner.profile)


def _opt_rows(lane: MeasuredLane) -> int:
    """Get the number of rows that is executed for as many as the profile is tuned for."""
    opt = lane.runner.profile.rows.opt
    return next(count for count in _row_counts(lane.runner) if count >= opt)


def _most_rows(lane: MeasuredLane) -> int:
    return _row_counts(lane.runner)[-1]


async def _measure_pair(
    spec: ModelSpec,
    one: MeasuredLane,
    other: MeasuredLane,
    rows: int,
    *,
    costs: CostTable,
    clock: Clock,
) -> float:
    """Find how many times longer `one` takes at its opt while `other` is kept full with `rows`."""
    own_rows, batch, bucket = _tuned(spec, one.runner)
    profile = other.runner.profile
    beside = blank_batch_at(spec, profile, tuned_corner(spec, profile), rows)
    stop = False

    async def keep_busy() -> None:
        while not stop:
            await other.run(beside)

    busy = [asyncio.ensure_future(keep_busy()) for _ in range(other.runner.depth)]
    try:
        taken_ns = [await _time(one, batch, clock) for _ in range(RUNS)]
    finally:
        stop = True
        await asyncio.gather(*busy)
    alone_ns = costs.typical_ns(one.runner.profile.index, own_rows, bucket)
    return statistics.median(taken_ns) / alone_ns


async def _measure_ahead(
    spec: ModelSpec, lane: MeasuredLane, costs: CostTable, clock: Clock
) -> float:
    """Find the share of a launch that passes beside the one before it if the lane is kept full."""
    rows, batch, bucket = _tuned(spec, lane.runner)
    launches = RUNS * lane.runner.depth
    waiting = iter(range(launches))

    async def keep_busy() -> None:
        for _ in waiting:
            await lane.run(batch)

    began_ns = clock.now_ns()
    await asyncio.gather(*(keep_busy() for _ in range(lane.runner.depth)))
    each_ns = (clock.now_ns() - began_ns) / launches
    return max(0.0, 1 - each_ns / costs.typical_ns(lane.runner.profile.index, rows, bucket))


def _tuned(spec: ModelSpec, runner: Runner) -> tuple[int, Batch, Bucket]:
    profile = runner.profile
    rows, corner = profile.rows.opt, tuned_corner(spec, profile)
    return rows, blank_batch_at(spec, profile, corner, rows), _bucket(spec, profile, corner)
