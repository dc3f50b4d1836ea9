"""What a launch costs, as measured: the table that decides which lane runs what, and when."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lanewise.clock import NS_PER_MS
from lanewise.tensors import Shape, element_count

KEPT_SAMPLES = 32
"""The latest times kept of each kind of launch: enough for a median and a high quantile that
outliers do not move, few enough to follow a change of the device's clock within a second."""

HIGH_QUANTILE = 0.95
"""Of the kept times, what a launch is expected not to exceed."""

MOST_KINDS = 4096
"""Kinds of launches remembered; hostile traffic must not fill the memory with new ones."""

DRIFT = 0.1
"""A median that has moved by more than this is worth planning anew."""

_UNKNOWN_LAUNCH_NS = 1 * NS_PER_MS
_UNKNOWN_ROW_NS = NS_PER_MS // 20

Bucket = int
"""Shapes that hold about equally many elements, rows left out: log2 of their number, rounded."""


def bucket_of(shapes: Sequence[Shape]) -> Bucket:
    """Get the bucket of the shapes of all inputs of a request, without rows."""
    return round(math.log2(max(1, sum(element_count(shape) for shape in shapes))))


class Kind(NamedTuple):
    """Launches that should cost the same.

    Attributes:
        profile: its index.
        rows: executed, padding included.
        bucket: of the shapes without rows.
    """

    profile: int
    rows: int
    bucket: Bucket


