"""What numbers of rows cost over all lanes, and in one."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sim import profile
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.policy.prices import Prices

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


def least_ns(launches: Iterable[tuple[int, int]], rows: int) -> int:
    """The least time of any launches that run `rows` rows, found by trying all of them."""

    @functools.cache
    def least(left: int) -> int:
        if left <= 0:
            return 0
        return min(took_ns + least(left - count) for count, took_ns in launches)

    return least(rows)


@st.composite
def doubling_times(draw: st.DrawFn) -> Times:
    """Powers of two, a launch of twice the rows never dearer than two: as devices are."""
    took, times = draw(st.integers(1, 1000)), {}
    for bit in range(6):
        times[1 << bit] = took
        took = round(took * draw(st.floats(1, 2)) - 0.5)
    kept = draw(st.sets(st.sampled_from(sorted(times)), min_size=1))
    return {count: max(1, times[count]) for count in sorted(kept)}


@settings(deadline=None)
@given(doubling_times(), st.integers(0, 150))
def test_the_serial_time_is_the_least_over_all_ways_to_split_and_pad(times, rows):
    counts = tuple(times)
    made = prices(((counts[0], counts[0], counts[-1]), counts, times))

    assert made.serial_ns[rows] == least_ns(times.items(), rows)


@settings(deadline=None)
@given(st.lists(lane_times(), min_size=1, max_size=3), st.integers(0, 60))
def test_whatever_launches_cost_a_plan_is_no_worse_than_launches_of_one_size(lanes, rows):
    launches = [launch for _, _, times in lanes for launch in times.items()]

    planned_ns = prices(*lanes).serial_ns[rows]

    assert planned_ns >= least_ns(launches, rows)
    assert all(planned_ns <= -(-rows // count) * took_ns for count, took_ns in launches)


def test_prices_made_anew_look_at_few_launches_however_many_rows_a_lane_takes():
    asked = []

    class Counting(CostTable):
        def typical_ns(self, profile, rows, bucket):
            asked.append(rows)
            return super().typical_ns(profile, rows, bucket)

    costs = Counting()
    costs.record(0, 1 << 16, BUCKET, 1_000_000)
    wide = Lane(LaneId(0), profile(0, (1, 8, 1 << 16)))
    made = Prices([wide], costs, [BUCKET], now_ns=0)
    made.serial_ns[12_345]
    made.least_ns(77_777)

    assert len(asked) <= 24


def test_forty_rows_are_planned_as_thirty_two_and_eight_and_a_hundred_as_one_padded_launch():
    made = prices(
        ((1, 4, 32), (1, 4, 8, 32), {1: 8, 4: 9, 8: 10, 32: 21}),
        ((128, 128, 128), (), {128: 54}),
    )

    assert made.serial_ns[40] == 21 + 10
    assert made.serial_ns[100] == 54
    assert made.serial_ns[128 + 40] == 54 + 21 + 10
    assert made.serial_ns[1280] == pytest.approx(10 * 54)


def test_a_lane_prices_rows_as_what_it_executes():
    (lane,) = prices(((2, 4, 8), (2, 4, 8), {2: 10, 4: 15, 8: 20})).lanes

    assert [lane.typical_ns[rows] for rows in range(9)] == [0, 10, 10, 15, 15, 20, 20, 20, 20]
    assert [rows for rows in range(9) if lane.is_padded[rows]] == [1, 3, 5, 6, 7]
    assert [lane.next_below[rows] for rows in range(9)] == [0, 0, 0, 2, 2, 4, 4, 4, 4]


def test_a_lane_of_any_number_of_rows_is_weighed_at_powers_of_two_and_its_ends():
    (lane,) = prices(((3, 8, 24), (), {3: 10, 24: 20})).lanes

    assert lane.counts == (3, 4, 8, 16, 24)


def test_lanes_are_priced_the_narrowest_first():
    made = prices(((1, 1, 32), (), {1: 1}), ((1, 1, 4), (), {1: 1}), ((8, 8, 8), (), {8: 1}))

    assert [each.max_rows for each in made.lanes] == [4, 8, 32]
