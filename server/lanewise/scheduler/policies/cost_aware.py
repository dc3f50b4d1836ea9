"""The policy of the lanes: the launch that costs everybody least, by measured costs.

The most urgent request of each queue is looked at, one after the other. Every lane that
fits could run it: at once, or when it is free. Such a launch is weighed by two times: what it
makes the device spend beyond the cheapest plan for everything in the queue, and what its requests
wait for it. An idle device is given whatever waits. Beside other lanes a launch may be held
until it has gathered more rows, but never past its latest safe start.

Queues of different lengths that cost less together are looked at as one, see `mixing`.
"""

from __future__ import annotations

import functools
import heapq
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lanewise.scheduler.backlog import Backlog, StackQueue, Waiting
from lanewise.scheduler.costs import Bucket, CostTable
from lanewise.scheduler.decisions import LaunchReason
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.policies.mixing import Mixes
from lanewise.scheduler.policies.prices import LanePrices, Prices
from lanewise.scheduler.policy import Choice, GiveUp, fill
from lanewise.scheduler.request import DEFAULT_TARGET_NS

MOST_HEADS = 16
"""Requests for which a launch is looked for at a time, the most urgent ones: so many shapes at once
do not make a decision slow, and the others get their turn when these have left."""

REPLAN_NS = 50_000_000
"""Plans are made anew at most this often: a drifting table must not keep the planner busy."""

LOOK_AGAIN_NS = 100_000
"""A launch that is held for a lane is looked at again when that lane should have been free, and
this much later: launches end a little sooner or later than expected."""

TARGETS_LAST_NS = 1_000_000_000
"""For so long after a request with a latency target, bulk launches are kept short for its like."""

MOST_LONE_ROWS = 1024
"""Numbers of rows whose best launch is remembered for each kind of requests."""

CLOSE = 0.05
"""Lanes whose costs differ by less than this share of a launch are as good as each other."""

HARM_WEIGHT = 2.2
"""What others lose by a launch beside them counts this many times: it is not only those that run
already who lose. Found in the simulator: more or less of it serves fewer requests on time."""

CUT_WORTH = 2.0
"""A request is cut only where that is cheaper than running it whole, and only into launches whose
rows cost less than this many times the cheapest: not into single rows because a lane is free."""

_urgency = operator.attrgetter("due_ns", "sequence")


class _Neighbours(NamedTuple):
    """What runs beside a lane.

    Attributes:
        slowdown: how many times longer the lane takes.
        harm: the share of that time which the others lose, weighted.
        left_ns: how long they will be there.
    """

    slowdown: float
    harm: float
    left_ns: int


_ALONE = _Neighbours(1.0, 0.0, 0)


class _Option(NamedTuple):
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

    def lasts_ns(self, rows: int) -> int:
        """From now until it would be over with `rows` rows, at a safe guess."""
        return self.wait_ns + math.ceil(self.prices.safe_ns[rows] * self.slowdown)


class _Targets:
    """The tightest latency targets of the requests that came lately, by their only profile."""

    def __init__(self) -> None:
        self._tightest: dict[int, tuple[int, int]] = {}  # the target, and when it was seen

    def note(self, waiting: Waiting, needed_ns: int, now_ns: int) -> None:
        """Take note of what a request that arrives asks for, if that can be had."""
        if len(waiting.fits) > 1:
            return  # while one lane is busy it has another
        request = waiting.request
        target_ns = request.target_ns
        if request.deadline_ns is not None:
            target_ns = request.deadline_ns - now_ns
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


