"""The comparison of real lanes with the simulator measures what it says."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.scheduler.figures import TOLERANCE, deviation, figures_of, median_of
from benchmarks.scheduler.host_costs import Spent, measure_host, solve
from benchmarks.scheduler.lane_models import load_lanes
from benchmarks.scheduler.lane_runs import capacity_of
from benchmarks.scheduler.pacer import pace
from benchmarks.scheduler.replay import Replay, replay
from helpers.measured import measured_model
from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.scheduler.costs.file import HostCosts, MeasuredModel
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.simulator.outcomes import Outcomes
from lanewise.simulator.policies import DEFAULT_POLICY, POLICIES
from lanewise.simulator.simulation import simulate
from lanewise.simulator.traffic import Arrival

KNOWN_MS = {(0, 1): 40, (0, 8): 50, (0, 32): 90, (1, 128): 250}
"""Of lane_models.SIMULATED, by profile and rows: so long that the noise of a busy machine is small
beside it."""

TRACE = tuple(
    Arrival(at_ms * NS_PER_MS, ((rows, 1),), timeout_ns=2_000 * NS_PER_MS)
    for at_ms, rows in [
        *[(0, 4), (60, 1), (70, 128), (90, 20), (100, 20), (180, 8), (300, 1), (420, 2)],
        *[(430, 2), (440, 128), (470, 1), (600, 32), (610, 1), (700, 4), (800, 1), (900, 16)],
    ]
)


def outcomes_of(*latencies_ms: int, timeout_ms: int = 100) -> Outcomes:
    outcomes = Outcomes()
    arrival = Arrival(0, ((1,),), timeout_ns=timeout_ms * NS_PER_MS, kind="a")
    for number, latency_ms in enumerate(latencies_ms):
        outcomes.arrive(number, arrival, 1)
        outcomes.complete(number, latency_ms * NS_PER_MS)
    return outcomes


def load_known(folder):
    """The simulated lanes, and what is known of them."""
    loaded = load_lanes("simulated", folder, SystemClock())
    costs = CostTable()
    for (profile, rows), ms in KNOWN_MS.items():
        costs.record(profile, rows, 0, ms * NS_PER_MS)
    lanes = [Lane(LaneId(i), profile) for i, profile in enumerate(loaded.spec.profiles)]
    return MeasuredModel(loaded.spec, tuple(lanes), costs), loaded


def serve(folder, trace, when_arrived=None):
    """Replay a trace on the known lanes."""
    model, loaded = load_known(folder)

    async def scenario() -> Replay:
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=100, costs=model.costs)
        dispatcher.when_arrived = when_arrived
        try:
            return await replay(dispatcher, trace)
        finally:
            await dispatcher.close()

    return asyncio.run(scenario())


def test_what_the_simulator_predicts_of_known_lanes_is_what_real_ones_do(tmp_path):
    model, _ = load_known(tmp_path)
    simulated = simulate(model, TRACE, POLICIES[DEFAULT_POLICY])
    served = serve(tmp_path, TRACE)

    predicted = figures_of(simulated.outcomes, simulated.ended_ns - simulated.began_ns)
    measured = figures_of(served.outcomes, served.duration_ns)
    assert abs(deviation(predicted.throughput, measured.throughput)) <= TOLERANCE
    assert abs(deviation(predicted.p99_ms, measured.p99_ms)) <= TOLERANCE


def test_requests_are_sent_in_order_and_none_before_its_time():
    times_ns = [0, 0, 3 * NS_PER_MS, 5 * NS_PER_MS, 5 * NS_PER_MS + 1]
    sent = []

    def send(index: int, base_ns: int) -> None:
        sent.append((index, time.monotonic_ns() - base_ns))

    asyncio.run(pace(times_ns, send))

    assert [index for index, _ in sent] == [0, 1, 2, 3, 4]
    assert all(at_ns >= times_ns[index] for index, at_ns in sent)


def test_a_request_that_is_sent_late_waited_since_it_was_due(tmp_path):
    def hold_up(*_arrived: object) -> None:
        SystemClock().block_for(50 * NS_PER_MS)  # the second is due meanwhile

    two = [Arrival(0, ((1, 1),), kind="first"), Arrival(1, ((1, 1),), kind="second")]
    served = serve(tmp_path, two, hold_up)

    # 50 ms behind the first, 50 ms of its own, and at least 40 ms in its lane.
    assert served.lateness_ns[1] >= 49 * NS_PER_MS
    assert served.outcomes.kinds["second"].latencies_ns[0] >= 139 * NS_PER_MS


def test_a_failure_is_no_outcome(tmp_path):
    with pytest.raises(ExceptionGroup):
        serve(tmp_path, [Arrival(0, ((1, 1, 1),))])


def test_idle_lanes_cost_the_host_something(tmp_path):
    model, loaded = load_known(tmp_path)

    host = asyncio.run(measure_host(model.spec, loaded, model.costs, POLICIES["first-fit"]))

    assert 0 < host.request_ns + host.launch_ns < 50 * NS_PER_MS


def test_host_costs_follow_from_two_mixes_of_requests_and_launches():
    assert solve(Spent(10, 10, 10 * 5), Spent(20, 5, 20 * 3 + 5 * 2)) == HostCosts(3, 2)


def test_host_costs_that_cannot_be_told_apart_are_all_the_requests():
    assert solve(Spent(10, 10, 50), Spent(20, 20, 100)) == HostCosts(5, 0)


def test_figures_count_everything_served_and_what_was_on_time():
    figures = figures_of(outcomes_of(10, 20, 30, 200), 2_000 * NS_PER_MS)

    assert (figures.throughput, figures.goodput, figures.p50_ms) == (2.0, 1.5, 25.0)
    assert figures.p99_ms == figures.p99_ms_by_kind["a"] == pytest.approx(194.9)


def test_repeats_are_summed_up_by_medians():
    repeats = [figures_of(outcomes_of(ms), 1_000 * NS_PER_MS) for ms in (10, 50, 20)]

    assert median_of(repeats).p99_ms == 20.0


def test_capacity_is_the_rate_at_which_every_row_costs_what_the_cheapest_does():
    model = measured_model({(0, 1): 1.0, (1, 32): 8.0, (2, 128): 12.8})

    # 0.6 x 1 + 0.35 x 37 / 3 + 0.05 x 128 rows a request, 0.1 ms each.
    assert capacity_of(model) == pytest.approx(1e4 / (0.6 + 0.35 * 37 / 3 + 6.4))
