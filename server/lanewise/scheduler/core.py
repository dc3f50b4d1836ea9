"""The state machine that decides which requests run where and when."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator

from lanewise.errors import Draining, QueueFull, RunnerLost, ServingError
from lanewise.models import ModelSpec
from lanewise.scheduler import batching
from lanewise.scheduler.decisions import (
    Complete,
    Decision,
    Expire,
    Fail,
    Launch,
    LaunchId,
    Reject,
)
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.queues import StackQueue, Waiting
from lanewise.scheduler.request import QueuedRequest, RequestId
from lanewise.scheduler.routing import Router

MIN_STALE_DEADLINES = 64
"""Deadlines of ended requests that are kept at least, so that few requests need no sweeps."""


class Scheduler:
    """Decides which requests run where and when. Does no I/O and reads no clock.

    Methods take the current time and return decisions in the order they must be carried
    out. `now_ns` never goes backwards between calls. A request ends exactly once: by
    Complete, Fail, Reject, Expire, or its own cancel().

    Args:
        lanes: each lane's id must be its position.
        max_queue_requests: requests that may wait at a time for the same profiles, those
            in flight not counted. So bulk work that piles up closes no other lane.
    """

    def __init__(self, spec: ModelSpec, lanes: Iterable[Lane], *, max_queue_requests: int) -> None:
        self.router = Router(spec)
        self.lanes = tuple(lanes)
        self._spec = spec
        self._max_queue_requests = max_queue_requests
        self._live_profiles = {lane.profile.index for lane in self.lanes}
        self._draining = False
        self._sequence = 0
        self._last_launch = 0
        self._in_flight: dict[LaunchId, Lane] = {}
        self._requests: dict[RequestId, Waiting] = {}
        # Requests with rows in a queue, by the profiles that own them.
        self._queued: Counter[tuple[int, ...]] = Counter()
        self._queues: dict[Hashable, StackQueue] = {}
        self._deadlines: list[tuple[int, RequestId]] = []

    @property
    def waiting_requests(self) -> int:
        """Requests that have rows which were not launched."""
        return self._queued.total()

    def arrive(self, request: QueuedRequest, now_ns: int) -> list[Decision]:
        """Admit or reject a request, and launch what need not wait."""
        decisions = self._expire(now_ns)
        if error := self._refuse(request):
            decisions.append(Reject(request.request_id, error))
        elif request.deadline_ns is not None and request.deadline_ns <= now_ns:
            decisions.append(Expire(request.request_id))
        else:
            self._admit(request, now_ns)
            # Whether other queues are ready has not changed by this.
            decisions += self._launch(now_ns, [self._queues[request.stack_key]])
        return decisions

    def cancel(self, request_id: RequestId, now_ns: int) -> list[Decision]:
        """End a request, if it has not ended; rows in flight run on and are not delivered."""
        if waiting := self._requests.get(request_id):
            self._end(waiting)
        return self.tick(now_ns)

    def finish(self, launch_id: LaunchId, now_ns: int, *, failed: bool = False) -> list[Decision]:
        """Take note that a launch is over."""
        return self._settle(launch_id, now_ns, failed) + self.tick(now_ns)

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
        return self._expire(now_ns) + self._launch(now_ns, self._queues.values())

    def drain(self, now_ns: int) -> list[Decision]:
        """Reject every request from now on; those that wait are launched without delay."""
        self._draining = True
        return self.tick(now_ns)

    def abandon(self) -> list[Decision]:
        """Reject every request that has rows waiting: the time to drain is over."""
        decisions: list[Decision] = []
        for waiting in self._waiting():
            self._end(waiting)
            error = Draining("the server stopped before the request could run; try another replica")
            decisions.append(Reject(waiting.request.request_id, error))
        return decisions

    def next_wakeup_ns(self) -> int | None:
        """Tell when `tick` has something to do if nothing else happens before; None for never."""
        due = [
            at
            for queue in self._queues.values()
            for lane in self.lanes
            if (at := batching.hold_until_ns(lane, queue)) is not None
        ]
        while self._deadlines and not self._is_queued(self._deadlines[0][1]):
            heapq.heappop(self._deadlines)
        if self._deadlines:
            due.append(self._deadlines[0][0])
        return min(due, default=None)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself; for tests and simulations."""
        queued = list(self._waiting())
        assert self._queued == Counter(self._owners(waiting) for waiting in queued)
        assert len({waiting.sequence for waiting in queued}) == len(queued)
        assert len(self._deadlines) <= 2 * len(self._requests) + MIN_STALE_DEADLINES
        assert all(w.request.request_id in self._requests for w in queued)
        assert all(self._queues.values()), "an empty queue is kept"
        for waiting in self._requests.values():
            assert waiting.rows_left or waiting.launches, "a request neither waits nor runs"
            assert 0 <= waiting.next_row <= waiting.request.route.rows
        for lane in self.lanes:
            assert len(lane.in_flight) <= lane.depth
            for launch, _ in lane.in_flight:
                assert self._in_flight[launch.launch_id] is lane
                assert launch.rows == sum(part.rows for part in launch.slices)
                assert launch.rows <= launch.padded_rows
                limits = lane.profile.rows
                assert limits.min <= launch.padded_rows <= limits.max

    def _refuse(self, request: QueuedRequest) -> ServingError | None:
        if self._draining:
            return Draining("the server is draining and takes no new requests; try another replica")
        if not self._live_profiles.intersection(request.route.fits):
            return self._lost(request)
        fits = self._live(request.route.fits)
        owners = self.router.eligibility(fits, request.route.rows).owners
        if self._queued[owners] >= self._max_queue_requests:
            names = " or ".join(f"'{self._spec.profiles[i].name}'" for i in owners)
            return QueueFull(
                f"model '{self._spec.name}': {self._queued[owners]} requests wait for {names}, "
                "which is the limit; send again later or elsewhere, or raise "
                "--max-queue-requests"
            )
        return None

    def _live(self, fits: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(index for index in fits if index in self._live_profiles)

    def _owners(self, waiting: Waiting) -> tuple[int, ...]:
        return self.router.eligibility(waiting.fits, waiting.rows_left).owners

    def _lost(self, request: QueuedRequest) -> RunnerLost:
        names = ", ".join(f"'{self._spec.profiles[i].name}'" for i in request.route.fits)
        return RunnerLost(
            f"model '{self._spec.name}': every lane that can run the request ({names}) is out "
            "of service; try another replica"
        )

    def _admit(self, request: QueuedRequest, now_ns: int) -> None:
        waiting = Waiting(request, self._next_sequence(), now_ns, self._live(request.route.fits))
        self._requests[request.request_id] = waiting
        if request.deadline_ns is not None:
            self._remember_deadline(request.deadline_ns, request.request_id)
        self._enqueue(waiting)

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
        queue = self._queues.setdefault(waiting.request.stack_key, StackQueue())
        eligibility = self.router.eligibility(waiting.fits, waiting.rows_left)
        queue.add(waiting, eligibility)
        self._queued[eligibility.owners] += 1

    def _dequeue(self, waiting: Waiting) -> None:
        key = waiting.request.stack_key
        queue = self._queues[key]
        eligibility = self.router.eligibility(waiting.fits, waiting.rows_left)
        queue.remove(waiting, eligibility)
        self._queued[eligibility.owners] -= 1
        if not self._queued[eligibility.owners]:
            del self._queued[eligibility.owners]

    def _drop_if_empty(self, key: Hashable) -> None:
        if not self._queues[key]:
            del self._queues[key]

    def _end(self, waiting: Waiting) -> None:
        if waiting.rows_left:
            self._dequeue(waiting)
            self._drop_if_empty(waiting.request.stack_key)
        del self._requests[waiting.request.request_id]

    def _waiting(self) -> list[Waiting]:
        every = (waiting for queue in self._queues.values() for waiting in queue)
        return sorted(every, key=lambda waiting: waiting.sequence)

    def _is_queued(self, request_id: RequestId) -> bool:
        waiting = self._requests.get(request_id)
        return waiting is not None and waiting.rows_left > 0

    def _expire(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, request_id = heapq.heappop(self._deadlines)
            if self._is_queued(request_id):
                self._end(self._requests[request_id])
                decisions.append(Expire(request_id))
        return decisions

    def _launch(self, now_ns: int, queues: Collection[StackQueue]) -> list[Decision]:
        launches: list[Decision] = []
        if not queues:
            return launches
        while best := min(
            self._proposals(now_ns, queues), key=batching.Proposal.rank, default=None
        ):
            launches.append(self._start(best, now_ns))
        return launches

    def _proposals(self, now_ns: int, queues: Iterable[StackQueue]) -> Iterator[batching.Proposal]:
        lanes = [lane for lane in self.lanes if lane.has_room]
        if not lanes:
            return
        for queue in queues:
            if not queue:
                continue
            for lane in lanes:
                proposal = batching.propose(
                    lane,
                    queue,
                    now_ns,
                    device_idle=not self._in_flight,
                    draining=self._draining,
                )
                if proposal is not None:
                    yield proposal

    def _start(self, proposal: batching.Proposal, now_ns: int) -> Launch:
        lane = proposal.lane
        chosen = list(batching.fill(lane.profile, proposal.queue))
        for waiting, part in chosen:
            self._dequeue(waiting)
            waiting.next_row += part.rows
            waiting.launches += 1
            if waiting.rows_left:
                # Behind what waits already: a large request takes turns with the others.
                waiting.sequence = self._next_sequence()
                self._enqueue(waiting)
            lane.counters.queue_ns += now_ns - waiting.arrived_ns
        self._drop_if_empty(proposal.oldest.request.stack_key)
        rows = sum(part.rows for _, part in chosen)
        self._last_launch += 1
        launch = Launch(
            launch_id=LaunchId(self._last_launch),
            lane_id=lane.lane_id,
            slices=tuple(part for _, part in chosen),
            rows=rows,
            padded_rows=lane.padded(rows),
            reason=proposal.reason,
        )
        lane.in_flight.append((launch, now_ns))
        self._in_flight[launch.launch_id] = lane
        lane.counters.launches += 1
        lane.counters.requests += len(chosen)
        lane.counters.rows += rows
        lane.counters.padded_rows += launch.padded_rows
        return launch

    def _settle(self, launch_id: LaunchId, now_ns: int, failed: bool) -> list[Decision]:
        """Free a place on a lane and end the requests that its launch was the last of."""
        lane = self._in_flight.pop(launch_id)
        index = next(i for i, (one, _) in enumerate(lane.in_flight) if one.launch_id == launch_id)
        launch, launched_ns = lane.in_flight.pop(index)
        lane.counters.execution_ns += now_ns - launched_ns
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
        for waiting in self._waiting():
            self._dequeue(waiting)
            waiting.fits = self._live(waiting.fits)
            if waiting.fits:
                self._enqueue(waiting)
            else:
                self._drop_if_empty(waiting.request.stack_key)
                del self._requests[waiting.request.request_id]
                decisions.append(Reject(waiting.request.request_id, self._lost(waiting.request)))
        return decisions