class _Moment:
    """The lanes at one time.

    Attributes:
        running: lanes with something in flight.
        live_lanes: how many are in service.
        is_any_idle: whether a lane has nothing in flight.
        can_queue: lanes that are running and have room for a launch behind.
    """

    def __init__(self, backlog: Backlog, costs: CostTable, targets: _Targets, now_ns: int) -> None:
        self.now_ns = now_ns
        self.targets = targets
        self.draining = backlog.draining
        self._lanes = backlog.lanes
        self.running = [lane for lane in backlog.lanes if lane.in_flight]
        live = [lane for lane in backlog.lanes if not lane.is_retired]
        self.live_lanes = len(live)
        self.is_any_idle = any(not lane.in_flight for lane in live)
        self.can_queue = [lane for lane in self.running if lane.has_room]
        self._costs = costs
        self._by_owners = backlog.by_owners
        self._neighbours: dict[int, _Neighbours] = {}

    def is_idle(self, fits: tuple[int, ...]) -> bool:
        """Whether a lane of one of these profiles has nothing in flight."""
        return any(
            not lane.in_flight and not lane.is_retired and lane.profile.index in fits
            for lane in self._lanes
        )

    def wait_ns(self, lane: Lane) -> int:
        """How long until a launch of `lane` would start."""
        if not lane.in_flight:
            return 0
        # One that is overdue may be so for as long again: it is not free just now.
        return abs(lane.expected_end_ns - self.now_ns)

    def is_wanted(self, lane: Lane, head: Waiting) -> bool:
        """Whether requests wait that `lane` is made for, while it is not made for `head`."""
        index = lane.profile.index
        return index not in head.owners and any(index in owners for owners in self._by_owners)

    def neighbours(self, lane: Lane, wait_ns: int) -> _Neighbours:
        """Look at the lanes that will be running beside `lane` when it starts."""
        if not self.running:
            return _ALONE
        found = self._neighbours.get(lane.lane_id)
        if found is None:
            found = self._neighbours[lane.lane_id] = self._look_beside(lane, wait_ns)
        return found

    def _look_beside(self, lane: Lane, wait_ns: int) -> _Neighbours:
        index, starts_ns = lane.profile.index, self.now_ns + wait_ns
        slowdown, harm, longest_ns = 1.0, 0.0, 0
        for other in self.running:
            left_ns = other.expected_end_ns - starts_ns
            if other is not lane and left_ns > 0:
                slowdown += self._costs.beside(index, other.profile.index) - 1
                harm += 1 - 1 / self._costs.beside(other.profile.index, index)
                longest_ns = max(longest_ns, left_ns)
        return _Neighbours(slowdown, min(1.0, HARM_WEIGHT * harm), longest_ns)


