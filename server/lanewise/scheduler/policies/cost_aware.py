"""The policy of the lanes: the launch that costs everybody least, by measured costs.

Queues are looked at in the order of their most urgent requests. For each, every lane that
fits could run it: at once, or when it is free. Such a launch is weighed by two times: what it
makes the device spend beyond the cheapest plan for everything in the queue, and what its requests
wait for it. An idle device is given whatever waits. Beside other lanes a launch may be held
until it has gathered more rows, but never past its latest safe start.
"""

from __future__ import annotations

import heapq
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
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
        rows: it would take, of those that wait.
        cuts: whether it would take but a part of the head.
        falls_short: whether it is smaller than it might be, to be over in time.
        slowdown: of it, by the lanes beside it.
        waste_ns: what the device spends on it beyond the cheapest plan.
        wait_ns: until it would start.
    """

    prices: LanePrices
    rows: int
    cuts: bool
    falls_short: bool
    slowdown: float
    waste_ns: float
    wait_ns: int

    @property
    def lasts_ns(self) -> int:
        """From now until it would be over, at a safe guess."""
        return self.wait_ns + math.ceil(self.prices.safe_ns[self.rows] * self.slowdown)


class CostAwarePolicy:
    """See this module's text.

    Args:
        costs: read at every decision, so that what is learnt counts at once.
    """

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._prices: dict[tuple[tuple[int, ...], Bucket], Prices] = {}
        self._wakeup_ns: int | None = None

    @property
    def wakeup_ns(self) -> int | None:
        return self._wakeup_ns

    def choose(self, backlog: Backlog, now_ns: int) -> Choice | GiveUp | None:
        self._wakeup_ns = None
        running = [lane for lane in backlog.lanes if lane.in_flight]
        if not any(lane.has_room for lane in backlog.lanes):
            return None
        for queue in _most_urgent(backlog):
            prices = self._prices_for(backlog, queue.fits, queue.bucket, now_ns)
            choice = self._choose_from(queue, prices, running, backlog.draining, now_ns)
            if choice is not None:
                return choice
        return None

    def needed_ns(self, backlog: Backlog, waiting: Waiting, now_ns: int) -> int:
        prices = self._prices_for(backlog, waiting.fits, waiting.bucket, now_ns)
        return round(prices.serial_ns(waiting.rows_left))

    def _prices_for(
        self, backlog: Backlog, fits: tuple[int, ...], bucket: Bucket, now_ns: int
    ) -> Prices:
        prices = self._prices.get((fits, bucket))
        if prices is not None and (
            prices.revision == self._costs.revision or now_ns < prices.made_ns + REPLAN_NS
        ):
            return prices
        lanes = [
            lane for lane in backlog.lanes if lane.profile.index in fits and not lane.is_retired
        ]
        made = self._prices[fits, bucket] = Prices(lanes, self._costs, bucket, now_ns)
        return made

    def _choose_from(
        self,
        queue: StackQueue,
        prices: Prices,
        running: Sequence[Lane],
        draining: bool,
        now_ns: int,
    ) -> Choice | GiveUp | None:
        now, later = self._weigh(queue, prices, running, now_ns)
        if now is None and later is None:
            needed_ns = _needed_ns(queue.head, prices, now_ns)
            if queue.head.deadline_ns is not None and now_ns + needed_ns > queue.head.deadline_ns:
                return GiveUp(queue.head, needed_ns)
            now = self._weigh(queue, prices, running, now_ns, late=True)[0]
        if now is None or (later is not None and _pays_to_wait(now, later, queue.rows)):
            return None
        reason = self._why_now(queue, now, running, draining, now_ns)
        if reason is None:
            return None
        choice = _launch(queue, now, reason, now_ns)
        if now.prices.lane.in_flight and sum(n for _, n in choice.parts) < now.prices.max_rows:
            return None  # it would only wait on the device, and could no longer grow
        return choice

    def _weigh(
        self,
        queue: StackQueue,
        prices: Prices,
        running: Sequence[Lane],
        now_ns: int,
        *,
        late: bool = False,
    ) -> tuple[_Option | None, _Option | None]:
        """Get the best launch that can be made now, and the best that has to wait for its lane.

        With `late` the head's deadline does not matter.
        """
        deadline_ns = None if late else queue.head.deadline_ns
        best_now: _Option | None = None
        best_later: _Option | None = None
        for each in prices.lanes:  # the narrowest first
            lane = each.lane
            if lane.is_retired:
                continue
            slack_ns = math.inf if deadline_ns is None else deadline_ns - now_ns
            option = self._best_in(each, queue, prices, running, now_ns, slack_ns)
            if option is None:
                continue
            if not lane.in_flight or (lane.has_room and option.rows == each.max_rows):
                if best_now is None or _is_better(option, best_now, queue.rows):
                    best_now = option
            elif best_later is None or _is_better(option, best_later, queue.rows):
                best_later = option
        return best_now, best_later

    def _best_in(
        self,
        prices: LanePrices,
        queue: StackQueue,
        overall: Prices,
        running: Sequence[Lane],
        now_ns: int,
        slack_ns: float,
    ) -> _Option | None:
        """Choose the rows of a launch in one lane; None if none of its launches is in time."""
        lane = prices.lane
        wait_ns = max(0, lane.expected_end_ns - now_ns) if lane.in_flight else 0
        slowdown, harm, beside_ns = self._beside(lane, running, now_ns + wait_ns)
        plan_ns = overall.serial_ns(queue.rows)
        most = queue.rows_beside_head(prices.max_rows)
        head_rows = queue.head.rows_left
        falls_short = False
        best: _Option | None = None
        for rows in prices.choices(most):
            if wait_ns + prices.safe_ns[rows] * slowdown > slack_ns:
                falls_short = True
                continue
            typical_ns = prices.typical_ns[rows]
            overlap = min(1.0, beside_ns / (typical_ns * slowdown))
            price_ns = typical_ns * (slowdown * overlap * harm + 1 - overlap)
            waste_ns = price_ns + overall.serial_ns(queue.rows - rows) - plan_ns
            if best is None or waste_ns < best.waste_ns:
                cuts = rows < head_rows
                best = _Option(prices, rows, cuts, falls_short, slowdown, waste_ns, wait_ns)
        return best

    def _beside(
        self, lane: Lane, running: Sequence[Lane], start_ns: int
    ) -> tuple[float, float, int]:
        """Look at the lanes that will be running beside `lane` from `start_ns` on.

        Returns:
            How many times longer it will take; which share of that time the others lose;
            and how long they will be there, in ns.
        """
        slowdown, harm, beside_ns = 1.0, 0.0, 0
        for other in running:
            left_ns = other.expected_end_ns - start_ns
            if other is lane or left_ns <= 0:
                continue
            slowdown += self._costs.beside(lane.profile.index, other.profile.index) - 1
            harm += 1 - 1 / self._costs.beside(other.profile.index, lane.profile.index)
            beside_ns = max(beside_ns, left_ns)
        return slowdown, min(1.0, harm), beside_ns

    def _why_now(
        self,
        queue: StackQueue,
        option: _Option,
        running: Sequence[Lane],
        draining: bool,
        now_ns: int,
    ) -> LaunchReason | None:
        """Say why a launch must not wait for more rows; None if it should, until `wakeup_ns`."""
        if draining:
            return LaunchReason.DRAIN
        if not running:
            return LaunchReason.IDLE
        profile = option.prices.lane.profile
        if option.rows >= profile.rows.opt:
            return LaunchReason.FULL
        if option.falls_short:
            return LaunchReason.DEADLINE
        head = queue.head
        by_ns = head.due_ns if head.deadline_ns is None else head.deadline_ns
        grown_ns = option.prices.safe_ns[profile.rows.opt] * option.slowdown
        latest_ns = by_ns - math.ceil(grown_ns)
        delayed_ns = profile.max_queue_delay_ns + min(w.arrived_ns for w in queue.entries)
        if now_ns >= latest_ns:
            return LaunchReason.DEADLINE
        if now_ns >= delayed_ns:
            return LaunchReason.DELAY
        at_ns = min(latest_ns, delayed_ns)
        self._wakeup_ns = at_ns if self._wakeup_ns is None else min(self._wakeup_ns, at_ns)
        return None


def _most_urgent(backlog: Backlog) -> Sequence[StackQueue]:
    queues = backlog.queues.values()
    if len(queues) == 1:
        return tuple(queues)
    return heapq.nsmallest(MOST_QUEUES, queues, key=_due)


def _is_better(option: _Option, other: _Option, rows: int) -> bool:
    """Whether `option` costs less than `other`, which is of a lane that is no wider.

    Where they cost about the same, the narrower lane is taken, so that the wider ones stay free;
    but of a request that has to be cut, the larger part goes first.
    """
    cost_ns = option.waste_ns + option.wait_ns * option.rows / rows
    other_ns = other.waste_ns + other.wait_ns * other.rows / rows
    close_ns = (CLOSE - 1) * option.prices.typical_ns[option.rows]
    if other.cuts and option.rows > other.rows:
        return cost_ns < other_ns + close_ns
    return cost_ns < other_ns - close_ns


def _pays_to_wait(now: _Option, later: _Option, rows: int) -> bool:
    """Whether what a launch now would waste is more than what its rows would wait.

    What is wasted is lost to all rows that wait, the time to wait is lost by the rows that
    could have gone now: both are counted by the row.
    """
    if now.cuts:  # the part would only wait for the rest of its request
        return now.waste_ns > later.waste_ns
    return (now.waste_ns - later.waste_ns) * rows > later.wait_ns * now.rows


def _needed_ns(waiting: Waiting, prices: Prices, now_ns: int) -> int:
    """Estimate what a request takes from now if it is served next, in the best of lanes."""
    rows = waiting.rows_left
    needed = []
    for each in prices.lanes:
        lane = each.lane
        if not lane.is_retired:
            wait_ns = max(0, lane.expected_end_ns - now_ns) if lane.in_flight else 0
            first = min(rows, each.max_rows)
            needed.append(wait_ns + each.typical_ns[first] + prices.serial_ns(rows - first))
    return round(min(needed))


def _launch(queue: StackQueue, option: _Option, reason: LaunchReason, now_ns: int) -> Choice:
    lane = option.prices.lane
    room = min(lane.padded(option.rows), option.prices.max_rows)
    parts = fill(_in_time(queue.entries, now_ns + option.lasts_ns), room)
    rows = sum(count for _, count in parts)
    predicted_ns = option.wait_ns + round(option.prices.typical_ns[rows] * option.slowdown)
    return Choice(lane, parts, reason, predicted_ns, option.slowdown)


def _in_time(entries: Sequence[Waiting], end_ns: int) -> Iterator[Waiting]:
    """Iterate over the head, and the others that would be done in time."""
    yield entries[0]
    for waiting in itertools.islice(entries, 1, None):
        if waiting.deadline_ns is None or waiting.deadline_ns >= end_ns:
            yield waiting
