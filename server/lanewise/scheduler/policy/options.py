"""Launches weighed against each other: which lane, how many rows, now or later."""

from __future__ import annotations

import math
from typing import NamedTuple

from lanewise.scheduler.backlog import StackQueue
from lanewise.scheduler.policy.moment import Moment
from lanewise.scheduler.policy.prices import LanePrices, Prices
from lanewise.scheduler.request import Request

CLOSE = 0.05
"""Lanes whose costs differ by less than this share of a launch are as good as each other."""

CUT_WORTH = 2.0
"""A request is cut only where that is cheaper than running it whole, and only into launches whose
rows cost less than this many times the cheapest: not into single rows because a lane is free."""


class Option(NamedTuple):
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
    def ends_ns(self) -> float:
        """From now until it is over, as a rule."""
        return self.wait_ns + self.prices.typical_ns[self.rows] * self.slowdown

    def lasts_ns(self, rows: int) -> int:
        """From now until it would be over with `rows` rows, at a safe guess."""
        return self.wait_ns + math.ceil(self.prices.safe_ns[rows] * self.slowdown)


def weigh(
    head: Request, queue: StackQueue, prices: Prices, moment: Moment, slack_ns: float
) -> tuple[Option | None, Option | None]:
    """Get the best launch that can be made now, and the best that has to wait for its lane.

    Args:
        head: has to be in it.
        queue: of the head.
        prices: of the queue.
        moment: the lanes.
        slack_ns: in which the head has to be done.
    """
    task = _Task(head, queue, prices, moment, slack_ns)
    best_now: Option | None = None
    best_later: Option | None = None
    busy = []
    for each in prices.lanes:  # the narrowest first
        lane = each.lane
        if lane.is_retired:
            continue
        can_start = not lane.in_flight or (
            lane.has_room and (each.ahead or queue.rows >= each.max_rows)
        )
        option = _best_in(each, task) if can_start else None
        if option is None:
            if lane.in_flight:
                busy.append(each)
        elif lane.in_flight and option.rows < each.most_rows_of(queue):
            busy.append(each)
        elif best_now is None or _is_better(option, best_now, queue.rows):
            best_now = option
    for each in busy:
        wait_ns = moment.wait_ns(each.lane)
        if (
            best_now is not None
            and not best_now.cuts
            and best_now.waste_ns * each.max_rows <= (wait_ns - best_now.wait_ns) * best_now.rows
            and (queue.rows > each.max_rows or best_now.ends_ns <= wait_ns)
        ):
            continue  # it could not make up for the wait
        option = _best_in(each, task)
        if option is not None and (
            best_later is None or _is_better(option, best_later, queue.rows)
        ):
            best_later = option
    return best_now, best_later


class _Task:
    """A request for which a launch is looked for, and what there is to know of it."""

    __slots__ = (
        "beside",
        "head",
        "moment",
        "plan_ns",
        "prices",
        "rows",
        "slack_ns",
        "waiting",
        "whole_ns",
    )

    def __init__(
        self,
        head: Request,
        queue: StackQueue,
        prices: Prices,
        moment: Moment,
        slack_ns: float,
    ) -> None:
        self.head = head
        self.prices = prices
        self.moment = moment
        self.slack_ns = slack_ns
        self.rows = head.rows_left
        self.waiting = queue.rows
        self.beside = queue.rows_beside(head)
        self.plan_ns = prices.serial_ns[queue.rows]
        self.whole_ns = prices.whole_ns(head.rows_left)

    def rows_in(self, room: int) -> int:
        """Count the rows of a launch of at most `room` rows with the request in it."""
        beside = room - self.rows
        if beside <= 0:
            return room
        bits = (beside + 1).bit_length() - 1
        return min(room, self.rows + self.beside[min(bits, len(self.beside) - 1)])