class CostAwarePolicy:
    """See this module's text.

    Args:
        costs: read at every decision, so that what is learnt counts at once.
    """

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._prices: dict[tuple[tuple[int, ...], tuple[Bucket, ...]], Prices] = {}
        self._targets = _Targets()
        self._live_lanes = 0  # that the prices were made for
        self._wakeup_ns: int | None = None

    @property
    def wakeup_ns(self) -> int | None:
        return self._wakeup_ns

    def choose(self, backlog: Backlog, now_ns: int) -> Choice | GiveUp | None:
        wakeup_ns, self._wakeup_ns = self._wakeup_ns, None
        moment = _Moment(backlog, self._costs, self._targets, now_ns)
        if moment.live_lanes != self._live_lanes:
            self._prices.clear()
            self._live_lanes = moment.live_lanes
        if not moment.is_any_idle and not moment.can_queue:
            return None
        if backlog.lanes_changed or (wakeup_ns is not None and now_ns >= wakeup_ns):
            queues: Iterable[StackQueue] = backlog.queues.values()
        else:  # whatever was held before is still held
            queues = backlog.changed_queues()
            self._wakeup_ns = wakeup_ns
        mixes = None
        if backlog.has_kin:
            mixes = Mixes(backlog, functools.partial(self._prices_for, backlog, now_ns))
        for head in _most_urgent(queues, moment):
            queue = backlog.queue_of(head)
            mixed = queue if mixes is None else mixes.mix_of(head)
            choice = self._choose_from(head, mixed, backlog, moment)
            if (
                mixed is not queue
                and not isinstance(choice, Choice)
                and (choice is not None or not moment.is_idle(mixed.fits))
            ):  # too long for its deadline, or for the lanes that are idle
                choice = self._choose_from(head, queue, backlog, moment)
            if choice is not None:
                if wakeup_ns is not None:  # the others are still held
                    self._wake_at(wakeup_ns)
                return choice
        return None

    def needed_ns(self, backlog: Backlog, waiting: Waiting, now_ns: int) -> int:
        prices = self._prices_for(backlog, now_ns, waiting.fits, waiting.buckets)
        needed_ns = prices.least_ns(waiting.rows_left)
        self._targets.note(waiting, needed_ns, now_ns)
        return needed_ns

    def _wake_at(self, at_ns: int) -> None:
        self._wakeup_ns = at_ns if self._wakeup_ns is None else min(self._wakeup_ns, at_ns)

    def _prices_for(
        self, backlog: Backlog, now_ns: int, fits: tuple[int, ...], buckets: tuple[Bucket, ...]
    ) -> Prices:
        prices = self._prices.get((fits, buckets))
        if prices is not None and (
            prices.revision == self._costs.revision or now_ns < prices.made_ns + REPLAN_NS
        ):
            return prices
        lanes = [
            lane for lane in backlog.lanes if lane.profile.index in fits and not lane.is_retired
        ]
        made = self._prices[fits, buckets] = Prices(lanes, self._costs, buckets, now_ns)
        return made

    def _choose_from(
        self, head: Waiting, queue: StackQueue, backlog: Backlog, moment: _Moment
    ) -> Choice | GiveUp | None:
        if not moment.is_any_idle and not _fills_any(queue, moment.can_queue):
            return None
        prices = self._prices_for(backlog, moment.now_ns, queue.fits, queue.buckets)
        slack_ns = math.inf
        if head.deadline_ns is not None:
            slack_ns = head.deadline_ns - moment.now_ns
        if len(queue.entries) == 1 and not moment.running and len(queue.fits) > 1:
            lone = self._weigh_alone(head, queue, prices, moment)
            if lone.lasts_ns(lone.rows) <= slack_ns:
                return _launch(head, queue, lone, LaunchReason.IDLE, moment)
        now, later = _weigh(head, queue, prices, moment, slack_ns)
        if now is None and later is None:
            needed_ns = _needed_ns(head, prices, moment)
            if needed_ns > slack_ns and (moment.running or len(backlog) > 1):
                return GiveUp(head, needed_ns)
            now, _ = _weigh(head, queue, prices, moment, math.inf)
            if now is not None and now.cuts and slack_ns < math.inf:
                return GiveUp(head, needed_ns)  # the rest would be late
        if now is None:
            return None
        if later is not None and _pays_to_wait(now, later):
            # That lane may be over later than expected: look again while this one can help.
            until_ns = min(later.wait_ns, slack_ns - now.lasts_ns(now.rows))
            self._wake_at(moment.now_ns + max(LOOK_AGAIN_NS, math.ceil(until_ns)) + LOOK_AGAIN_NS)
            return None
        reason = self._why_now(head, queue, now, moment)
        return None if reason is None else _launch(head, queue, now, reason, moment)

    def _weigh_alone(
        self, head: Waiting, queue: StackQueue, prices: Prices, moment: _Moment
    ) -> _Option:
        """Get the best launch for the only request of a queue while nothing runs.

        It depends on prices and rows alone, so it is remembered.
        """
        option = prices.for_lone_rows.get(head.rows_left)
        if option is None or option.prices.lane.is_retired:
            option, _ = _weigh(head, queue, prices, moment, math.inf)
            assert option is not None, "every lane is idle"
            if len(prices.for_lone_rows) < MOST_LONE_ROWS:
                prices.for_lone_rows[head.rows_left] = option
        return option

    def _why_now(
        self, head: Waiting, queue: StackQueue, option: _Option, moment: _Moment
    ) -> LaunchReason | None:
        """Say why a launch must not wait for more rows; None if it should, until `wakeup_ns`."""
        if moment.draining:
            return LaunchReason.DRAIN
        if not moment.running:
            return LaunchReason.IDLE
        profile = option.prices.lane.profile
        if option.rows >= profile.rows.opt:
            return LaunchReason.FULL
        if option.falls_short:
            return LaunchReason.DEADLINE
        alike = queue.by_owners[head.owners]
        deadlines = (each.deadline_ns for each in alike if each.deadline_ns is not None)
        by_ns = min(deadlines, default=head.due_ns)
        grown_ns = option.prices.safe_ns[profile.rows.opt] * option.slowdown
        latest_ns = by_ns - math.ceil(grown_ns)
        delayed_ns = profile.max_queue_delay_ns + min(each.arrived_ns for each in alike)
        if moment.now_ns >= latest_ns:
            return LaunchReason.DEADLINE
        if moment.now_ns >= delayed_ns:
            return LaunchReason.DELAY
        self._wake_at(min(latest_ns, delayed_ns))
        return None


