"""The simulator drives the scheduler of the server through virtual time."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from helpers.measured import measured_model
from lanewise.clock import NS_PER_MS, NS_PER_S
from lanewise.scheduler.costs.file import HostCosts, load_costs
from lanewise.simulator.mix import default_mix, scale
from lanewise.simulator.policies import POLICIES
from lanewise.simulator.report import summarize
from lanewise.simulator.rivals.first_fit import FirstFitPolicy
from lanewise.simulator.simulation import Options, simulate
from lanewise.simulator.traffic import Arrival, RequestKind, Traffic

RESNET = Path(__file__).parents[2] / "examples" / "costs" / "resnet50-h200.json"
ALONE = {(0, 1): 1.0, (1, 1): 1.0, (1, 32): 5.0, (2, 128): 10.0}
CHECKED = Options(checked=True)


def first_fit(_costs):
    return FirstFitPolicy()


def arrival(at_ms, rows, timeout_ms=None, **about):
    timeout_ns = None if timeout_ms is None else round(timeout_ms * NS_PER_MS)
    return Arrival(round(at_ms * NS_PER_MS), ((rows,),), timeout_ns, **about)


def fates(result):
    """By kind: requests, in time, late, refused, expired."""
    return {
        name: (kind.requests, kind.met, kind.late, kind.refused, kind.expired)
        for name, kind in result.outcomes.kinds.items()
    }


def latencies_ms(result):
    return {
        name: [latency / NS_PER_MS for latency in kind.latencies_ns]
        for name, kind in result.outcomes.kinds.items()
    }


@pytest.mark.parametrize("policy", ["cost-aware", "first-fit"])
def test_a_lone_request_takes_what_its_launch_costs(policy):
    traffic = [arrival(0, 1), arrival(100, 128), arrival(200, 1)]

    result = simulate(measured_model(ALONE), traffic, POLICIES[policy], CHECKED)

    assert latencies_ms(result) == {"1 row": [1.0, 1.0], "65-128 rows": [10.0]}


def test_the_host_does_one_thing_at_a_time():
    host = HostCosts(request_ns=300_000, launch_ns=200_000)
    traffic = [arrival(0, 1), arrival(0, 128)]

    result = simulate(measured_model(ALONE, host=host), traffic, first_fit)

    # The second request is seen when the first was taken in and launched.
    assert latencies_ms(result) == {"1 row": [1.5], "65-128 rows": [11.0]}


def test_the_end_of_a_launch_is_seen_when_the_host_is_free():
    host = HostCosts(request_ns=600_000)
    traffic = [arrival(0, 1), arrival(1, 128), arrival(1.5, 128)]

    result = simulate(measured_model(ALONE, host=host), traffic, first_fit)

    # Over at 1.6 ms, but requests that came before are taken in until 2.2 ms.
    assert latencies_ms(result)["1 row"] == [2.2]


def test_what_wakes_the_host_and_what_gives_outputs_back_take_their_time():
    host = HostCosts(late_ns=(300_000,), back_ns=(200_000,))
    traffic = [arrival(0, 1), arrival(10, 1)]

    varied = simulate(measured_model(ALONE, host=host), traffic, first_fit, Options(varied=True))
    plain = simulate(measured_model(ALONE, host=host), traffic, first_fit)

    assert latencies_ms(varied) == {"1 row": [1.5, 1.5]}
    assert latencies_ms(plain) == {"1 row": [1.0, 1.0]}


def test_requests_that_are_seen_late_come_in_the_order_in_which_they_are_seen():
    host = HostCosts(late_ns=(0, 5_000_000))
    traffic = [arrival(at_ms, 1, 100) for at_ms in range(20)]
    options = Options(varied=True, checked=True)

    result = simulate(measured_model(ALONE, host=host), traffic, first_fit, options)

    waited_ms = latencies_ms(result)["1 row"]
    assert len(waited_ms) == 20
    assert min(waited_ms) == 1.0
    assert max(waited_ms) >= 6.0


def test_a_scheduler_that_is_told_wrong_costs_decides_by_them_and_launches_take_the_true_ones():
    wrong = measured_model(dict.fromkeys(ALONE, 1000.0)).costs
    traffic = [arrival(0, 1, timeout_ms=50)]
    traffic += [arrival(0.1, 1, timeout_ms=50)]  # while the server is idle, one is tried

    result = simulate(
        measured_model(ALONE), traffic, POLICIES["cost-aware"], Options(believed=wrong)
    )

    assert latencies_ms(result) == {"1 row": [1.0]}
    assert fates(result)["1 row"] == (2, 1, 0, 1, 0)


def test_every_request_is_in_time_or_late_or_refused_or_expired():
    model = measured_model(ALONE)
    traffic = [
        arrival(0, 1, timeout_ms=1.0, kind="just in time"),
        arrival(0, 128, timeout_ms=9.0, kind="too long"),
        arrival(0.5, 1, timeout_ms=0.2, kind="given up in the queue"),
        arrival(0.6, 1, timeout_ms=0.0, kind="late before it came"),
        arrival(0.7, 1, kind="unhurried"),
        arrival(0.8, 1, pin="nowhere", kind="misguided"),
    ]

    result = simulate(model, traffic, first_fit, CHECKED)

    assert fates(result) == {
        "just in time": (1, 1, 0, 0, 0),
        "too long": (1, 0, 1, 0, 0),
        "given up in the queue": (1, 0, 0, 0, 1),
        "late before it came": (1, 0, 0, 1, 0),
        "unhurried": (1, 1, 0, 0, 0),
        "misguided": (1, 0, 0, 1, 0),
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_result(policy):
    model = load_costs(RESNET)
    mix = scale(default_mix(model.spec), 400.0)
    options = Options(varied=True, seed=5)

    def run():
        traffic = Traffic(model.spec, mix, 2.0, seed=5, burst=3)
        return summarize(policy, simulate(model, traffic, POLICIES[policy], options))

    assert run() == run()


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_ends_every_request_of_an_overload(policy):
    model = load_costs(RESNET)
    mix = [
        RequestKind("interactive", (1, 1, 1), 800.0, timeout_ns=10 * NS_PER_MS),
        RequestKind("moderate", (1, 4, 32), 400.0, timeout_ns=50 * NS_PER_MS, priority=2),
        RequestKind("bulk", (128, 128, 300), 300.0),
    ]
    traffic = Traffic(model.spec, mix, 0.5, seed=1, burst=4)

    result = simulate(model, traffic, POLICIES[policy], CHECKED)

    counts = fates(result)
    assert set(counts) == {"interactive", "moderate", "bulk"}
    assert all(sum(ends) == requests for requests, *ends in counts.values())
    assert sum(requests for requests, *_ in counts.values()) == len(list(traffic))
    rows = sum(lane.counters.rows for lane in result.lanes)
    assert 0 < rows <= sum(one.shapes[0][0] for one in traffic)


def test_what_the_scheduler_learns_changes_neither_the_device_nor_the_next_run():
    model = measured_model({(0, 1): (1.0, 3.0, 2.0)})
    before = {kind: estimate.samples_ns for kind, estimate in model.costs.kinds()}

    simulate(model, [arrival(10 * i, 1) for i in range(50)], first_fit, Options(varied=True))

    assert {kind: estimate.samples_ns for kind, estimate in model.costs.kinds()} == before
    assert [lane.counters.launches for lane in model.lanes] == [0, 0, 0]


def test_an_unlearned_scheduler_learns_while_it_runs():
    tables = []

    def remember(costs):
        tables.append(costs)
        return FirstFitPolicy()

    model = measured_model(ALONE)
    simulate(model, [arrival(0, 1)], remember, Options(learned=False))

    ((kind, estimate),) = tables[0].kinds()
    assert (kind.profile, kind.rows, estimate.samples_ns) == (0, 1, (NS_PER_MS,))


def test_a_policy_with_one_context_pays_for_each_change_of_profile():
    model = measured_model(ALONE, switch_ms=1.3, beside={(0, 2): 5.0, (2, 0): 5.0})
    traffic = [arrival(0, 1), arrival(0, 128), arrival(0, 1)]

    result = simulate(model, traffic, POLICIES["one-context"], CHECKED)

    assert latencies_ms(result) == {"1 row": [1.0, 14.6], "65-128 rows": [12.3]}


def test_lanes_side_by_side_are_as_slow_in_the_simulator_as_measured():
    """One row and four rows together: 1.32 ms on the H200 that the example's costs are from."""
    model = load_costs(RESNET)
    image = (3, 224, 224)
    traffic = [Arrival(0, ((1, *image),)), Arrival(0, ((4, *image),))]

    result = simulate(model, traffic, first_fit)

    assert result.ended_ns / NS_PER_MS == pytest.approx(1.32, abs=0.005)


