"""When the requests of an open loop are due."""

from __future__ import annotations

import numpy as np
import pytest

from lanewise.bench.arrivals import draw_arrivals


def test_a_poisson_process_has_its_rate_and_memoryless_gaps():
    times = draw_arrivals(1000.0, 100.0, 1.0, seed=1)
    gaps = np.diff(times)

    assert len(times) / 100 == pytest.approx(1000, rel=0.02)
    assert np.all(gaps >= 0)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1.0, rel=0.02)


def test_bursts_keep_the_mean_rate_and_have_their_own():
    times = draw_arrivals(1000.0, 400.0, 10.0, seed=2)

    assert len(times) / 400 == pytest.approx(1000, rel=0.1)
    # The median gap is one within a burst.
    assert np.median(np.diff(times)) == pytest.approx(np.log(2) / 10_000, rel=0.05)
    # And most of the time there is none at all.
    seen = np.histogram(times, bins=np.arange(0, 400, 0.005))[0] > 0
    assert np.mean(seen) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("burst", [1.0, 10.0])
def test_arrivals_are_ascending_within_the_duration_and_the_same_for_a_seed(burst):
    times = draw_arrivals(500.0, 10.0, burst, seed=3)

    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0 and times[-1] < 10.0
    assert np.array_equal(times, draw_arrivals(500.0, 10.0, burst, seed=3))
    assert not np.array_equal(times[:5], draw_arrivals(500.0, 10.0, burst, seed=4)[:5])


def test_a_low_rate_may_have_no_requests_at_all():
    assert len(draw_arrivals(0.001, 0.01, 10.0, seed=0)) == 0
