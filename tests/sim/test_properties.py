"""What must hold for any traffic: random shapes, arrivals, deadlines, cancels, failures, losses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from helpers.sim import Simulation, model, profile
from lanewise.errors import NoProfileAdmits
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.request import Launch, LaunchReason
from lanewise.simulator.policies import POLICIES
from lanewise.simulator.rivals.tf_serving import TfServingPolicy
from lanewise.simulator.rivals.triton import TritonPolicy

TUNED = {
    "triton-tuned": lambda _costs: TritonPolicy(
        max_queue_delay_ns=1_500_000, preferred_rows=(4, 8)
    ),
    "tf-serving-tuned": lambda _costs: TfServingPolicy(
        batch_timeout_ns=1_500_000, num_batch_threads=2, max_batch_rows=6
    ),
}
"""Rivals whose parameters make them wait, which they do not by default."""

ALL = {**POLICIES, **TUNED}


@dataclass(frozen=True)
class Arrival:
    at_ms: float
    rows: int
    item: int
    timeout_ms: float | None
    cancel_after_ms: float | None
    pin: int | None


times_ms = st.integers(0, 400).map(lambda tenths: tenths / 10)
arrivals = st.builds(
    Arrival,
    at_ms=times_ms,
    rows=st.one_of(st.just(1), st.integers(1, 8), st.integers(1, 100)),
    item=st.sampled_from([4, 8, 16, 32]),
    timeout_ms=st.none() | st.integers(0, 100).map(lambda tenths: tenths / 10),
    cancel_after_ms=st.none() | st.integers(0, 100).map(lambda tenths: tenths / 10),
    pin=st.none() | st.none() | st.integers(0, 3),
)


@st.composite
def bounds(draw: st.DrawFn, largest: int) -> tuple[int, int, int]:
    low, opt, high = sorted(draw(st.integers(1, largest)) for _ in range(3))
    return low, opt, high


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    count = draw(st.integers(1, 4))
    return model(
        *(
            profile(
                i, draw(bounds(32)), [draw(bounds(32))], delay_ms=draw(st.sampled_from([0, 1, 5]))
            )
            for i in range(count)
        )
    )


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, object]:
    return {
        "spec": draw(models()),
        "arrivals": draw(st.lists(arrivals, min_size=1, max_size=40)),
        "failing": draw(st.sets(st.integers(0, 20), max_size=4)),
        "lost": draw(st.lists(st.tuples(times_ms, st.integers(0, 3)), max_size=2)),
        "drain_ms": draw(st.none() | times_ms),
        "max_queue": draw(st.integers(1, 60)),
        "copies": draw(st.integers(1, 2)),
        "depth": draw(st.integers(1, 2)),
        "ahead": draw(st.sampled_from([0.0, 0.4])),
        "row_counts": draw(st.sampled_from([(), (1, 2, 4, 8, 16, 32), (3, 7)])),
    }


def play(scenario, policy) -> Simulation:
    spec = scenario["spec"]
    lanes = [p.index for p in spec.profiles for _ in range(scenario["copies"])]
    sim = Simulation(
        spec,
        exec_ms=lambda index, rows: 0.5 + index + rows / 8,
        max_queue_requests=scenario["max_queue"],
        fails=lambda n: n in scenario["failing"],
        lanes=lanes,
        depth=scenario["depth"],
        row_counts=scenario["row_counts"],
        policy=ALL[policy],
    )
    sim.costs.ahead = dict.fromkeys(lanes, scenario["ahead"])
    for arrival in scenario["arrivals"]:
        pin = arrival.pin if arrival.pin is not None and arrival.pin < len(spec.profiles) else None
        try:
            request_id = sim.arrive(
                arrival.at_ms, arrival.rows, (arrival.item,), timeout_ms=arrival.timeout_ms, pin=pin
            )
        except NoProfileAdmits:
            event("refused: no profile admits")
            continue
        if arrival.cancel_after_ms is not None:
            sim.cancel(arrival.at_ms + arrival.cancel_after_ms, request_id)
    for at_ms, lane_id in scenario["lost"]:
        if lane_id < len(lanes):
            sim.retire(at_ms, lane_id)
    if scenario["drain_ms"] is not None:
        sim.at(scenario["drain_ms"], lambda: sim.core.drain(sim.now_ns))
    sim.run()
    return sim


_settings = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def checked(test):
    """Run a property test for every policy."""
    return pytest.mark.parametrize("policy", ALL)(_settings(test))


@checked
@given(scenarios())
def test_every_request_ends_exactly_once(policy, scenario):
    sim = play(scenario, policy)
    for ends in sim.ends.values():
        assert len(ends) == 1
        event(ends[0])


@checked
@given(scenarios())
def test_no_launch_exceeds_its_profile_or_mixes_shapes(policy, scenario):
    sim = play(scenario, policy)
    for launch in sim.launches:
        limits = launch.lane.profile
        requests = [request for request, _, _ in launch.parts]
        assert limits.rows.min <= launch.padded_rows <= limits.rows.max
        assert sum(rows for _, _, rows in launch.parts) == launch.rows <= launch.padded_rows
        assert len({request.stack_key for request in requests}) == 1
        for request in requests:
            (item,) = request.route.shapes[0]
            x = limits.ranges["X"]
            assert x.min[1] <= item <= x.max[1]
            assert limits.index in request.route.fits
    event(f"lanes used: {len({launch.lane.lane_id for launch in sim.launches})}")


@checked
@given(scenarios())
def test_no_launch_starts_past_a_deadline(policy, scenario):
    sim = play(scenario, policy)
    for at_ns, launch in zip(sim.launched_at_ns, sim.launches, strict=True):
        for request, _, _ in launch.parts:
            assert request.deadline_ns is None or at_ns < request.deadline_ns


@checked
@given(scenarios())
def test_no_lane_holds_more_launches_than_its_depth(policy, scenario):
    sim = play(scenario, policy)
    ends_ns: dict[int, list[int]] = {}
    for at_ns, launch in zip(sim.launched_at_ns, sim.launches, strict=True):
        in_flight = [end for end in ends_ns.get(launch.lane.lane_id, []) if end > at_ns]
        assert len(in_flight) < scenario["depth"]
        ends_ns[launch.lane.lane_id] = [*in_flight, sim.ended_at_ns[launch]]


@checked
@given(scenarios())
def test_only_the_row_counts_of_a_lane_are_executed(policy, scenario):
    sim = play(scenario, policy)
    for launch in sim.launches:
        counts = launch.lane.row_counts
        assert not counts or launch.padded_rows in counts


@checked
@given(scenarios())
def test_rows_of_a_completed_request_are_launched_once_each(policy, scenario):
    sim = play(scenario, policy)
    launched: dict[int, list[tuple[int, int]]] = {}
    for n, launch in enumerate(sim.launches):
        if n in scenario["failing"]:
            continue  # what shared it was run again
        for request, first_row, rows in launch.parts:
            launched.setdefault(request.payload, []).append((first_row, rows))
    for request_id in sim.ends_of("complete"):
        next_row = 0
        for first_row, rows in sorted(launched[request_id]):
            assert first_row == next_row
            next_row += rows
        assert next_row == sim.requests[request_id].route.rows


@checked
@given(scenarios())
def test_the_same_traffic_gives_the_same_log(policy, scenario):
    assert play(scenario, policy).log == play(scenario, policy).log


@checked
@given(scenarios())
def test_nothing_is_left_behind(policy, scenario):
    sim = play(scenario, policy)
    assert sim.core.waiting_requests == 0
    assert sim.core.next_wakeup_ns() is None
    assert not any(lane.in_flight for lane in sim.core.lanes)
    counted = sum(lane.counters.rows for lane in sim.core.lanes)
    first = (each for each in sim.launches if each.reason is not LaunchReason.REPEAT)
    assert counted == sum(launch.rows for launch in first)


def test_the_properties_see_every_kind_of_end():
    """Guards the guards: traffic like theirs does cancel, expire, fail and reject."""
    spec = model(profile(0, (1, 2, 4), [(1, 8, 32)]))
    sim = Simulation(spec, exec_ms=lambda _p, _r: 5, max_queue_requests=5, bad={2})
    for _ in range(8):
        sim.arrive(0, 2, (8,))
    sim.arrive(11, 2, (8,), timeout_ms=1)
    sim.cancel(12, sim.arrive(11, 2, (8,)))

    sim.run()

    assert {ends[0] for ends in sim.ends.values()} == {
        "complete",
        "fail",
        "reject",
        "expire",
        "cancel",
    }
    assert all(isinstance(launch, Launch) for launch in sim.launches)
