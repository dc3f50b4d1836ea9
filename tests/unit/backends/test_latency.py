from __future__ import annotations

import pytest

from lanewise.backends.simulated import LatencyTable

MEASURED = LatencyTable(rows=(1, 8, 128), ms=(0.8, 1.5, 13.5))


@pytest.mark.parametrize(
    ("rows", "ms"), [(0, 0.8), (1, 0.8), (2, 0.9), (8, 1.5), (68, 7.5), (128, 13.5), (138, 14.5)]
)
def test_times_lie_on_lines_through_the_points_that_go_on_after_the_last(rows, ms):
    assert MEASURED.execution_ns(rows) == round(ms * 1e6)


def test_one_point_is_the_time_of_any_number_of_rows():
    table = LatencyTable(rows=(4,), ms=(2.0,))

    assert {table.execution_ns(rows) for rows in (1, 4, 100)} == {2_000_000}


def test_a_falling_line_ends_at_zero():
    assert LatencyTable(rows=(1, 2), ms=(1.0, 0.5)).execution_ns(100) == 0