def _most_urgent(queues: Iterable[StackQueue], moment: _Moment) -> Sequence[Waiting]:
    """Get the most urgent requests that a launch could be made for now."""
    heads = [
        head
        for queue in queues
        if moment.is_idle(queue.fits) or _fills_any(queue, moment.can_queue)
        for head in queue.heads
    ]
    return heads if len(heads) == 1 else heapq.nsmallest(MOST_HEADS, heads, key=_urgency)


def _fills_any(queue: StackQueue, lanes: Sequence[Lane]) -> bool:
    """Whether `queue` might fill one of `lanes`, as a launch behind another has to."""
    return any(
        queue.rows >= lane.profile.rows.max and lane.profile.index in queue.fits for lane in lanes
    )


def _weigh(
    head: Waiting, queue: StackQueue, prices: Prices, moment: _Moment, slack_ns: float
) -> tuple[_Option | None, _Option | None]:
    """Get the best launch that can be made now, and the best that has to wait for its lane.

    Args:
        head: has to be in it.
        queue: of the head.
        prices: of the queue.
        moment: the lanes.
        slack_ns: in which the head has to be done.
    """
    task = _Task(head, queue, prices, moment, slack_ns)
    best_now: _Option | None = None
    best_later: _Option | None = None
    busy = []
    for each in prices.lanes:  # the narrowest first
        lane = each.lane
        if lane.is_retired:
            continue
        can_start = not lane.in_flight or (lane.has_room and queue.rows >= each.max_rows)
        option = _best_in(each, task) if can_start else None
        if option is None:
            if lane.in_flight:
                busy.append(each)
        elif lane.in_flight and option.rows < each.max_rows:
            busy.append(each)
        elif best_now is None or _is_better(option, best_now, queue.rows):
            best_now = option
    for each in busy:
        wait_ns = moment.wait_ns(each.lane)
        if (
            best_now is not None
            and not best_now.cuts
            and best_now.waste_ns * each.max_rows <= wait_ns * best_now.rows
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
        head: Waiting,
        queue: StackQueue,
        prices: Prices,
        moment: _Moment,
        slack_ns: float,
    ) -> None:
        self.head = head
        self.prices = prices
        self.moment = moment
        self.slack_ns = slack_ns
        self.rows = head.rows_left
        self.waiting = queue.rows
        self.beside = queue.rows_beside(head)
        self.plan_ns = prices.serial_ns(queue.rows)
        self.whole_ns = prices.whole_ns(head.rows_left)

    def rows_in(self, room: int) -> int:
        """Count the rows of a launch of at most `room` rows with the request in it."""
        beside = room - self.rows
        if beside <= 0:
            return room
        bits = (beside + 1).bit_length() - 1
        return min(room, self.rows + self.beside[min(bits, len(self.beside) - 1)])