def test_the_report_says_what_happened():
    model = measured_model(ALONE)
    traffic = [
        arrival(0, 1, timeout_ms=5.0, kind="a"),
        arrival(0, 100, timeout_ms=5.0, kind="b"),
        arrival(0, 1, timeout_ms=5.0, kind="a"),
    ]

    report = summarize("first-fit", simulate(model, traffic, first_fit))

    assert (report.policy, report.requests, report.duration_s) == ("first-fit", 3, 0.01)
    assert report.goodput == pytest.approx(2 / 0.01)
    assert report.attainment == pytest.approx(2 / 3)
    online, dynamic, offline = report.lanes
    assert (online.launches, online.rows, online.padding_waste) == (2, 2, 0.0)
    assert online.busy_share == pytest.approx(0.2)
    assert (dynamic.launches, dynamic.busy_share) == (0, 0.0)
    assert (offline.rows, offline.busy_share) == (100, pytest.approx(1.0))
    assert offline.padding_waste == pytest.approx(0.21875)
    a, b = report.kinds
    assert (a.kind, a.requests, a.met, a.p50_ms) == ("a", 2, 2, pytest.approx(1.5))
    assert (b.kind, b.late, b.p999_ms) == ("b", 1, pytest.approx(10.0))
    assert dataclasses.asdict(report) == report.as_json()


