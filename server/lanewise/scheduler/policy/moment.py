"""The lanes at one time, as a policy has to see them: who is free, and who runs beside whom."""

from __future__ import annotations

import math
from typing import NamedTuple

from lanewise.scheduler.backlog import Backlog, StackQueue
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import DEFAULT_TARGET_NS, Request

TARGETS_LAST_NS = 1_000_000_000
"""For so long after a request with a latency target, bulk launches are kept short for its like."""

HARM_WEIGHT = 2.2
"""What others lose by a launch beside them counts this many times: it is not only those that run
already who lose. Found in the simulator, as what keeps single rows quick beside bulk work."""


class Neighbours(NamedTuple):
    """What runs beside a lane.

    Attributes:
        slowdown: how many times longer the lane takes.
        harm: the share of that time which the others lose, weighted.
        left_ns: how long they will be there.
    """

    slowdown: float
    harm: float
    left_ns: int


_ALONE = Neighbours(1.0, 0.0, 0)


class Targets:
    """The tightest latency targets of the requests that came lately, by their only profile."""

    def __init__(self) -> None:
        self._tightest: dict[int, tuple[int, int]] = {}  # the target, and when it was seen

    def note(self, waiting: Request, needed_ns: int, now_ns: int) -> None:
        """Record what a request that arrives asks for, if that can be had."""
        if len(waiting.fits) > 1:
            return  # while one lane is busy it has another
        target_ns = waiting.target_ns
        if waiting.deadline_ns is not None:
            target_ns = waiting.deadline_ns - now_ns
        elif target_ns >= DEFAULT_TARGET_NS:
            return
        if target_ns < needed_ns:
            return
        (index,) = waiting.fits
        tightest = self._tightest.get(index)
        if tightest is None or target_ns <= tightest[0] or now_ns > tightest[1] + TARGETS_LAST_NS:
            self._tightest[index] = (target_ns, now_ns)

    def most_ns(self, index: int, slack_ns: float, now_ns: int) -> float:
        """Tell how long a launch of profile `index` may be, of a request that has `slack_ns`.

        Requests that are no more patient than the tightest may take as long as they like.
        """
        tightest = self._tightest.get(index)
        if tightest is None or now_ns > tightest[1] + TARGETS_LAST_NS:
            return math.inf
        return math.inf if slack_ns <= 2 * tightest[0] else tightest[0]


class Moment:
    """The lanes at one time.

    Attributes:
        running: lanes with something in flight.
        live_lanes: how many are in service.
        is_any_idle: whether a lane has nothing in flight.
        can_queue: lanes that are running and have room for a launch behind.
    """

    def __init__(self, backlog: Backlog, costs: CostTable, targets: Targets, now_ns: int) -> None:
        self.now_ns = now_ns
        self.targets = targets
        self.draining = backlog.draining
        self._lanes = backlog.lanes
        self.running: list[Lane] = []
        self.can_queue: list[Lane] = []
        self.live_lanes = 0
        self.is_any_idle = False
        for lane in backlog.lanes:
            if lane.in_flight:
                self.running.append(lane)
                if lane.has_room:
                    self.can_queue.append(lane)
            elif not lane.is_retired:
                self.is_any_idle = True
            self.live_lanes += not lane.is_retired
        self._costs = costs
        self._by_owners = backlog.by_owners
        self._neighbours: dict[int, Neighbours] = {}

    def is_idle(self, fits: tuple[int, ...]) -> bool:
        """Whether a lane of one of these profiles has nothing in flight."""
        for lane in self._lanes:
            if not lane.in_flight and not lane.is_retired and lane.profile.index in fits:
                return True
        return False

    def can_go_behind(self, queue: StackQueue) -> bool:
        """Whether a launch for `queue` might be given to a lane that still executes another.

        It cannot grow any more then, so it has to fill the lane; unless the lane does a part of
        it ahead, which pays if everything that waits goes along.
        """
        return any(
            lane.profile.index in queue.fits
            and (queue.rows >= lane.profile.rows.max or self._costs.ahead.get(lane.profile.index))
            for lane in self.can_queue
        )

    def wait_ns(self, lane: Lane) -> int:
        if not lane.in_flight:
            return 0
        # One that is overdue may be so for as long again: it is not free just now.
        return abs(lane.expected_end_ns - self.now_ns)

    def is_wanted(self, lane: Lane, head: Request) -> bool:
        """Whether requests wait that `lane` is made for, while it is not made for `head`."""
        index = lane.profile.index
        return index not in head.owners and any(index in owners for owners in self._by_owners)

    def neighbours(self, lane: Lane, wait_ns: int) -> Neighbours:
        """Look at the lanes that will be running beside `lane` when it starts."""
        if not self.running:
            return _ALONE
        found = self._neighbours.get(lane.lane_id)
        if found is None:
            found = self._neighbours[lane.lane_id] = self._look_beside(lane, wait_ns)
        return found

    def _look_beside(self, lane: Lane, wait_ns: int) -> Neighbours:
        index, rows, starts_ns = lane.profile.index, lane.profile.rows.opt, self.now_ns + wait_ns
        slowdown, harm, longest_ns = 1.0, 0.0, 0
        for other in self.running:
            left_ns = other.expected_end_ns - starts_ns
            if other is not lane and left_ns > 0:
                other_rows = other.in_flight[-1].padded_rows  # what it is busy with until then
                slowdown += self._costs.beside(index, other.profile.index, other_rows) - 1
                harm += 1 - 1 / self._costs.beside(other.profile.index, index, rows)
                longest_ns = max(longest_ns, left_ns)
        return Neighbours(slowdown, min(1.0, HARM_WEIGHT * harm), longest_ns)
