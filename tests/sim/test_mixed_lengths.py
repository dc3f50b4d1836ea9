"""Requests of different lengths at one model: who shares a launch, and what that saves."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sim import Simulation, model, profile
from lanewise.clock import NS_PER_MS
from lanewise.model.spec import ModelSpec, Padding
from lanewise.scheduler.backlog import StackQueue
from lanewise.scheduler.costs.file import HostCosts, MeasuredModel, load_costs, save_costs
from lanewise.scheduler.costs.table import CostTable, bucket_of
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.policy.mixing import cheapest_groups
from lanewise.scheduler.policy.prices import Prices
from lanewise.simulator.policies import DEFAULT_POLICY, POLICIES
from lanewise.simulator.simulation import Options, simulate
from lanewise.simulator.traffic import Arrival

LENGTHS = (16, 32, 64, 128)


def padded_model(*item: tuple[tuple[int, int, int], tuple[int, ...]]) -> ModelSpec:
    """A model with a profile of up to 32 rows for each (min, opt, max) length and its lengths."""
    profiles = [
        replace(profile(i, (1, 8, 32), [limits], delay_ms=5), lengths=lengths)
        for i, (limits, lengths) in enumerate(item)
    ]
    return replace(model(*profiles), padding=Padding("tokens", {"X": 1}, {"X": 0}))


ONE_PROFILE = padded_model(((1, 64, 128), LENGTHS))


def costs_of(spec: ModelSpec, launch_ms: float = 1.0, token_ms: float = 0.002) -> CostTable:
    """Launches that take a time of their own, and some for each token executed."""
    costs = CostTable()
    for each in spec.profiles:
        for length, rows in itertools.product(each.lengths, (1, 2, 4, 8, 16, 32)):
            took_ms = launch_ms + token_ms * rows * length
            costs.record(each.index, rows, bucket_of([(length,)]), round(took_ms * NS_PER_MS))
    return costs


def simulated(spec: ModelSpec, arrivals: list[Arrival], policy: str = DEFAULT_POLICY):
    """Serve `arrivals` on a lane for each profile; get the result of the simulation."""
    lanes = tuple(Lane(LaneId(p.index), p, row_counts=(1, 2, 4, 8, 16, 32)) for p in spec.profiles)
    measured = MeasuredModel(spec, lanes, costs_of(spec), HostCosts())
    return simulate(measured, arrivals, POLICIES[policy], Options(checked=True))


def mean_batch(result) -> float:
    counters = [lane.counters for lane in result.lanes]
    return sum(c.requests for c in counters) / sum(c.launches for c in counters)


def busy_traffic(count: int = 600) -> list[Arrival]:
    """Three requests a millisecond, each of any length from 1 to 128."""
    draw = random.Random(3)
    at_ns = 0
    arrivals = []
    for _ in range(count):
        at_ns += round(draw.expovariate(3.0) * NS_PER_MS)
        arrivals.append(Arrival(at_ns, ((1, draw.randint(1, 128)),)))
    return arrivals


def test_mixed_lengths_batch_as_if_they_were_equal():
    padded = simulated(ONE_PROFILE, busy_traffic())
    first_fit = simulated(ONE_PROFILE, busy_traffic(), "first-fit")

    assert mean_batch(padded) >= 2 * mean_batch(first_fit)
    assert padded.ended_ns < first_fit.ended_ns


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 40), st.integers(1, 128)),
        min_size=1,
        max_size=25,
    ),
)
def test_a_launch_has_the_least_length_that_holds_all_its_requests(policy, arrivals):
    spec = padded_model(((1, 16, 32), (8, 32)), ((20, 64, 128), (64, 128)))
    sim = Simulation(spec, row_counts=(1, 4, 8, 32), policy=POLICIES[policy])
    for at_ms, rows, length in sorted(arrivals):
        sim.arrive(at_ms, rows, (length,))

    sim.run()

    assert len(sim.ends_of("complete")) == len(arrivals)
    for launch in sim.launches:
        admitted = launch.lane.profile
        longest = max(request.route.length for request, _, _ in launch.parts)
        assert launch.length == admitted.padded_length(longest) >= longest


def test_other_policies_stack_requests_of_one_bucket_only():
    sim = Simulation(ONE_PROFILE, policy=POLICIES["first-fit"])
    for length in (3, 16, 17, 30, 100):
        sim.arrive(1, 1, (length,))
    sim.arrive(0, 1, (1,))

    sim.run()

    assert [(launch.rows, launch.length) for launch in sim.launches] == [
        (1, 16),
        (2, 16),
        (2, 32),
        (1, 128),
    ]


def test_a_cost_file_keeps_what_may_be_padded(tmp_path):
    lanes = (Lane(LaneId(0), ONE_PROFILE.profiles[0]),)
    saved = MeasuredModel(ONE_PROFILE, lanes, costs_of(ONE_PROFILE), HostCosts())
    save_costs(tmp_path / "costs.json", saved)

    loaded = load_costs(tmp_path / "costs.json")

    assert loaded.spec.padding is not None
    assert loaded.spec.padding.inputs == {"X": 1}
    assert [profile.lengths for profile in loaded.spec.profiles] == [LENGTHS]
    ends = [
        simulate(one, busy_traffic(200), POLICIES[DEFAULT_POLICY]).ended_ns
        for one in (saved, loaded)
    ]
    assert ends[0] == ends[1]


def test_a_short_request_that_has_no_time_for_a_long_launch_goes_alone():
    spec = padded_model(((1, 64, 128), (16, 128)))
    slow = {16: 1.0, 128: 40.0}
    sim = Simulation(spec, exec_ms=lambda _p, _rows: 1.0)
    for length, ms in slow.items():
        for rows in (1, 8, 32):
            for _ in range(40):
                sim.costs.record(0, rows, bucket_of([(length,)]), round(ms * NS_PER_MS))
    sim.arrive(0, 32, (128,))
    urgent = sim.arrive(0.5, 1, (10,), timeout_ms=20)
    sim.arrive(0.5, 1, (128,))

    sim.run()

    (launch,) = [one for one in sim.launches if one.parts[0][0].payload == urgent]
    assert (launch.length, launch.rows) == (16, 1)


def queues(rows: dict[int, int], fits: dict[int, tuple[int, ...]]) -> list[StackQueue]:
    return [
        StackQueue(fits.get(length, (0,)), (bucket_of([(length,)]),), rows=count, length=length)
        for length, count in sorted(rows.items())
    ]


@settings(max_examples=200, deadline=None)
@given(
    rows=st.dictionaries(st.sampled_from(LENGTHS), st.integers(1, 70), min_size=1),
    launch_ms=st.floats(0.01, 10),
    token_ms=st.floats(0.0001, 0.1),
)
def test_no_other_way_to_group_lengths_costs_less(rows, launch_ms, token_ms):
    costs = costs_of(ONE_PROFILE, launch_ms, token_ms)
    lanes = [Lane(LaneId(0), ONE_PROFILE.profiles[0], row_counts=(1, 2, 4, 8, 16, 32))]

    def prices_for(_fits, buckets):
        return Prices(lanes, costs, buckets, now_ns=0)

    def cost_of(groups):
        return sum(
            prices_for((), group[-1].buckets).serial_ns[sum(queue.rows for queue in group)]
            for group in groups
        )

    waiting = queues(rows, {})
    cuts = [
        [waiting[a:b] for a, b in itertools.pairwise((0, *inner, len(waiting)))]
        for n in range(len(waiting))
        for inner in itertools.combinations(range(1, len(waiting)), n)
    ]

    chosen = [group.queues for group in cheapest_groups(waiting, prices_for)]

    assert [queue for group in chosen for queue in group] == waiting
    assert cost_of(chosen) == pytest.approx(min(map(cost_of, cuts)))
    assert cost_of(chosen) <= cost_of([waiting]) + 1e-6, "one length for all"
    assert cost_of(chosen) <= cost_of([[each] for each in waiting]) + 1e-6, "each its own"


def test_requests_that_no_profile_admits_together_are_not_grouped():
    waiting = queues({16: 1, 128: 1}, {16: (0,), 128: (1,)})

    def prices_for(fits, _buckets):
        assert fits
        costs = costs_of(ONE_PROFILE, launch_ms=100)
        return Prices([Lane(LaneId(0), ONE_PROFILE.profiles[0])], costs, (4, 7), now_ns=0)

    groups = cheapest_groups(waiting, prices_for)

    assert [(len(group.queues), group.fits) for group in groups] == [(1, (0,)), (1, (1,))]