def test_no_traffic_is_no_error():
    report = summarize("first-fit", simulate(measured_model(ALONE), [], first_fit))

    assert (report.requests, report.goodput, report.attainment, report.kinds) == (0, 0.0, 1.0, ())


def calls_per_request(rate, requests):
    """Count the Python functions called to simulate one request more, everything included."""
    model = load_costs(RESNET)
    kind = RequestKind("users", (1, 4, 32), rate)
    traffic = list(Traffic(model.spec, [kind], requests / rate, seed=3))
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        result = simulate(model, traffic, first_fit)
    finally:
        sys.setprofile(None)
    assert result.steps < 4 * len(traffic)
    return calls / len(traffic)


def test_a_day_of_traffic_takes_under_a_minute():
    """864 000 requests, ten a second: 70 us each, enough to call some 170 functions.

    Counted and not timed, because the speed of the machine that runs the test says nothing
    about the code. The count must not grow with the length of the traffic either.
    """
    short, long = calls_per_request(10.0, 500), calls_per_request(10.0, 2000)

    assert long < 150
    assert long < 1.1 * short


def test_a_busy_device_makes_a_request_no_dearer_to_simulate():
    assert calls_per_request(1500.0, 2000) < 150


def test_a_trace_that_begins_late_counts_from_its_first_request():
    traffic = [arrival(5000, 1), arrival(5001, 1)]

    result = simulate(measured_model(ALONE), traffic, first_fit)

    assert summarize("first-fit", result).duration_s == pytest.approx(0.002)
    assert result.began_ns == 5 * NS_PER_S