def _best_in(each: LanePrices, task: _Task) -> Option | None:
    """Choose the rows of a launch in one lane; None if none of its launches is in time."""
    moment, prices = task.moment, task.prices
    wait_ns = moment.wait_ns(each.lane)
    slowdown, harm, left_ns = moment.neighbours(each.lane, wait_ns)
    most = task.rows_in(each.max_rows)
    rows = _kept_short(each, task, most)
    # Kept short for others, a request may be cut although it would be cheaper whole.
    whole_ns = task.whole_ns if rows == most else math.inf
    falls_short = False
    best: Option | None = None
    while rows:
        cuts = rows < task.rows
        lasts_ns = wait_ns + each.safe_ns[rows] * slowdown
        if cuts:
            part_ns, rest_ns = each.typical_ns[rows], prices.serial_ns[task.rows - rows]
            if part_ns > CUT_WORTH * rows * prices.row_ns or part_ns + rest_ns >= whole_ns:
                rows = each.next_below[rows]  # fewer may cost less by the row
                continue
            rounds = max(1, task.rows / rows / each.copies)  # for all of it to be done
            lasts_ns = wait_ns + each.safe_ns[rows] * slowdown * rounds
        if lasts_ns <= task.slack_ns:
            price_ns = each.typical_ns[rows] * slowdown
            if left_ns and price_ns and not cuts and not moment.is_wanted(each.lane, task.head):
                # The device works on both: only what the others lose is spent.
                overlap = min(1.0, left_ns / price_ns)
                price_ns *= overlap * harm + (1 - overlap) / slowdown
            waste_ns = price_ns + prices.serial_ns[task.waiting - rows] - task.plan_ns
            if best is None or waste_ns < best.waste_ns:
                best = Option(each, rows, cuts, falls_short, slowdown, waste_ns, wait_ns)
            if not each.is_padded[rows]:
                break
        else:
            falls_short = True
        rows = each.next_below[rows]
    return best


def _kept_short(each: LanePrices, task: _Task, rows: int) -> int:
    """Make a launch smaller that would keep others, who have no other lane, past their target.

    Not so small that its rows become too dear.
    """
    moment = task.moment
    most_ns = moment.targets.most_ns(each.lane.profile.index, task.slack_ns, moment.now_ns)
    if most_ns == math.inf:
        return rows
    shorter = rows
    while shorter and each.typical_ns[shorter] + each.typical_ns[1] > most_ns:
        shorter = each.next_below[shorter]
    is_worth_it = shorter and each.typical_ns[shorter] <= CUT_WORTH * shorter * task.prices.row_ns
    return shorter if is_worth_it else rows


def _is_better(option: Option, other: Option, rows: int) -> bool:
    """Whether `option` costs less than `other`, which is of a lane that is no wider.

    Where they cost about the same, as far as the spread of their times lets that be told, the
    narrower lane is taken, so that the wider ones stay free. But of a request that has to be cut
    the larger part goes first, and one that would be cut for the narrower lane only goes
    where it costs less.
    """
    cost_ns = option.waste_ns + option.wait_ns * option.rows / rows
    other_ns = other.waste_ns + other.wait_ns * other.rows / rows
    typical_ns = option.prices.typical_ns[option.rows]
    spread_ns = option.prices.safe_ns[option.rows] - typical_ns
    close_ns = CLOSE * typical_ns + spread_ns
    if other.cuts and option.rows > other.rows:
        return cost_ns < other_ns + (close_ns if option.cuts else 0)
    return cost_ns < other_ns - close_ns


def pays_to_wait(now: Option, later: Option, rows: int) -> bool:
    """Whether what a launch now would waste is more than what its rows would wait.

    What is wasted is lost to all rows that wait, the time to wait is lost by the rows that
    could have gone now: both are counted by the row. One that goes behind another launch waits,
    too: only the difference is lost. There is nothing to weigh if the later launch takes all
    of the `rows` that wait and is over first.
    """
    if later.rows >= rows and later.ends_ns <= now.ends_ns and later.waste_ns <= now.waste_ns:
        return True
    if now.cuts and not later.cuts:  # the part would only wait for the rest of its request
        return now.waste_ns > later.waste_ns
    longer_ns = later.wait_ns - now.wait_ns
    return (now.waste_ns - later.waste_ns) * later.rows > longer_ns * now.rows
