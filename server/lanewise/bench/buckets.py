"""Latencies counted in buckets, which processes can add up and which never grow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

PER_DOUBLING = 128
"""Buckets from one time to its double: a quantile is off by at most 0.3 %."""

SHORTEST_NS = 1_000
DOUBLINGS = 32
"""From 1 us to more than an hour; what is outside counts as the nearest bucket."""

_PLACES = PER_DOUBLING * DOUBLINGS


class Buckets:
    """How many latencies lie in each of a fixed row of spans, each 0.5 % longer than the last."""

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(_PLACES, np.int64)
        self._total_ns = 0
        self._longest_ns = 0

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    @property
    def longest_ns(self) -> int:
        """The longest, exactly; 0 without any."""
        return self._longest_ns

    @property
    def mean_ns(self) -> float:
        """The mean, exactly; NaN without any."""
        return self._total_ns / self.count if self.count else math.nan

    def add(self, latencies_ns: Sequence[int]) -> None:
        if not len(latencies_ns):
            return
        values = np.asarray(latencies_ns, np.int64)
        doublings = np.log2(np.maximum(values, SHORTEST_NS) / SHORTEST_NS)
        places = np.minimum((doublings * PER_DOUBLING).astype(np.int64), _PLACES - 1)
        self._counts += np.bincount(places, minlength=_PLACES)
        self._total_ns += int(values.sum())
        self._longest_ns = max(self._longest_ns, int(values.max()))

    def merge(self, other: Buckets) -> None:
        self._counts += other._counts
        self._total_ns += other._total_ns
        self._longest_ns = max(self._longest_ns, other._longest_ns)

    def quantile_ns(self, share: float) -> float:
        """Get the least latency that `share` of them do not exceed; NaN without any."""
        count = self.count
        if not count:
            return math.nan
        rank = max(1, math.ceil(share * count))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        middle: float = SHORTEST_NS * 2.0 ** ((place + 0.5) / PER_DOUBLING)
        return min(middle, float(self._longest_ns))
