"""The state machine that decides which requests run where and when."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

from lanewise.errors import Draining, QueueFull, RunnerLost, ServingError
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.backlog import Backlog, Waiting
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.decisions import (
    Complete,
    Decision,
    Expire,
    Fail,
    Launch,
    LaunchId,
    Reject,
    Slice,
)
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.policy.interface import Choice, GiveUp, Policy
from lanewise.scheduler.request import PRIORITY_STEP_NS, QueuedRequest, RequestId
from lanewise.scheduler.routing import Route, Router

TRY_EVERY_NS = 100_000_000
"""How often an idle server runs a request that by the known costs would be late: costs that fell
are learnt within seconds, and next to nothing is spent on requests that are late indeed."""

MIN_STALE_DEADLINES = 64
"""Deadlines of ended requests that are kept at least, so that few requests need no sweeps."""


class Scheduler:
    """Decides which requests run where and when. Does no I/O and reads no clock.

    Methods take the current time and return decisions in the order they must be carried
    out. `now_ns` never goes backwards between calls. A request ends exactly once: by
    Complete, Fail, Reject, Expire, or its own cancel().

    Args:
        lanes: each lane's id must be its position.
        policy: chooses the launches.
        costs: told what every launch took.
        max_queue_requests: requests that may wait at a time for the same profiles, those
            in flight not counted. So bulk work that piles up closes no other lane.
    """

    def __init__(
        self,
        spec: ModelSpec,
        lanes: Iterable[Lane],
        policy: Policy,
        costs: CostTable,
        *,
        max_queue_requests: int,
    ) -> None:
        self.router = Router(spec)
        self.lanes = tuple(lanes)
        self._spec = spec
        self._policy = policy
        self._costs = costs
        self._max_queue_requests = max_queue_requests
        self._live_profiles = {lane.profile.index for lane in self.lanes}
        self._backlog = Backlog(self.lanes)
        self._sequence = 0
        self._last_launch = 0
        self._advanced_ns = 0
        self._tried_ns = -TRY_EVERY_NS
        self._in_flight: dict[LaunchId, Lane] = {}
        self._requests: dict[RequestId, Waiting] = {}
        self._deadlines: list[tuple[int, RequestId]] = []

    @property
    def waiting_requests(self) -> int:
        """Requests that have rows which were not launched."""
        return len(self._backlog)

    def arrive(self, request: QueuedRequest, now_ns: int) -> list[Decision]:
        """Admit or reject a request, and launch what need not wait."""
        decisions = self._expire(now_ns)
        refusal = self.admit(request, now_ns)
        return [*decisions, refusal] if refusal else decisions + self._choose(now_ns)

    def admit(self, request: QueuedRequest, now_ns: int) -> Reject | Expire | None:
        """Take in a request, to be launched by the next `tick`, or get why it is refused.

        Of requests that come together each is admitted, and then they are launched together.
        """
        waiting = self._make_waiting(request, now_ns)
        if error := self._refuse(waiting):
            return Reject(request.request_id, error)
        needed_ns = self._policy.needed_ns(self._backlog, waiting, now_ns)
        if request.deadline_ns is not None:
            is_late = now_ns + needed_ns >= request.deadline_ns
            if request.deadline_ns <= now_ns or (is_late and not self._may_try(now_ns)):
                return Expire(request.request_id, needed_ns)
            self._remember_deadline(request.deadline_ns, request.request_id)
        self._requests[request.request_id] = waiting
        self._backlog.add(waiting)
        return None

    def cancel(self, request_id: RequestId, now_ns: int) -> list[Decision]:
        """End a request, if it has not ended; rows in flight run on and are not delivered."""
        if waiting := self._requests.get(request_id):
            self._end(waiting)
        return self.tick(now_ns)

    def finish(
        self, launch_id: LaunchId, now_ns: int, *, failed: bool = False, launching: bool = True
    ) -> list[Decision]:
        """Take note that a launch is over, and launch what is due.

        Not if `launching` is false: then `tick` has to be called soon.
        """
        decisions = self._settle(launch_id, now_ns, failed)
        return decisions + self.tick(now_ns) if launching else decisions

    def retire(self, launch_id: LaunchId, now_ns: int) -> list[Decision]:
        """Take note that a launch has failed because its runner is lost, and retire its lane.

        Other launches in flight on the lane still have to be finished or retired.
        """
        self._in_flight[launch_id].is_retired = True
        decisions = self._settle(launch_id, now_ns, failed=True)
        self._live_profiles = {lane.profile.index for lane in self.lanes if not lane.is_retired}
        return decisions + self._reroute() + self.tick(now_ns)

    def tick(self, now_ns: int) -> list[Decision]:
        """Expire and launch what is due."""
        return self._expire(now_ns) + self._choose(now_ns)

    def drain(self, now_ns: int) -> list[Decision]:
        """Reject every request from now on; those that wait are launched without delay."""
        self._backlog.draining = self._backlog.lanes_changed = True
        return self.tick(now_ns)

    def abandon(self) -> list[Decision]:
        """Reject every request that has rows waiting: the time to drain is over."""
        decisions: list[Decision] = []
        for waiting in list(self._backlog):
            self._end(waiting)
            error = Draining("the server stopped before the request could run; try another replica")
            decisions.append(Reject(waiting.request.request_id, error))
        return decisions

    def next_wakeup_ns(self) -> int | None:
        """Tell when `tick` has something to do if nothing else happens before; None for never."""
        if not self._backlog:
            return None
        while self._deadlines and self._deadlines[0][1] not in self._backlog.arrivals:
            heapq.heappop(self._deadlines)
        due = self._policy.wakeup_ns
        if self._deadlines:
            at_ns = self._deadlines[0][0]
            due = at_ns if due is None else min(due, at_ns)
        return due

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself; for tests and simulations."""
        queued = list(self._backlog)
        assert self._backlog.by_owners == Counter(self._owners(waiting) for waiting in queued)
        assert len({waiting.sequence for waiting in queued}) == len(queued)
        assert [w.sequence for w in queued] == sorted(w.sequence for w in queued)
        assert len(self._deadlines) <= 2 * len(self._requests) + MIN_STALE_DEADLINES
        assert all(w.request.request_id in self._requests for w in queued)
        assert sum(len(queue.entries) for queue in self._backlog.queues.values()) == len(queued)
        for queue in self._backlog.queues.values():
            assert queue.entries, "an empty queue is kept"
            assert queue.rows == sum(waiting.rows_left for waiting in queue.entries)
            assert queue.rows == sum(queue.rows_by_bits.values())
            apart = [waiting for entries in queue.by_owners.values() for waiting in entries]
            assert sorted(map(id, apart)) == sorted(map(id, queue.entries))
            assert all(queue.by_owners.values()), "an empty list is kept"
        for waiting in self._requests.values():
            assert waiting.rows_left or waiting.launches, "a request neither waits nor runs"
            assert 0 <= waiting.next_row <= waiting.request.route.rows
        assert self._backlog.has_room == any(lane.has_room for lane in self.lanes)
        for lane in self.lanes:
            assert len(lane.in_flight) <= lane.depth
            for launch, _ in lane.in_flight:
                assert self._in_flight[launch.launch_id] is lane
                assert launch.rows == sum(part.rows for part in launch.slices)
                assert launch.rows <= launch.padded_rows
                limits = lane.profile.rows
                assert limits.min <= launch.padded_rows <= limits.max
                assert launch.length in (lane.profile.lengths or (0,))

    def _may_try(self, now_ns: int) -> bool:
        """Whether a request that seems bound to be late is run all the same.

        Otherwise costs that were measured too high would never be put right: what they
        refuse is never launched. Only while nothing else runs or waits, and now and then.
        """
        if self._in_flight or self._backlog or now_ns < self._tried_ns + TRY_EVERY_NS:
            return False
        self._tried_ns = now_ns
        return True

    def _refuse(self, asked: Waiting) -> ServingError | None:
        if self._backlog.draining:
            return Draining("the server is draining and takes no new requests; try another replica")
        if not asked.fits:
            return self._lost(asked.request)
        waiting = self._backlog.by_owners.get(asked.owners, 0)
        if waiting >= self._max_queue_requests:
            names = " or ".join(f"'{self._spec.profiles[i].name}'" for i in asked.owners)
            return QueueFull(
                f"model '{self._spec.name}': {waiting} requests wait for {names}, which is the "
                "limit; send again later or elsewhere, or raise --max-queue-requests"
            )
        return None

    def _live(self, fits: tuple[int, ...]) -> tuple[int, ...]:
        if len(self._live_profiles) == len(self._spec.profiles):
            return fits
        return tuple(index for index in fits if index in self._live_profiles)

    def _owners(self, waiting: Waiting) -> tuple[int, ...]:
        return self.router.eligibility(waiting.fits, waiting.rows_left).owners

    def _lost(self, request: QueuedRequest) -> RunnerLost:
        names = ", ".join(f"'{self._spec.profiles[i].name}'" for i in request.route.fits)
        return RunnerLost(
            f"model '{self._spec.name}': every lane that can run the request ({names}) is out "
            "of service; try another replica"
        )

    def _make_waiting(self, request: QueuedRequest, now_ns: int) -> Waiting:
        due_ns = request.deadline_ns
        if due_ns is None:
            due_ns = now_ns + request.target_ns
        due_ns += (request.priority - 1) * PRIORITY_STEP_NS
        route = request.route
        fits = self._live(route.fits)
        owners = self.router.eligibility(fits, route.rows).owners if fits else ()
        sequence = self._next_sequence()
        return Waiting(request, sequence, now_ns, due_ns, fits, route.buckets, owners)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _remember_deadline(self, deadline_ns: int, request_id: RequestId) -> None:
        """Add to the heap, which is rid of requests that have ended when they are most of it."""
        if len(self._deadlines) >= 2 * len(self._requests) + MIN_STALE_DEADLINES:
            self._deadlines = [one for one in self._deadlines if one[1] in self._requests]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline_ns, request_id))

    def _enqueue(self, waiting: Waiting) -> None:
        waiting.owners = self._owners(waiting)
        self._backlog.add(waiting)

    def _dequeue(self, waiting: Waiting) -> None:
        self._backlog.remove(waiting)

    def _end(self, waiting: Waiting) -> None:
        if waiting.rows_left:
            self._dequeue(waiting)
        del self._requests[waiting.request.request_id]

    def _expire(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, request_id = heapq.heappop(self._deadlines)
            if waiting := self._backlog.arrivals.get(request_id):
                self._end(waiting)
                decisions.append(Expire(request_id))
        return decisions

    def _choose(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        while self._backlog:
            choice = self._policy.choose(self._backlog, now_ns)
            match choice:
                case None:
                    break
                case GiveUp(waiting, needed_ns):
                    self._end(waiting)
                    decisions.append(Expire(waiting.request.request_id, needed_ns))
                case Choice():
                    decisions.append(self._start(choice, now_ns))
        self._backlog.changed.clear()
        self._backlog.lanes_changed = False
        return decisions

    def _start(self, choice: Choice, now_ns: int) -> Launch:
        lane = choice.lane
        route = _longest(choice, lane.profile.index)
        slices = []
        for waiting, rows in choice.parts:
            self._dequeue(waiting)
            slices.append(Slice(waiting.request.request_id, waiting.next_row, rows))
            waiting.take(rows)
            if waiting.rows_left:
                # Behind what waits already: a large request takes turns with the others.
                waiting.sequence = self._next_sequence()
                self._enqueue(waiting)
            lane.counters.queue_ns += now_ns - waiting.arrived_ns
        rows = sum(part.rows for part in slices)
        self._last_launch += 1
        launch = Launch(
            launch_id=LaunchId(self._last_launch),
            lane_id=lane.lane_id,
            slices=tuple(slices),
            rows=rows,
            padded_rows=lane.padded(rows),
            reason=choice.reason,
            length=route.lengths[lane.profile.index] if route.lengths else 0,
            bucket=route.buckets[lane.profile.index],
            predicted_ns=choice.predicted_ns,
            slowdown=choice.slowdown,
        )
        self._advance(now_ns)
        self._expect(lane, launch, now_ns)
        lane.in_flight.append((launch, now_ns))
        self._backlog.note_lanes()
        self._in_flight[launch.launch_id] = lane
        lane.counters.launches += 1
        lane.counters.requests += len(slices)
        lane.counters.rows += rows
        lane.counters.padded_rows += launch.padded_rows
        return launch

    def _advance(self, now_ns: int) -> None:
        """Count for every lane what the time since the last call was worth to it.

        Beside others a launch gets on more slowly than alone. One that was given to a busy
        lane gets on when the one before it is over.
        """
        elapsed_ns = now_ns - self._advanced_ns
        self._advanced_ns = now_ns
        if not elapsed_ns or not self._in_flight:
            return
        running = [lane for lane in self.lanes if lane.in_flight]
        executed = tuple(
            [(lane.profile.index, lane.in_flight[0][0].padded_rows) for lane in running]
        )
        for lane, slowdown in zip(running, self._costs.slowdowns(executed), strict=True):
            lane.alone_ns += elapsed_ns / slowdown

    def _expect(self, lane: Lane, launch: Launch, now_ns: int) -> None:
        """Foresee when a new launch will be over, and how much it delays those beside it."""
        index, rows, predicted_ns = lane.profile.index, launch.padded_rows, launch.predicted_ns
        for other in self.lanes:
            if other.in_flight and other is not lane:
                slowdown = self._costs.beside(other.profile.index, index, rows)
                left_ns = max(0, other.expected_end_ns - now_ns) * slowdown
                other.expected_end_ns += round(min(left_ns, predicted_ns) * (1 - 1 / slowdown))
        lane.expected_end_ns = now_ns + predicted_ns

    def _settle(self, launch_id: LaunchId, now_ns: int, failed: bool) -> list[Decision]:
        """Free a place on a lane and end the requests that its launch was the last of."""
        self._advance(now_ns)
        lane = self._in_flight.pop(launch_id)
        index = next(i for i, (one, _) in enumerate(lane.in_flight) if one.launch_id == launch_id)
        launch, launched_ns = lane.in_flight.pop(index)
        lane.counters.execution_ns += now_ns - launched_ns
        lane.counters.predicted_ns += launch.predicted_ns
        if not failed:
            self._costs.record(
                lane.profile.index,
                launch.padded_rows,
                launch.bucket,
                round(lane.alone_ns),
                lane.waited_ns,
            )
        lane.alone_ns = 0.0
        lane.waited_ns = now_ns - lane.in_flight[0][1] if lane.in_flight else 0
        self._backlog.note_lanes()
        lane.counters.failed_launches += failed
        decisions: list[Decision] = []
        for part in launch.slices:
            waiting = self._requests.get(part.request_id)
            if waiting is None:
                lane.counters.orphaned_rows += part.rows
                continue
            waiting.launches -= 1
            if failed:
                self._end(waiting)
                decisions.append(Fail(part.request_id))
            elif not waiting.rows_left and not waiting.launches:
                self._end(waiting)
                decisions.append(Complete(part.request_id))
        return decisions

    def _reroute(self) -> list[Decision]:
        """Queue every waiting request again, without the profiles that have lost their lanes."""
        decisions: list[Decision] = []
        for waiting in list(self._backlog):
            self._dequeue(waiting)
            waiting.fits = self._live(waiting.fits)
            if waiting.fits:
                self._enqueue(waiting)
            else:
                del self._requests[waiting.request.request_id]
                decisions.append(Reject(waiting.request.request_id, self._lost(waiting.request)))
        return decisions


def _longest(choice: Choice, profile: int) -> Route:
    """Get the route of the request that decides on the shapes which a launch executes."""
    first = choice.parts[0][0].request.route
    if not first.lengths:
        return first
    routes = (waiting.request.route for waiting, _ in choice.parts)
    return max(routes, key=lambda route: route.lengths[profile])
