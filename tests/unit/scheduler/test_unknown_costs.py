"""Requests to lanes of whose launches nothing is known yet."""

from __future__ import annotations

import pytest

from helpers.sim import model, profile
from lanewise.clock import NS_PER_MS
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.policy.cost_aware import CostAwarePolicy
from lanewise.scheduler.request import End, Launch, Request

MS = NS_PER_MS


@pytest.fixture
def costs():
    return CostTable()


@pytest.fixture
def core(costs):
    spec = model(profile(0, (1, 64, 64)))
    lanes = [Lane(LaneId(0), spec.profiles[0])]
    return Scheduler(spec, lanes, CostAwarePolicy(costs), costs, max_queue_requests=10)


def request(core, rows, deadline_ns):
    route = core.router.route({"X": (rows,)})
    return Request(route, route.shapes, deadline_ns)


def test_none_is_refused_at_arrival_for_a_guess(core):
    (busy,) = core.arrive(request(core, 64, None), 0)
    assert isinstance(busy, Launch)

    assert core.arrive(request(core, 64, MS), 0) == []
    *_, launch = core.finish(busy, MS // 2)  # the end of the first comes before

    assert isinstance(launch, Launch)


def test_one_is_refused_once_costs_are_known(core, costs):
    costs.record(0, 64, 0, 4 * MS)
    core.arrive(request(core, 64, None), 0)

    (refusal,) = core.arrive(request(core, 64, MS), 0)

    assert isinstance(refusal, End)


def test_one_whose_time_is_over_expires_all_the_same(core):
    core.arrive(request(core, 64, None), 0)
    core.arrive(request(core, 64, MS), 0)

    (expired,) = core.tick(MS)

    assert isinstance(expired, End)
