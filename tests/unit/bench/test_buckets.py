"""Latencies in buckets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanewise.bench.buckets import SHORTEST_NS, Buckets

latencies = st.lists(st.integers(SHORTEST_NS, 3_000 * 10**9), min_size=1, max_size=200)


def filled(*lists):
    buckets = Buckets()
    for values in lists:
        buckets.add(values)
    return buckets


@given(latencies, st.floats(0, 1))
def test_a_quantile_is_off_by_at_most_the_width_of_a_bucket(values, share):
    exact = np.quantile(values, share, method="inverted_cdf")

    assert filled(values).quantile_ns(share) == pytest.approx(exact, rel=0.003)


@given(latencies, latencies)
def test_merging_is_counting_all(first, second):
    merged = filled(first)
    merged.merge(filled(second))
    both = filled(first, second)

    assert merged.count == both.count == len(first) + len(second)
    assert merged.mean_ns == both.mean_ns == pytest.approx(np.mean(first + second))
    assert merged.longest_ns == max(first + second)
    assert merged.quantile_ns(0.99) == both.quantile_ns(0.99)


def test_without_latencies_there_are_no_figures():
    assert math.isnan(Buckets().quantile_ns(0.5))
    assert math.isnan(Buckets().mean_ns)
    assert Buckets().count == 0


def test_what_is_out_of_range_is_counted_at_its_end():
    assert filled([0, 1, 10**17]).count == 3