class Estimate:
    """The time of launches of one kind: the median and a high quantile of the latest.

    Attributes:
        typical_ns: half of the launches take no longer.
        safe_ns: nearly all take no longer; see HIGH_QUANTILE.
    """

    __slots__ = ("_planned_ns", "_samples", "_sorted", "safe_ns", "typical_ns")

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=KEPT_SAMPLES)
        self._sorted: list[int] = []
        self.typical_ns = self.safe_ns = 0
        self._planned_ns = (0, 0)  # the typical and safe times that plans were made with

    @property
    def samples_ns(self) -> tuple[int, ...]:
        """The latest times, oldest first."""
        return tuple(self._samples)

    def add(self, sample_ns: int) -> bool:
        """Take note of one launch; return whether plans made before are out of date."""
        if len(self._samples) == KEPT_SAMPLES:
            del self._sorted[bisect.bisect_left(self._sorted, self._samples[0])]
        self._samples.append(sample_ns)
        bisect.insort(self._sorted, sample_ns)
        last = len(self._sorted) - 1
        self.typical_ns = self._sorted[last // 2]
        high = math.ceil(last * HIGH_QUANTILE)
        # Of three or more, one outlier does not count.
        self.safe_ns = self._sorted[min(high, last - 1) if last > 1 else last]
        times_ns = (self.typical_ns, self.safe_ns)
        if all(
            abs(now - planned) <= DRIFT * planned
            for now, planned in zip(times_ns, self._planned_ns, strict=True)
        ):
            return False
        self._planned_ns = times_ns
        return True


class CostTable:
    """L(profile, rows, shapes): how long launches take from launch to readable outputs.

    What was never measured is estimated from what was: between numbers of rows on a straight
    line, for larger shapes in proportion to their elements, for smaller ones as if they
    were as large. Used by one thread.

    Attributes:
        revision: another number whenever plans made with the table are out of date.
        change_ns: what a launch costs more if the one before it in its lane had other
            shapes or rows, by profile index.
        switch_ns: what it costs to change the profile of an execution context; lanes never do.
        ahead: the share of a launch's time that can pass while the launch before it in its lane
            still executes, such as copying its inputs; 0 if unknown. By profile index.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.change_ns: dict[int, int] = {}
        self.switch_ns = 0
        self.ahead: dict[int, float] = {}
        self._estimates: dict[Kind, Estimate] = {}
        self._rows: dict[tuple[int, Bucket], list[int]] = {}
        self._buckets: dict[int, list[Bucket]] = {}
        self._beside: dict[tuple[int, int], float] = {}
        self._slowdowns: dict[tuple[int, ...], tuple[float, ...]] = {}

    def record(
        self, profile: int, rows: int, bucket: Bucket, took_ns: int, waited_ns: int = 0
    ) -> None:
        """Take note of a launch that ran alone, or whose time beside others was taken out.

        Args:
            profile: its index.
            rows: executed, padding included.
            bucket: of the shapes without rows.
            took_ns: from launch to readable outputs, without `waited_ns`.
            waited_ns: how long it waited in its lane for the launch before it. What it could
                do `ahead` meanwhile is missing in `took_ns`, and added.
        """
        if waited_ns:
            took_ns = min(took_ns + waited_ns, round(took_ns / (1 - self.ahead.get(profile, 0.0))))
        kind = Kind(profile, rows, bucket)
        estimate = self._estimates.get(kind)
        if estimate is None:
            if len(self._estimates) >= MOST_KINDS:
                return
            estimate = self._estimates[kind] = Estimate()
            bisect.insort(self._rows.setdefault((profile, bucket), []), rows)
            buckets = self._buckets.setdefault(profile, [])
            if bucket not in buckets:
                bisect.insort(buckets, bucket)
        if estimate.add(max(1, took_ns)):  # 0 ns is a clock too coarse, and is divided by
            self.revision += 1

    def record_beside(self, profile: int, other: int, slowdown: float) -> None:
        """Take note of how many times longer `profile` takes while `other` runs too."""
        self._beside[profile, other] = max(1.0, slowdown)
        self._slowdowns.clear()
        self.revision += 1

    def typical_ns(self, profile: int, rows: int, bucket: Bucket) -> int:
        """Estimate the median time of a launch that runs alone."""
        return self._estimate(profile, rows, bucket, safe=False)

    def safe_ns(self, profile: int, rows: int, bucket: Bucket) -> int:
        """Estimate what a launch that runs alone will hardly exceed."""
        return self._estimate(profile, rows, bucket, safe=True)

    def beside(self, profile: int, other: int) -> float:
        """Tell how many times longer `profile` takes while `other` runs too; 1 if unknown."""
        return self._beside.get((profile, other), 1.0)

    def slowdowns(self, profiles: tuple[int, ...]) -> tuple[float, ...]:
        """Tell for each of the profiles that run at a time how many times longer it takes."""
        known = self._slowdowns.get(profiles)
        if known is None:
            known = tuple(
                1 + sum(self.beside(a, b) - 1 for j, b in enumerate(profiles) if j != i)
                for i, a in enumerate(profiles)
            )
            if len(self._slowdowns) < MOST_KINDS:
                self._slowdowns[profiles] = known
        return known

    def kinds(self) -> Iterable[tuple[Kind, Estimate]]:
        """Get every kind that was measured."""
        return self._estimates.items()

    def pairs(self) -> Iterable[tuple[tuple[int, int], float]]:
        """Get every pair of profiles whose running side by side was measured."""
        return self._beside.items()

    def _estimate(self, profile: int, rows: int, bucket: Bucket, *, safe: bool) -> int:
        exact = self._estimates.get(Kind(profile, rows, bucket))
        if exact is not None:
            return exact.safe_ns if safe else exact.typical_ns
        buckets = self._buckets.get(profile)
        if not buckets:
            return _UNKNOWN_LAUNCH_NS + rows * _UNKNOWN_ROW_NS
        at_least = bisect.bisect_left(buckets, bucket)
        known = buckets[min(at_least, len(buckets) - 1)]
        scale = 2.0 ** max(0, bucket - known)
        return round(scale * self._interpolate(profile, rows, known, safe=safe))

    def _interpolate(self, profile: int, rows: int, bucket: Bucket, *, safe: bool) -> float:
        """Estimate from the numbers of rows that were measured in `bucket`."""

        def at(known: int) -> int:
            estimate = self._estimates[Kind(profile, known, bucket)]
            return estimate.safe_ns if safe else estimate.typical_ns

        counts = self._rows[profile, bucket]
        right = bisect.bisect_left(counts, rows)
        if right < len(counts) and counts[right] == rows:
            return at(rows)
        if right == 0:
            return at(counts[0])
        left_count = counts[right - 1]
        if right == len(counts):
            return at(left_count) * rows / left_count
        low, high = at(left_count), at(counts[right])
        return low + (high - low) * (rows - left_count) / (counts[right] - left_count)
