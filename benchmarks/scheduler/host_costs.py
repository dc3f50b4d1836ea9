"""What the thread that decides spends on a request and on a launch, on lanes that do nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from benchmarks.scheduler.replay import Inputs
from lanewise.backends.runner import Batch, LoadedModel, PendingBatch, Runner
from lanewise.clock import SystemClock
from lanewise.model.runner_status import RunnerMemory
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Array, Shape
from lanewise.scheduler.costs.file import HostCosts
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.simulator.simulation import MakePolicy

REQUESTS = 400
TOGETHER = 20
"""Requests that are submitted at once, so that they share launches."""

ROWS = 2
"""Of each request: more than a profile for single rows admits, so that they can share launches."""


async def measure_host(
    spec: ModelSpec, loaded: LoadedModel, costs: CostTable, policy: MakePolicy
) -> HostCosts:
    """Measure what the event loop's thread computes for a request and for a launch.

    CPU time of that thread, so that other threads and processes do not count. Small
    requests one after the other have a launch each; those submitted together share launches: the
    two averages give both costs.

    Args:
        spec: whose outputs the idle lanes make up; all its requests are of its first profile's
            opt, but for their rows.
        loaded: whose lanes the idle ones are like.
        costs: what the policy believes of the lanes; changed to what idle lanes cost.
        policy: makes the policy that decides.
    """
    polled = not spec.backend.startswith(("onnx", "simulated"))
    lanes = tuple(_IdleRunner(spec, runner, polled=polled) for runner in loaded.runners)
    dispatcher = Dispatcher(
        LoadedModel(spec, cast("tuple[Runner, ...]", lanes)),
        SystemClock(),
        max_queue_requests=REQUESTS,
        policy=policy,
        costs=costs,
    )
    try:
        await _measure(dispatcher, 1)  # the first time is not like the others
        one = await _measure(dispatcher, 1)
        many = await _measure(dispatcher, TOGETHER)
    finally:
        await dispatcher.close()
    return solve(one, many)


@dataclass(frozen=True, slots=True)
class Spent:
    """What requests took in all."""

    requests: int
    launches: int
    cpu_ns: int


def solve(one: Spent, other: Spent) -> HostCosts:
    """Find what a request and a launch cost from two mixes of both; never below 0."""
    share, other_share = one.launches / one.requests, other.launches / other.requests
    mean_ns, other_mean_ns = one.cpu_ns / one.requests, other.cpu_ns / other.requests
    launch_ns = 0.0
    if share != other_share:
        launch_ns = max(0.0, (mean_ns - other_mean_ns) / (share - other_share))
    return HostCosts(round(max(0.0, mean_ns - share * launch_ns)), round(launch_ns))


async def _measure(dispatcher: Dispatcher, together: int) -> Spent:
    inputs = _requests_of(dispatcher.spec, ROWS)
    launches = _count_launches(dispatcher)
    gc.collect()
    began_ns = time.thread_time_ns()
    for _ in range(REQUESTS // together):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(together):
                tasks.create_task(dispatcher.submit(inputs))
    spent_ns = time.thread_time_ns() - began_ns
    return Spent(REQUESTS, _count_launches(dispatcher) - launches, spent_ns)


def _requests_of(spec: ModelSpec, rows: int) -> Mapping[str, Array]:
    """Make the inputs of a request, at the opt of the first profile but for its rows."""
    shapes = []
    for tensor in spec.inputs:
        opt = spec.profiles[0].ranges[tensor.name].opt
        shapes.append((rows, *opt[1:]) if tensor.name in spec.rowwise else opt)
    return Inputs(spec).of(shapes)


def _count_launches(dispatcher: Dispatcher) -> int:
    return sum(lane.counters.launches for lane in dispatcher.status())


class _Done:
    """A batch that is over as soon as it has begun."""

    def __init__(self, outputs: dict[str, Array]) -> None:
        self._outputs = outputs

    def is_done(self) -> bool:
        return True

    def result(self) -> dict[str, Array]:
        return self._outputs


class _IdleRunner:
    """A runner like another that does nothing, and has the same outputs for every batch.

    Args:
        polled: whether it is polled on the event loop, or called on a thread.
    """

    def __init__(self, spec: ModelSpec, like: Runner, *, polled: bool) -> None:
        self._like = like
        self._polled = polled
        rows = like.profile.rows.max
        self._outputs: dict[str, Array] = {
            output.name: np.zeros((rows, 1)) for output in spec.outputs
        }

    @property
    def profile(self) -> Profile:
        return self._like.profile

    @property
    def depth(self) -> int:
        return self._like.depth

    @property
    def row_counts(self) -> tuple[int, ...]:
        return self._like.row_counts

    def warm_up(self) -> None:
        pass

    def is_warm(self, shapes: Mapping[str, Shape]) -> bool:
        return True

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        pass

    def run(self, batch: Batch) -> dict[str, Array]:
        return self._outputs

    def start(self, batch: Batch) -> PendingBatch | None:
        return _Done(self._outputs) if self._polled else None

    def memory(self) -> RunnerMemory:
        return RunnerMemory()

    def interrupt(self) -> bool:
        return False

    def graph_counts(self) -> None:
        return None

    def close(self) -> None:
        pass