def _best_in(each: LanePrices, task: _Task) -> _Option | None:
    """Choose the rows of a launch in one lane; None if none of its launches is in time."""
    moment, prices = task.moment, task.prices
    wait_ns = moment.wait_ns(each.lane)
    slowdown, harm, left_ns = moment.neighbours(each.lane, wait_ns)
    most = task.rows_in(each.max_rows)
    rows = _kept_short(each, task, most)
    # Kept short for others, a request may be cut although it would be cheaper whole.
    whole_ns = task.whole_ns if rows == most else math.inf
    falls_short = False
    best: _Option | None = None
    while rows:
        cuts = rows < task.rows
        lasts_ns = wait_ns + each.safe_ns[rows] * slowdown
        if cuts:
            part_ns, rest_ns = each.typical_ns[rows], prices.serial_ns(task.rows - rows)
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
            waste_ns = price_ns + prices.serial_ns(task.waiting - rows) - task.plan_ns
            if best is None or waste_ns < best.waste_ns:
                best = _Option(each, rows, cuts, falls_short, slowdown, waste_ns, wait_ns)
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


def _is_better(option: _Option, other: _Option, rows: int) -> bool:
    """Whether `option` costs less than `other`, which is of a lane that is no wider.

    Where they cost about the same, as far as the spread of their times lets that be told, the
    narrower lane is taken, so that the wider ones stay free; but of a request that has to be
    cut, the larger part goes first.
    """
    cost_ns = option.waste_ns + option.wait_ns * option.rows / rows
    other_ns = other.waste_ns + other.wait_ns * other.rows / rows
    typical_ns = option.prices.typical_ns[option.rows]
    spread_ns = option.prices.safe_ns[option.rows] - typical_ns
    close_ns = CLOSE * typical_ns + spread_ns
    if other.cuts and option.rows > other.rows:
        return cost_ns < other_ns + close_ns
    return cost_ns < other_ns - close_ns


def _pays_to_wait(now: _Option, later: _Option) -> bool:
    """Whether what a launch now would waste is more than what its rows would wait.

    What is wasted is lost to all rows that wait, the time to wait is lost by the rows that
    could have gone now: both are counted by the row.
    """
    if now.cuts and not later.cuts:  # the part would only wait for the rest of its request
        return now.waste_ns > later.waste_ns
    return (now.waste_ns - later.waste_ns) * later.rows > later.wait_ns * now.rows


def _needed_ns(waiting: Waiting, prices: Prices, moment: _Moment) -> int:
    """Estimate what a request takes from now if it is served next, in the best of lanes."""
    rows = waiting.rows_left
    needed = []
    for each in prices.lanes:
        if not each.lane.is_retired:
            first = min(rows, each.max_rows)
            rest = max(0, rows - first * each.copies)  # what copies of the lane cannot take, too
            run_ns = each.typical_ns[first] + prices.serial_ns(rest)
            needed.append(moment.wait_ns(each.lane) + run_ns)
    return round(min(needed))


def _launch(
    head: Waiting, queue: StackQueue, option: _Option, reason: LaunchReason, moment: _Moment
) -> Choice | None:
    """Choose the requests; None if too few would be in time to fill a launch behind another."""
    lane = option.prices.lane
    room = min(lane.padded(option.rows), option.prices.max_rows)
    end_ns = moment.now_ns + option.lasts_ns(option.rows)
    parts = fill(_in_time(head, queue.entries, end_ns), room)
    rows = sum(count for _, count in parts)
    if lane.in_flight and rows < option.prices.max_rows:
        return None  # it would only wait on the device, and could no longer grow
    predicted_ns = option.wait_ns + round(option.prices.typical_ns[rows] * option.slowdown)
    return Choice(lane, parts, reason, predicted_ns, option.slowdown)


def _in_time(head: Waiting, entries: Sequence[Waiting], end_ns: int) -> Iterator[Waiting]:
    """Iterate over the head, and the others that would be done in time."""
    yield head
    for waiting in entries:
        if waiting is not head and (waiting.deadline_ns is None or waiting.deadline_ns >= end_ns):
            yield waiting
