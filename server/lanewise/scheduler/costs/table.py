"""What a launch costs, as measured: the table that decides which lane runs what, and when."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lanewise.clock import NS_PER_MS
from lanewise.model.tensors import Shape, element_count
from lanewise.scheduler.costs.estimate import Estimate

MAX_KINDS = 4096
"""Bounds the kinds of launches kept, so that hostile traffic cannot fill the memory."""

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


class Disturbance(NamedTuple):
    """How many times longer launches of `profile` take while `other` runs `rows`, too."""

    profile: int
    other: int
    rows: int
    slowdown: float


Running = tuple[int, int]
"""A launch that runs: the index of its profile, and the rows executed."""


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
            still executes, such as copying its inputs; 0 if unknown. By profile index, at
            its opt. What launches of a kind gain is in `behind_ns`, once some have been
            behind others; whether to give a lane a second one is decided by this.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.change_ns: dict[int, int] = {}
        self.switch_ns = 0
        self.ahead: dict[int, float] = {}
        self._estimates: dict[Kind, Estimate] = {}
        self._rows: dict[tuple[int, Bucket], list[int]] = {}
        self._buckets: dict[int, list[Bucket]] = {}
        self._beside: dict[tuple[int, int], list[tuple[int, float]]] = {}
        self._slowdowns: dict[tuple[Running, ...], tuple[float, ...]] = {}

    def record(
        self, profile: int, rows: int, bucket: Bucket, took_ns: int, waited_ns: int = 0
    ) -> None:
        """Record a launch that ran alone, or whose time was corrected for those beside it.

        Args:
            profile: its index.
            rows: executed, padding included.
            bucket: of the shapes without rows.
            took_ns: from launch to readable outputs, without `waited_ns`.
            waited_ns: how long it waited in its lane for the launch before it. If it waited
                for all that it can do meanwhile, its time is kept among those behind others.
        """
        took_ns = max(1, took_ns)  # 0 ns is a clock too coarse, and is divided by
        kind = Kind(profile, rows, bucket)
        estimate = self._estimates.get(kind)
        if estimate is None:
            estimate = self._remember(kind)
            if estimate is None:
                return
            # Of one that waited the whole time has to be guessed for once.
            whole_ns = round(took_ns / (1 - self.ahead.get(profile, 0.0)))
            self.revision += estimate.add(min(took_ns + waited_ns, whole_ns))
        elif waited_ns:
            # Alone it takes no less than it took, and no more than that and the wait: so that a
            # lane that is never idle unlearns what is wrong.
            oldest_ns = estimate.samples_ns[0]
            self.revision += estimate.add(min(max(oldest_ns, took_ns), took_ns + waited_ns))
        else:
            self.revision += estimate.add(took_ns)
        if waited_ns and waited_ns >= estimate.typical_ns - self.behind_ns(*kind):
            self.revision += estimate.add(took_ns, is_behind=True)

    def _remember(self, kind: Kind) -> Estimate | None:
        """Add an estimate for a kind; None if there are too many."""
        if len(self._estimates) >= MAX_KINDS:
            return None
        profile, rows, bucket = kind
        bisect.insort(self._rows.setdefault((profile, bucket), []), rows)
        buckets = self._buckets.setdefault(profile, [])
        if bucket not in buckets:
            bisect.insort(buckets, bucket)
        estimate = self._estimates[kind] = Estimate()
        return estimate

    def restore(self, kind: Kind, samples_ns: Iterable[int], behind_ns: Iterable[int]) -> None:
        for sample_ns in samples_ns:
            self.record(*kind, sample_ns)
        if estimate := self._estimates.get(kind):
            for sample_ns in behind_ns:
                self.revision += estimate.add(max(1, sample_ns), is_behind=True)

    def knows(self, profiles: Iterable[int]) -> bool:
        """Whether a launch of each of these profiles is known, so that no cost is a guess."""
        return all(profile in self._buckets for profile in profiles)

    def record_beside(self, profile: int, other: int, rows: int, slowdown: float) -> None:
        """Record how many times longer `profile` takes while `other` runs `rows`, too."""
        known = self._beside.setdefault((profile, other), [])
        known[:] = sorted(
            [*(each for each in known if each[0] != rows), (rows, max(1.0, slowdown))]
        )
        self._slowdowns.clear()
        self.revision += 1

    def typical_ns(self, profile: int, rows: int, bucket: Bucket) -> int:
        """Estimate the median time of a launch that runs alone."""
        return self._estimate(profile, rows, bucket, safe=False)

    def safe_ns(self, profile: int, rows: int, bucket: Bucket) -> int:
        """Estimate what a launch that runs alone will hardly exceed."""
        return self._estimate(profile, rows, bucket, safe=True)

    def behind_ns(self, profile: int, rows: int, bucket: Bucket) -> int:
        """Estimate what a launch takes from when the one before it in its lane is over.

        If it was given to the lane early enough to do meanwhile what it can.
        """
        exact = self._estimates.get(Kind(profile, rows, bucket))
        if exact is not None and exact.behind_ns is not None:
            return exact.behind_ns
        share = 1 - self.ahead.get(profile, 0.0)
        return round(share * self.typical_ns(profile, rows, bucket))

    def beside(self, profile: int, other: int, rows: int) -> float:
        """Get how many times longer `profile` takes while `other` runs `rows`; 1 if unknown.

        Interpolated linearly in the log of rows, which is how it grows (H200, ResNet-50);
        beyond the rows that were measured it is that of the nearest.
        """
        known = self._beside.get((profile, other))
        if not known:
            return 1.0
        at = bisect.bisect_left(known, (rows,))
        if at == len(known):
            return known[-1][1]
        right_rows, right = known[at]
        if at == 0 or right_rows == rows:
            return right
        left_rows, left = known[at - 1]
        share = math.log(rows / left_rows) / math.log(right_rows / left_rows)
        return left + share * (right - left)

    def slowdowns(self, running: tuple[Running, ...]) -> tuple[float, ...]:
        """Get, for each of the launches that run at a time, how many times longer it takes."""
        known = self._slowdowns.get(running)
        if known is None:
            known = tuple(
                1
                + sum(self.beside(profile, *other) - 1 for j, other in enumerate(running) if j != i)
                for i, (profile, _) in enumerate(running)
            )
            if len(self._slowdowns) >= MAX_KINDS:
                self._slowdowns.clear()
            self._slowdowns[running] = known
        return known

    def kinds(self) -> Iterable[tuple[Kind, Estimate]]:
        return self._estimates.items()

    def pairs(self) -> Iterable[Disturbance]:
        for (profile, other), known in self._beside.items():
            for rows, slowdown in known:
                yield Disturbance(profile, other, rows, slowdown)

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
