"""The policy of the lanes: the launch that costs everybody least, by measured costs.

Queues are looked at in the order of their most urgent requests. For each, every lane that
fits could run it: at once, or when it is free. A launch is weighed by two things: the time of
the device it wastes, compared with the cheapest plan for everything that waits in the queue; and the time
its requests would wait for it. An idle device is given whatever waits. Beside other lanes a
launch may be held until it has gathered more rows, but never past its latest safe start.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from lanewise.scheduler.backlog import Backlog, StackQueue, Waiting
from lanewise.scheduler.costs import Bucket, CostTable
from lanewise.scheduler.decisions import LaunchReason
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.policies.prices import LanePrices, Prices
from lanewise.scheduler.policy import Choice, GiveUp, fill

MOST_QUEUES = 16
"""Queues weighed at a time, the most urgent ones: so many shapes at once do not make a decision
slow, and the others get their turn when these have left."""

REPLAN_NS = 50_000_000
"""Plans are made anew at most this often: a drifting table must not keep the planner busy."""

CLOSE = 1.05
"""Lanes whose costs differ by less than this factor are as good as each other."""

_due = operator.attrgetter("head.due_ns")


@dataclass(slots=True)
class _Option:
    """A launch that could be made now, or when its lane is free.

    Attributes:
        waste_ns: what the device spends on it more than in the cheapest plan.
        wait_ns: until it would start.
        end_ns: when it would be over, if it takes as long as such launches hardly ever do.
    """

    prices: LanePrices
    rows: int
    slowdown: float
    waste_ns: float
    wait_ns: int
    end_ns: float


class CostAwarePolicy:
    """See this module's text.

    Args:
        costs: read at every decision, so that what is learnt counts at once.
    """

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._prices: dict[tuple[tuple[int, ...], Bucket], Prices] = {}
        self._planned_ns = 0
        self._wakeup_ns: int | None = None

    @property
    def wakeup_ns(self) -> int | None:
        return self._wakeup_ns

    def choose(self, backlog: Backlog, now_ns: int) -> Choice | GiveUp | None:
        self._wakeup_ns = None
        if not any(lane.has_room for lane in backlog.lanes):
            return None
        for queue in _most_urgent(backlog):
            prices = self._prices_for(queue.fits, queue.bucket, backlog, now_ns)
            choice = self._choose_for(queue, prices, backlog, now_ns)
            if choice is not None:
                return choice
        return None

    def needed_ns(self, backlog: Backlog, waiting: Waiting, now_ns: int) -> int:
        from lanewise.scheduler.costs import bucket_of

        bucket = bucket_of(waiting.request.route.shapes)
        prices = self._prices_for(waiting.fits, bucket, backlog, now_ns)
        return _alone_ns(prices, waiting.rows_left)
