"""Costs laid out for planning: what any number of rows costs in a lane, and over all of them.

Nothing is worked out before it is asked for, so that prices made anew hold up no decision, however
many rows a lane takes.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lanewise.scheduler.backlog import StackQueue
from lanewise.scheduler.costs.table import Bucket, CostTable
from lanewise.scheduler.lane import Lane

MAX_KEPT = 4096
"""Numbers of rows whose price is remembered, of each kind: hostile requests fill no memory."""

MAX_COUNTS = 24
"""Sizes of launches that a plan may be made of; of more, the cheapest by the row of each power of
two: a plan over every number of rows takes too long, and would hardly be cheaper."""


class _ByRows(dict[int, int]):
    """Values by rows, found when first asked for."""

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[int], int]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, rows: int) -> int:
        found = self._find(rows)
        if len(self) < MAX_KEPT:
            self[rows] = found
        return found


class LanePrices:
    """What launches of 0 to `max_rows` rows cost in one lane, padding included.

    Attributes:
        ahead: see `CostTable`.
        behind_ns: by rows, the median when the launch before it in the lane is over.
        typical_ns: by rows, the median.
        safe_ns: by rows, hardly exceeded.
        counts: numbers of rows worth launching, ascending: the lane's own, or powers of two.
        copies: lanes of the same profile, this one among them.
        is_padded: by rows, whether more are executed.
        next_below: by rows, the largest count that is less; 0 if none is.
    """

    __slots__ = (
        "ahead",
        "behind_ns",
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
        index = lane.profile.index
        self.lane = lane
        self.copies = 1
        self.ahead = costs.ahead.get(index, 0.0)
        self.max_rows = lane.profile.rows.max
        counts = lane.row_counts or tuple(sorted(lane.profile.rows.powers_of_two))
        self.counts = counts
        self.typical_ns = _prices(lane, lambda rows: costs.typical_ns(index, rows, bucket))
        self.behind_ns = _prices(lane, lambda rows: costs.behind_ns(index, rows, bucket))
        self.safe_ns = _prices(lane, lambda rows: costs.safe_ns(index, rows, bucket))
        self.is_padded = _ByRows(lambda rows: rows > 0 and lane.padded(rows) != rows)
        self.next_below = _ByRows(
            lambda rows: counts[at - 1] if (at := bisect.bisect_left(counts, rows)) else 0
        )

    def most_rows_of(self, queue: StackQueue) -> int:
        """Tell the rows of a launch that nothing which waits now could make larger."""
        return min(self.max_rows, queue.rows)


def _prices(lane: Lane, price: Callable[[int], int]) -> _ByRows:
    """Lay out what rows cost in a lane: what the rows that are executed for them cost."""

    def find(rows: int) -> int:
        padded = lane.padded(rows)
        return price(rows) if padded == rows else prices[padded]

    prices = _ByRows(find)
    prices[0] = 0
    return prices


class Prices:
    """What serving rows of one kind costs over the lanes that fit.

    Attributes:
        revision: of the cost table these were made from.
        made_ns: when they were made.
        row_ns: of a row in the launch whose rows are the cheapest.
        for_lone_rows: what a policy remembers for requests of these numbers of rows.
        lanes: one entry for each lane in service that fits, the narrowest first.
        serial_ns: by rows, what it takes at least to run them one launch after the other.
    """

    def __init__(
        self, lanes: Sequence[Lane], costs: CostTable, buckets: Sequence[Bucket], now_ns: int
    ) -> None:
        self.revision = costs.revision
        self.for_lone_rows: dict[int, Any] = {}
        self._least = _ByRows(self._find_least)
        self.made_ns = now_ns
        narrowest_first = sorted(lanes, key=lambda lane: lane.profile.rows.max)
        self.lanes = [
            LanePrices(lane, costs, buckets[lane.profile.index]) for lane in narrowest_first
        ]
        # Runners of the same profile cost the same.
        distinct: dict[int, LanePrices] = {}
        for each in self.lanes:
            each.copies = sum(one.profile is each.lane.profile for one in lanes)
            distinct.setdefault(each.lane.profile.index, each)
        self._launches = _launches_of(distinct.values())
        self.row_ns = min(cost / count for count, cost in self._launches)
        self.serial_ns = _ByRows(self._find_serial)

    def whole_ns(self, rows: int) -> float:
        """What the cheapest launch of `rows` rows costs; infinite if no lane takes as many."""
        return min(
            (each.typical_ns[rows] for each in self.lanes if rows <= each.max_rows),
            default=math.inf,
        )

    def least_ns(self, rows: int) -> int:
        """What `rows` rows take at least, the copies of a lane at work on them side by side."""
        return self._least[rows]

    def _find_least(self, rows: int) -> int:
        launch_ns = min(each.typical_ns[min(rows, each.max_rows)] for each in self.lanes)
        copies = max(each.copies for each in self.lanes)
        return max(launch_ns, self.serial_ns[rows] // copies)

    def _find_serial(self, rows: int) -> int:
        """Find the cheapest launches for `rows` rows; the last may be padded.

        Dynamic programming: they are as many launches of some size as are full, and the
        cheapest way for what is left. What is left of any size is less than that size, so there
        are about as few numbers of rows to look at as sizes; the best plan that mixes sizes
        in another way is not looked for.
        """
        if rows <= 0:
            return 0
        best_ns: float = math.inf
        for count, cost in self._launches:
            if count >= rows:
                best_ns = min(best_ns, cost)
            else:
                full = rows // count
                best_ns = min(best_ns, full * cost + self.serial_ns[rows - full * count])
        return int(best_ns)


def _launches_of(lanes: Iterable[LanePrices]) -> list[tuple[int, int]]:
    """Get the sizes of launches that plans are made of, ascending, and what each costs."""
    cheapest: dict[int, int] = {}
    for each in lanes:
        counts = each.counts
        if len(counts) > MAX_COUNTS:  # then the prices of all would take long, too
            counts = tuple({count.bit_length(): count for count in counts}.values())
        for count in counts:
            cost = each.typical_ns[count]
            cheapest[count] = min(cost, cheapest.get(count, cost))
    return sorted(cheapest.items())
