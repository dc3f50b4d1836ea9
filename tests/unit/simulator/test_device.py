"""The virtual device takes the time that the cost table says."""

from __future__ import annotations

import itertools
import random

import pytest

from helpers.measured import SCALAR_BUCKET, measured_model
from lanewise.clock import NS_PER_MS
from lanewise.simulator.device import Device, Work

ALONE = {(0, 1): 1.0, (1, 4): 2.0, (1, 8): 3.0, (2, 128): 10.0}


def device(model, **options):
    return Device(model.lanes, model.costs, **options)


def work(number, lane, rows, shapes=()):
    return Work(number, lane, lane, rows, SCALAR_BUCKET, shapes)


def ends_ms(device, launches):
    """Start each (at_ms, Work) and run to the end; when each was over, by its number."""
    ended = []
    for at_ms, one in launches:
        at_ns = round(at_ms * NS_PER_MS)
        ended += device.advance(at_ns)
        device.start(one, at_ns)
    while device.next_end_ns is not None:
        ended += device.advance(device.next_end_ns)
    return {end.launch: end.at_ns / NS_PER_MS for end in ended}


def test_a_launch_alone_takes_what_the_table_says():
    assert ends_ms(device(measured_model(ALONE)), [(5, work(1, 1, 4))]) == {1: 7.0}


def test_two_launches_side_by_side_take_what_the_pair_factors_say():
    model = measured_model(ALONE, beside={(0, 1): 1.5, (1, 0): 1.25})

    ends = ends_ms(device(model), [(0, work(1, 0, 1)), (0, work(2, 1, 4))])

    # Lane 0: 1 ms at 1/1.5. By then lane 1 has done 1.5/1.25 = 1.2 of its 2 ms; alone it
    # needs 0.8 ms more.
    assert ends == {1: 1.5, 2: 2.3}


def test_a_launch_is_slowed_down_only_while_the_other_runs():
    model = measured_model(ALONE, beside={(2, 0): 2.0})

    ends = ends_ms(device(model), [(0, work(1, 2, 128)), (4, work(2, 0, 1))])

    assert ends == {2: 5.0, 1: 10.5}


def test_the_excess_over_each_other_lane_adds_up():
    model = measured_model(ALONE, beside={(0, 1): 1.5, (0, 2): 1.25})

    ends = ends_ms(device(model), [(0, work(1, 1, 4)), (0, work(2, 2, 128)), (0, work(3, 0, 1))])

    assert ends[3] == 1.75


def test_what_a_launch_can_do_ahead_passes_while_it_waits_for_its_lane():
    model = measured_model(ALONE, depth=2)
    model.costs.ahead = {2: 0.4}
    launches = [(0, work(1, 2, 128)), (3, work(2, 2, 128)), (15, work(3, 2, 128))]

    # 10 ms each alone. The second waits 7 ms, in which it does all it can, 4; the third waits 1.
    assert ends_ms(device(model), launches) == {1: 10.0, 2: 16.0, 3: 25.0}


def test_a_launch_behind_another_takes_what_was_measured_of_such():
    model = measured_model(ALONE, depth=2)
    for _ in range(3):
        model.costs.record(2, 128, SCALAR_BUCKET, 7 * NS_PER_MS, waited_ns=100 * NS_PER_MS)
    launches = [(0, work(1, 2, 128)), (3, work(2, 2, 128)), (15, work(3, 2, 128))]

    # The second waits for more than the 3 ms that it gains, the third for 2.
    assert ends_ms(device(model), launches) == {1: 10.0, 2: 17.0, 3: 25.0}


def test_a_lane_disturbs_others_the_more_the_more_rows_it_runs():
    model = measured_model(ALONE)
    model.costs.record_beside(0, 2, 32, 1.25)
    model.costs.record_beside(0, 2, 128, 1.5)

    ends = ends_ms(device(model), [(0, work(1, 2, 128)), (1, work(2, 0, 1))])

    assert ends[2] == 2.5


def test_lanes_that_do_not_disturb_each_other_run_as_if_alone():
    launches = [(0, work(1, 0, 1)), (0.5, work(2, 1, 4)), (1, work(3, 2, 128))]

    assert ends_ms(device(measured_model(ALONE)), launches) == {1: 1.0, 2: 2.5, 3: 11.0}


def test_a_lane_executes_the_launches_it_was_given_one_after_the_other():
    launches = [(0, work(1, 1, 4)), (0.5, work(2, 1, 4))]

    assert ends_ms(device(measured_model(ALONE, depth=2)), launches) == {1: 2.0, 2: 4.0}


def test_a_change_of_rows_or_of_shapes_costs_what_the_table_says():
    model = measured_model(ALONE, change_ms={1: 0.5}, depth=5)
    launches = [
        (0, work(1, 1, 4)),
        (0, work(2, 1, 8)),
        (0, work(3, 1, 8)),
        (0, work(4, 1, 8, shapes="others")),
    ]

    assert ends_ms(device(model), launches) == {1: 2.0, 2: 5.5, 3: 8.5, 4: 12.0}


def test_one_context_runs_one_launch_at_a_time_and_pays_for_changing_its_profile():
    model = measured_model(ALONE, beside={(0, 1): 9.0}, change_ms={1: 0.5}, switch_ms=1.3)
    launches = [(0, work(1, 0, 1)), (0, work(2, 1, 4)), (0, work(3, 1, 8)), (0, work(4, 0, 1))]

    ends = ends_ms(device(model, one_context=True), launches)

    assert ends == pytest.approx({1: 1.0, 2: 4.3, 3: 7.8, 4: 10.1})


def test_times_are_drawn_from_the_samples_if_asked_for():
    model = measured_model({(0, 1): (1.0, 2.0, 3.0)})
    launches = [(10 * i, work(i, 0, 1)) for i in range(50)]

    median = ends_ms(device(model), launches)
    drawn = ends_ms(device(model, draw=random.Random(1)), launches)

    assert {end - 10 * i for i, end in median.items()} == {2.0}
    assert {end - 10 * i for i, end in drawn.items()} == {1.0, 2.0, 3.0}


def test_work_is_conserved():
    """Speeds integrated over the time that each lane is busy make up the work of its launches."""
    factors = {(a, b): 1.1 + 0.2 * a + 0.1 * b for a in range(3) for b in range(3) if a != b}
    model = measured_model(ALONE, beside=factors, depth=3)
    draw = random.Random(7)
    kinds = [(0, 1), (1, 4), (1, 8), (2, 128)]
    at_ms = 0.0
    launches = []
    for number in range(300):
        at_ms += draw.expovariate(0.3)
        launches.append((round(at_ms, 6), work(number, *draw.choice(kinds))))
    one = device(model)

    ends = ends_ms(one, launches)

    assert len(ends) == 300
    spans = [list(zip(busy[::2], busy[1::2], strict=True)) for busy in one.busy]
    edges = sorted({edge for busy in one.busy for edge in busy})
    done_ns = 0.0
    for begin, end in itertools.pairwise(edges):
        running = [i for i in range(3) if any(b <= begin and end <= e for b, e in spans[i])]
        for lane in running:
            slowdown = 1 + sum(factors[lane, other] - 1 for other in running if other != lane)
            done_ns += (end - begin) / slowdown
    # Ends are rounded to nanoseconds: half of one for each launch and each of its neighbours.
    assert done_ns == pytest.approx(one.work_ns, abs=3 * 300)
    assert one.work_ns == sum(round(ALONE[w.profile, w.rows] * NS_PER_MS) for _, w in launches)
