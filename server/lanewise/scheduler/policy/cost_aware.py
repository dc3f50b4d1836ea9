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

from lanewise.scheduler.backlog import Backlog, StackQueue
from lanewise.scheduler.costs.estimate import after_wait
from lanewise.scheduler.costs.table import Bucket, CostTable
from lanewise.scheduler.policy.interface import fill
from lanewise.scheduler.policy.mixing import Mixes
from lanewise.scheduler.policy.moment import Moment, Targets
from lanewise.scheduler.policy.options import Option, pays_to_wait, weigh
from lanewise.scheduler.policy.prices import Prices
from lanewise.scheduler.request import End, Launch, LaunchReason, Request

MAX_HEADS = 16
"""Requests for which a launch is looked for at a time, the most urgent ones: so many shapes at once
do not make a decision slow, and the others get their turn when these have left."""

REPLAN_NS = 50_000_000
"""Plans are made anew at most this often: a drifting table must not keep the planner busy."""

LOOK_AGAIN_NS = 100_000
"""A launch that is held for a lane is looked at again when that lane should have been free, and
this much later: launches end a little sooner or later than expected."""

MAX_LONE_ROWS = 1024
"""Numbers of rows whose best launch is remembered for each kind of requests."""

_urgency = operator.attrgetter("due_ns", "sequence")


