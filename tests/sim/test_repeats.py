"""Requests whose shared launch failed: what is run again, how often, and who ends how."""

from __future__ import annotations

import pytest

from helpers.sim import Simulation, model, profile


def stacked(bad, count, **options):
    """A simulation in which requests 1 to `count`, of a row each, share the second launch."""
    sim = Simulation(
        model(profile(0, (1, 64, 64))), exec_ms=lambda _index, _rows: 1.0, bad=bad, **options
    )
    sim.arrive(0, 1)
    for _ in range(count):
        sim.arrive(0.5, 1)
    return sim


def launched(sim):
    return [[request.payload for request, _, _ in launch.parts] for launch in sim.launches[1:]]


def test_one_bad_request_fails_alone_and_halves_tell_which():
    sim = stacked({3}, 4)

    sim.run()

    assert [line.replace(" p0", "") for line in sim.log[2:]] == [
        "1.000 launch rows=4 padded=4 requests=1,2,3,4 idle",
        "2.000 launch rows=2 padded=2 requests=1,2 repeat",
        "3.000 complete 1",
        "3.000 complete 2",
        "3.000 launch rows=2 padded=2 requests=3,4 repeat",
        "4.000 launch rows=1 padded=1 requests=3 repeat",
        "5.000 fail 3",
        "5.000 launch rows=1 padded=1 requests=4 repeat",
        "6.000 complete 4",
    ]


@pytest.mark.parametrize("bad", [{1}, {64}, {17, 40}, {2, 3, 4}, set(range(1, 65))])
@pytest.mark.parametrize("depth", [1, 2])
def test_all_bad_ones_fail_and_no_other(bad, depth):
    sim = stacked(bad, 64, depth=depth)

    sim.run()

    assert set(sim.ends_of("fail")) == bad
    assert set(sim.ends_of("complete")) == set(range(65)) - bad
    assert len(sim.launches) <= 1 + min(2 * 64, 1 + 2 * 6 * len(bad))


def test_what_is_repeated_is_counted_apart_from_what_clients_sent():
    sim = stacked({3}, 4)

    sim.run()

    (lane,) = sim.core.lanes
    counters = lane.counters
    assert (counters.launches, counters.failed_launches, counters.repeated_launches) == (6, 3, 4)
    assert (counters.requests, counters.rows) == (5, 5)


def test_a_caller_who_has_gone_is_not_run_again():
    sim = stacked({3}, 4)
    sim.cancel(1.5, 1)  # while the shared launch runs
    sim.cancel(2.5, 4)  # while it waits to be repeated

    sim.run()

    assert launched(sim) == [[1, 2, 3, 4], [2], [3]]
    assert (sim.ends_of("complete"), sim.ends_of("fail")) == ([0, 2], [3])


def test_a_request_whose_deadline_has_passed_is_not_run_again():
    sim = stacked({1}, 3)
    late = sim.arrive(0.6, 1, timeout_ms=2.9)

    sim.run()

    assert sim.ends_of("expire") == [late]
    assert (sim.ends_of("complete"), sim.ends_of("fail")) == ([0, 2, 3], [1])


def test_a_lost_lane_repeats_nothing():
    sim = stacked({3}, 4)
    sim.retire(2.5, 0)  # with one half in flight and the other waiting

    sim.run()

    assert sim.ends_of("fail") == [1, 2, 3, 4]
    assert launched(sim) == [[1, 2, 3, 4], [1, 2]]


def test_what_waits_to_be_repeated_is_rejected_when_the_time_to_drain_is_over():
    sim = stacked({3}, 4)
    sim.at(2.5, sim.core.abandon)

    sim.run()

    assert (sim.ends_of("complete"), sim.ends_of("reject")) == ([0, 1, 2], [3, 4])


def test_the_rows_of_a_split_request_are_repeated_where_they_were():
    sim = Simulation(model(profile(0, (4, 4, 4))), exec_ms=lambda _index, _rows: 1.0, bad={2})
    sim.arrive(0, 4)
    split = sim.arrive(0.5, 6)
    sim.arrive(0.6, 2)

    sim.run()

    assert sim.ends == {0: ["complete"], split: ["complete"], 2: ["fail"]}
    shared = [each.parts for each in sim.launches if len(each.parts) > 1]
    assert [(request.payload, first, rows) for request, first, rows in shared[0]] == [
        (split, 4, 2),
        (2, 0, 2),
    ]
