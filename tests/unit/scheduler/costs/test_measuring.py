"""Costs measured before the first request comes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from helpers.sim import model, profile
from lanewise.backends.host_runner import HostRunner
from lanewise.backends.threads import RunnerThreads
from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.errors import ShapeMismatch
from lanewise.scheduler.costs.measuring import MeasuredLane, measure_costs
from lanewise.scheduler.costs.table import CostTable

COPY_MS, EXECUTE_MS = 20, 40


def measured(spec, runners):
    """The costs of lanes with these runners, as a model measures them before it is ready."""
    costs = CostTable()

    async def scenario():
        lanes = [
            MeasuredLane(runner, RunnerThreads(runner.depth, runner.profile.name))
            for runner in runners
        ]
        await measure_costs(spec, lanes, costs, SystemClock())
        for lane in lanes:
            lane.threads.stop()

    asyncio.run(scenario())
    return costs


class TwoSteps(HostRunner):
    """Copies two batches at a time and executes them one after the other."""

    depth = 2

    def __init__(self, spec, one):
        super().__init__(spec, one, self.execute)
        self._turn = threading.Lock()

    def execute(self, inputs):
        SystemClock().block_for(COPY_MS * NS_PER_MS)
        with self._turn:
            SystemClock().block_for(EXECUTE_MS * NS_PER_MS)
        return {"Y": inputs["X"]}


def test_what_a_lane_does_ahead_is_what_it_gains_when_it_is_kept_full():
    spec = model(profile(0, (1, 1, 1)))

    costs = measured(spec, [TwoSteps(spec, spec.profiles[0])])

    # The first of all is copied before anything can be executed.
    assert costs.ahead == {0: pytest.approx(COPY_MS / (COPY_MS + EXECUTE_MS), abs=0.1)}


class Disturbing(HostRunner):
    """Takes longer the more rows others run when it begins."""

    def __init__(self, spec, one, running):
        super().__init__(spec, one, self.execute)
        self.running = running

    def execute(self, inputs):
        others = sum(rows for index, rows in self.running.items() if index != self.profile.index)
        self.running[self.profile.index] = inputs["X"].shape[0]
        SystemClock().block_for(round((EXECUTE_MS / 8 + 2 * others) * NS_PER_MS))
        self.running[self.profile.index] = 0
        return {"Y": inputs["X"]}


def test_lanes_are_measured_beside_the_opt_and_the_most_rows_of_others():
    spec = model(profile(0, (1, 1, 1)), profile(1, (1, 4, 32)))

    running = {}
    costs = measured(spec, [Disturbing(spec, one, running) for one in spec.profiles])

    slowdowns = {(one.profile, one.other, one.rows): one.slowdown for one in costs.pairs()}
    assert slowdowns.keys() == {(0, 1, 4), (0, 1, 32), (1, 0, 1)}
    assert slowdowns[0, 1, 4] < slowdowns[0, 1, 32]


def contrary_at_most(inputs):
    """Refuse the largest shapes of the profile, as inputs that contradict each other."""
    if inputs["X"].shape[1] == LONGEST:
        raise ShapeMismatch("the inputs do not go together")
    return {"Y": inputs["X"]}


LONGEST = 64


def test_largest_shapes_that_cannot_be_executed_are_left_out():
    spec = model(profile(0, (1, 1, 2), [(1, 8, LONGEST)]))

    costs = measured(spec, [HostRunner(spec, spec.profiles[0], contrary_at_most)])

    assert {(kind.rows, kind.bucket) for kind, _ in costs.kinds()} == {(1, 3), (2, 3)}