class CostAwarePolicy:
    """See this module's text.

    Args:
        costs: read at every decision, so that what is learnt counts at once.
    """

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._prices: dict[tuple[tuple[int, ...], tuple[Bucket, ...]], Prices] = {}
        self._targets = Targets()
        self._live_lanes = 0  # that the prices were made for
        self.wakeup_ns: int | None = None

    def choose(self, backlog: Backlog, now_ns: int) -> Launch | End | None:
        wakeup_ns, self.wakeup_ns = self.wakeup_ns, None
        if not backlog.has_room:
            return None
        moment = Moment(backlog, self._costs, self._targets, now_ns)
        if moment.live_lanes != self._live_lanes:
            self._prices.clear()
            self._live_lanes = moment.live_lanes
        if backlog.lanes_changed or (wakeup_ns is not None and now_ns >= wakeup_ns):
            queues: Iterable[StackQueue] = backlog.queues.values()
        else:  # whatever was held before is still held
            queues = backlog.changed_queues()
            self.wakeup_ns = wakeup_ns
        mixes = None
        if backlog.kin:
            mixes = Mixes(backlog, functools.partial(self._prices_for, backlog, now_ns))
        for head in _most_urgent(queues, moment):
            queue = backlog.queue_of(head)
            mixed = queue if mixes is None else mixes.mix_of(head)
            choice = self._choose_from(head, mixed, backlog, moment)
            if (
                mixed is not queue
                and not isinstance(choice, Launch)
                and (choice is not None or not moment.is_idle(mixed.fits))
            ):  # too long for its deadline, or for the lanes that are idle
                choice = self._choose_from(head, queue, backlog, moment)
            if choice is not None:
                if wakeup_ns is not None:  # the others are still held
                    self._wake_at(wakeup_ns)
                return choice
        return None

    def needed_ns(self, backlog: Backlog, waiting: Request, now_ns: int) -> int:
        prices = self._prices_for(backlog, now_ns, waiting.fits, waiting.route.buckets)
        needed_ns = prices.least_ns(waiting.rows_left)
        self._targets.note(waiting, needed_ns, now_ns)
        return needed_ns

    def _wake_at(self, at_ns: int) -> None:
        self.wakeup_ns = at_ns if self.wakeup_ns is None else min(self.wakeup_ns, at_ns)

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
        self, head: Request, queue: StackQueue, backlog: Backlog, moment: Moment
    ) -> Launch | End | None:
        if not moment.is_any_idle and not moment.can_go_behind(queue):
            return None
        prices = self._prices_for(backlog, moment.now_ns, queue.fits, queue.buckets)
        slack_ns = math.inf
        if head.deadline_ns is not None:
            slack_ns = head.deadline_ns - moment.now_ns
        if len(queue.entries) == 1 and not moment.running and len(queue.fits) > 1:
            lone = self._weigh_alone(head, queue, prices, moment)
            if lone.lasts_ns(lone.rows) <= slack_ns:
                return _launch(head, queue, lone, LaunchReason.IDLE, moment)
        now, later = weigh(head, queue, prices, moment, slack_ns)
        if now is None and later is None:
            needed_ns = _needed_ns(head, prices, moment)
            is_known = self._costs.knows(head.fits)  # none ends because of a mere guess
            if is_known and needed_ns > slack_ns and (moment.running or len(backlog.arrivals) > 1):
                return End(head, needed_ns=needed_ns)
            now, _ = weigh(head, queue, prices, moment, math.inf)
            if is_known and now is not None and now.cuts and slack_ns < math.inf:
                return End(head, needed_ns=needed_ns)  # the rest would be late
        if now is None:
            return None
        if later is not None and pays_to_wait(now, later, queue.rows):
            # That lane may be over later than expected: look again while this one can help.
            until_ns = min(later.wait_ns, slack_ns - now.lasts_ns(now.rows))
            self._wake_at(moment.now_ns + max(LOOK_AGAIN_NS, math.ceil(until_ns)) + LOOK_AGAIN_NS)
            return None
        reason = self._why_now(head, queue, now, moment)
        return None if reason is None else _launch(head, queue, now, reason, moment)

    def _weigh_alone(
        self, head: Request, queue: StackQueue, prices: Prices, moment: Moment
    ) -> Option:
        """Get the best launch for the only request of a queue while nothing runs.

        It depends on prices and rows alone, so it is remembered.
        """
        option = prices.for_lone_rows.get(head.rows_left)
        if option is None or option.prices.lane.is_retired:
            option, _ = weigh(head, queue, prices, moment, math.inf)
            assert option is not None, "every lane is idle"
            if len(prices.for_lone_rows) < MAX_LONE_ROWS:
                prices.for_lone_rows[head.rows_left] = option
        return option

    def _why_now(
        self, head: Request, queue: StackQueue, option: Option, moment: Moment
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


def _most_urgent(queues: Iterable[StackQueue], moment: Moment) -> Sequence[Request]:
    """Get the most urgent requests that a launch could be made for now."""
    heads = []
    for queue in queues:
        if moment.is_idle(queue.fits) or moment.can_go_behind(queue):
            # One for each combination of profiles made for them.
            for entries in queue.by_owners.values():
                heads.append(entries[0])  # noqa: PERF401 - a comprehension is one more call
    return heads if len(heads) == 1 else heapq.nsmallest(MAX_HEADS, heads, key=_urgency)


def _needed_ns(waiting: Request, prices: Prices, moment: Moment) -> int:
    """Estimate what a request takes from now if it is served next, in the best of lanes."""
    rows = waiting.rows_left
    needed = []
    for each in prices.lanes:
        if not each.lane.is_retired:
            first = min(rows, each.max_rows)
            rest = max(0, rows - first * each.copies)  # what copies of the lane cannot take, too
            run_ns = each.typical_ns[first] + prices.serial_ns[rest]
            needed.append(moment.wait_ns(each.lane) + run_ns)
    return round(min(needed))


def _launch(
    head: Request, queue: StackQueue, option: Option, reason: LaunchReason, moment: Moment
) -> Launch | None:
    """Choose the requests; None if too few would be in time to fill a launch behind another."""
    lane = option.prices.lane
    room = min(lane.padded(option.rows), option.prices.max_rows)
    end_ns = moment.now_ns + option.lasts_ns(option.rows)
    entries = queue.entries
    parts, rows = fill(entries if len(entries) == 1 else _in_time(head, entries, end_ns), room)
    if lane.in_flight and rows < option.prices.most_rows_of(queue):
        return None  # it would only wait on the device, and could no longer grow
    alone_ns = option.prices.typical_ns[rows]
    if option.wait_ns:  # less by what it can do meanwhile
        alone_ns = after_wait(alone_ns, option.prices.behind_ns[rows], option.wait_ns)
    predicted_ns = option.wait_ns + round(alone_ns * option.slowdown)
    return Launch(lane, parts, reason, predicted_ns, option.slowdown)


def _in_time(head: Request, entries: Sequence[Request], end_ns: int) -> Iterator[Request]:
    """Iterate over the head, and the others that would be done in time."""
    yield head
    for waiting in entries:
        if waiting is not head and (waiting.deadline_ns is None or waiting.deadline_ns >= end_ns):
            yield waiting
