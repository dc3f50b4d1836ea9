"""Costs laid out for planning: what any number of rows costs in a lane, and over all of them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import Any

from lanewise.scheduler.costs import Bucket, CostTable
from lanewise.scheduler.lane import Lane

HORIZON = 2
"""Plans are made for up to this many times the rows of the largest launch. Of more rows, what is
beyond is planned as largest launches: their cost by the row is all that counts by then."""


class LanePrices:
    """What launches of 0 to `max_rows` rows cost in one lane, padding included.

    Attributes:
        ahead: see `CostTable`.
        typical_ns: by rows, the median.
        safe_ns: by rows, hardly exceeded.
        counts: numbers of rows worth launching, ascending: the lane's own, or powers of two.
        copies: lanes of the same profile, this one among them.
        is_padded: by rows, whether more are executed.
        next_below: by rows, the largest count that is less; 0 if none is.
    """

    __slots__ = (
        "ahead",
        "copies",
        "counts",
        "is_padded",
        "lane",
        "max_rows",
        "next_below",
        "safe_ns",
        "typical_ns",
    )

    def __init__(self, lane: Lane, costs: CostTable, bucket: Bucket) -> None:
        profile = lane.profile
        self.lane = lane
        self.copies = 1
        self.ahead = costs.ahead.get(profile.index, 0.0)
        self.max_rows = profile.rows.max
        self.counts = lane.row_counts or tuple(sorted(profile.rows.powers_of_two))
        typical, safe = {}, {}
        self.typical_ns = [0]
        self.safe_ns = [0]
        for rows in range(1, self.max_rows + 1):
            padded = lane.padded(rows)
            if padded not in typical:
                typical[padded] = costs.typical_ns(profile.index, padded, bucket)
                safe[padded] = costs.safe_ns(profile.index, padded, bucket)
            self.typical_ns.append(typical[padded])
            self.safe_ns.append(safe[padded])
        self.is_padded = [False] * (self.max_rows + 1)
        self.next_below = [0] * (self.max_rows + 1)
        for rows in range(1, self.max_rows + 1):
            at = bisect.bisect_left(self.counts, rows)
            self.is_padded[rows] = lane.padded(rows) != rows
            self.next_below[rows] = self.counts[at - 1] if at else 0


class Prices:
    """What serving rows of one kind costs over the lanes that fit.

    Attributes:
        revision: of the cost table these were made from.
        made_ns: when they were made.
        row_ns: of a row in the launch whose rows are the cheapest.
        for_lone_rows: what a policy remembers for requests of these numbers of rows.
        lanes: one entry for each lane in service that fits, the narrowest first.
    """

    def __init__(
        self, lanes: Sequence[Lane], costs: CostTable, buckets: Sequence[Bucket], now_ns: int
    ) -> None:
        self.revision = costs.revision
        self.for_lone_rows: dict[int, Any] = {}
        self._least: dict[int, int] = {}
        self.made_ns = now_ns
        narrowest_first = sorted(lanes, key=lambda lane: lane.profile.rows.max)
        self.lanes = [
            LanePrices(lane, costs, buckets[lane.profile.index]) for lane in narrowest_first
        ]
        for each in self.lanes:
            each.copies = sum(one.lane.profile is each.lane.profile for one in self.lanes)
        # Runners of the same profile cost the same.
        distinct = {each.lane.profile.index: each for each in self.lanes}.values()
        self._plan = _plan(distinct)
        options = [(each.typical_ns[n] / n, n) for each in distinct for n in each.counts]
        self.row_ns, self._largest = min(options)

    def whole_ns(self, rows: int) -> float:
        """What the cheapest launch of `rows` rows costs; infinite if no lane takes as many."""
        return min(
            (each.typical_ns[rows] for each in self.lanes if rows <= each.max_rows),
            default=math.inf,
        )

    def least_ns(self, rows: int) -> int:
        """What `rows` rows take at least, the copies of a lane at work on them side by side."""
        known = self._least.get(rows)
        if known is None:
            launch_ns = min(each.typical_ns[min(rows, each.max_rows)] for each in self.lanes)
            copies = max(each.copies for each in self.lanes)
            known = max(launch_ns, self.serial_ns(rows) // copies)
            if len(self._least) < len(self._plan):
                self._least[rows] = known
        return known

    def serial_ns(self, rows: int) -> int:
        """What it takes at least to run `rows` rows one launch after the other."""
        plan = self._plan
        if rows < len(plan):
            return plan[rows]
        beyond = -(-(rows - len(plan) + 1) // self._largest) * self._largest
        return plan[rows - beyond] + round(beyond * self.row_ns)


def _plan(lanes: Iterable[LanePrices]) -> list[int]:
    """Find for 0, 1, 2, ... rows the least total time of launches that run them all.

    The last launch may be padded. Dynamic programming over the rows: the cheapest way for n
    is some launch of c rows and the cheapest way for n - c.
    """
    cheapest: dict[int, int] = {}
    for each in lanes:
        for count in each.counts:
            cost = each.typical_ns[count]
            cheapest[count] = min(cost, cheapest.get(count, cost))
    options = sorted(cheapest.items())
    plan = [0]
    for rows in range(1, HORIZON * options[-1][0] + 1):
        plan.append(min(cost + plan[max(0, rows - count)] for count, cost in options))
    return plan
