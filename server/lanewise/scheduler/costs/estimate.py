"""What launches of one kind take: quantiles of the latest."""

from __future__ import annotations

import bisect
import math
from collections import deque

KEPT_SAMPLES = 32
"""The latest times kept of each kind of launch: enough for a median and a high quantile that
outliers do not move, few enough to follow a change of the device's clock within a second."""

HIGH_QUANTILE = 0.95
"""Of the kept times, what a launch is expected not to exceed."""

MIN_BEHIND = 3
"""Launches behind others from which on their own times count, and not what is gained at opt."""

DRIFT = 0.1
"""A median that has moved by more than this is worth planning anew."""


def after_wait(alone_ns: int, behind_ns: int, waited_ns: int) -> int:
    """Get what a launch takes from when the one before it in its lane is over.

    Args:
        alone_ns: what it takes if it waits for none.
        behind_ns: what it takes if it has waited for all that it can do meanwhile.
        waited_ns: how long it has waited.
    """
    return max(alone_ns - waited_ns, min(alone_ns, behind_ns))


class _Latest:
    """The latest times of something, and their quantiles.

    Attributes:
        samples: oldest first.
        median_ns: half of them are no longer.
        high_ns: HIGH_QUANTILE of them; of three or more, one outlier does not count.
    """

    __slots__ = ("_sorted", "high_ns", "median_ns", "samples")

    def __init__(self) -> None:
        self.samples: deque[int] = deque(maxlen=KEPT_SAMPLES)
        self._sorted: list[int] = []
        self.median_ns = self.high_ns = 0

    def add(self, sample_ns: int) -> None:
        if len(self.samples) == KEPT_SAMPLES:
            del self._sorted[bisect.bisect_left(self._sorted, self.samples[0])]
        self.samples.append(sample_ns)
        bisect.insort(self._sorted, sample_ns)
        last = len(self._sorted) - 1
        self.median_ns = self._sorted[last // 2]
        high = math.ceil(last * HIGH_QUANTILE)
        self.high_ns = self._sorted[min(high, last - 1) if last > 1 else last]


class Estimate:
    """The time of launches of one kind: quantiles of the latest.

    Those that waited for the one before them in their lane are kept apart: what they could do
    meanwhile, such as copying inputs, is missing in their time.

    Attributes:
        typical_ns: half of the launches that waited for none take no longer.
        safe_ns: nearly all of those take no longer; see HIGH_QUANTILE.
        behind_ns: half of the launches that waited take no longer from then on when the one
            before them was over; None as long as too few are known.
    """

    __slots__ = ("_behind", "_first", "_planned_ns", "behind_ns", "safe_ns", "typical_ns")

    def __init__(self) -> None:
        self._first = _Latest()
        self._behind = _Latest()
        self.typical_ns = self.safe_ns = 0
        self.behind_ns: int | None = None
        self._planned_ns = (0, 0, 0)  # the times that plans were made with

    @property
    def samples_ns(self) -> tuple[int, ...]:
        """The latest times of launches that waited for none, oldest first."""
        return tuple(self._first.samples)

    @property
    def behind_samples_ns(self) -> tuple[int, ...]:
        return tuple(self._behind.samples)

    def add(self, sample_ns: int, *, is_behind: bool = False) -> bool:
        """Record one launch; return whether plans made before are out of date."""
        if is_behind:
            self._behind.add(sample_ns)
            if len(self._behind.samples) >= MIN_BEHIND:
                self.behind_ns = self._behind.median_ns
        else:
            self._first.add(sample_ns)
            self.typical_ns, self.safe_ns = self._first.median_ns, self._first.high_ns
        typical_ns, safe_ns, behind_ns = self._planned_ns
        if (
            abs(self.typical_ns - typical_ns) <= DRIFT * typical_ns
            and abs(self.safe_ns - safe_ns) <= DRIFT * safe_ns
            and abs((self.behind_ns or 0) - behind_ns) <= DRIFT * behind_ns
        ):
            return False
        self._planned_ns = (self.typical_ns, self.safe_ns, self.behind_ns or 0)
        return True
