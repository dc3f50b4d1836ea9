"""What numbers of rows cost over all lanes, and in one."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sim import profile
from lanewise.scheduler.costs import CostTable
from lanewise.scheduler.decisions import LaneId
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.policies.prices import HORIZON, Prices

BUCKET = 0
Times = dict[int, int]


def prices(*lanes: tuple[tuple[int, int, int], tuple[int, ...], Times]) -> Prices:
    """Prices over lanes of these rows (min, opt, max), row counts and measured times in ns."""
    costs = CostTable()
    made = []
    for index, (rows, row_counts, times) in enumerate(lanes):
        made.append(Lane(LaneId(index), profile(index, rows), row_counts=row_counts))
        for count, took_ns in times.items():
            costs.record(index, count, BUCKET, took_ns)
    return Prices(made, costs, [BUCKET] * len(made), now_ns=0)


@st.composite
def lane_times(draw: st.DrawFn) -> tuple[tuple[int, int, int], tuple[int, ...], Times]:
    """A lane of some row counts, each of which was measured."""
    counts = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=4)))
    took = st.integers(1, 1000)
    return (counts[0], counts[0], counts[-1]), tuple(counts), {n: draw(took) for n in counts}


@settings(deadline=None)
@given(st.lists(lane_times(), min_size=1, max_size=3), st.integers(0, 60))
def test_the_serial_time_is_the_least_over_all_ways_to_split_and_pad(lanes, rows):
    launches = [launch for _, _, times in lanes for launch in times.items()]

    @functools.cache
    def least(left: int) -> int:
        if left <= 0:
            return 0
        return min(took_ns + least(left - count) for count, took_ns in launches)

    made = prices(*lanes)
    largest = max(count for count, _ in launches)
    if rows <= HORIZON * largest:
        assert made.serial_ns(rows) == least(rows)
    else:  # planned as cheapest launches beyond the horizon, so it may be a little more
        assert made.serial_ns(rows) >= least(rows) * (1 - 1e-9)
        assert made.serial_ns(rows) <= least(rows) + least(2 * largest)


@settings(deadline=None)
@given(st.lists(lane_times(), min_size=1, max_size=3))
def test_more_rows_never_take_less_time(lanes):
    made = prices(*lanes)

    times = [made.serial_ns(rows) for rows in range(100)]

    assert times == sorted(times)


def test_forty_rows_are_planned_as_thirty_two_and_eight_and_a_hundred_as_one_padded_launch():
    made = prices(
        ((1, 4, 32), (1, 4, 8, 32), {1: 8, 4: 9, 8: 10, 32: 21}),
        ((128, 128, 128), (), {128: 54}),
    )

    assert made.serial_ns(40) == 21 + 10
    assert made.serial_ns(100) == 54
    assert made.serial_ns(128 + 40) == 54 + 21 + 10
    assert made.serial_ns(1280) == pytest.approx(10 * 54)


def test_a_lane_prices_rows_as_what_it_executes():
    (lane,) = prices(((2, 4, 8), (2, 4, 8), {2: 10, 4: 15, 8: 20})).lanes

    assert lane.typical_ns == [0, 10, 10, 15, 15, 20, 20, 20, 20]
    assert [rows for rows in range(9) if lane.is_padded[rows]] == [1, 3, 5, 6, 7]
    assert lane.next_below == [0, 0, 0, 2, 2, 4, 4, 4, 4]


def test_a_lane_of_any_number_of_rows_is_weighed_at_powers_of_two_and_its_ends():
    (lane,) = prices(((3, 8, 24), (), {3: 10, 24: 20})).lanes

    assert lane.counts == (3, 4, 8, 16, 24)


def test_lanes_are_priced_the_narrowest_first():
    made = prices(((1, 1, 32), (), {1: 1}), ((1, 1, 4), (), {1: 1}), ((8, 8, 8), (), {8: 1}))

    assert [each.max_rows for each in made.lanes] == [4, 8, 32]
