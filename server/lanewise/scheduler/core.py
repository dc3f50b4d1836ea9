"""The state machine that decides which requests run where and when."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable

from lanewise.clock import NS_PER_MS
from lanewise.errors import DeadlineExpired, Draining, QueueFull, RunnerLost, ServingError
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.policy.interface import Policy
from lanewise.scheduler.repeats import Repeats
from lanewise.scheduler.request import (
    PRIORITY_STEP_NS,
    Decision,
    End,
    Launch,
    LaunchReason,
    Part,
    Request,
)
from lanewise.scheduler.routing import Route, Router

TRY_EVERY_NS = 100_000_000
"""How often an idle server runs a request that by the known costs would be late: costs that fell
are learnt within seconds, and next to nothing is spent on requests that are late indeed."""

MIN_STALE_DEADLINES = 64
"""Deadlines of ended requests that are kept at least, so that few requests need no sweeps."""


class Scheduler:
    """Decides which requests run where and when. Does no I/O and reads no clock.

    Methods take the current time and return decisions in the order they must be carried
    out. `now_ns` never goes backwards between calls. A request ends exactly once: by an End or
    by its own cancel().

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
        self.has_every_profile = len(self._live_profiles) == len(spec.profiles)
        self._backlog = Backlog(self.lanes)
        self._repeats = Repeats()
        self._sequence = 0
        self._advanced_ns = 0
        self._tried_ns = -TRY_EVERY_NS
        self._in_flight = 0
        self._requests: dict[int, Request] = {}  # that have not ended, by number
        # A heap. By number: those that have ended are in it until then, and must not be kept.
        self._deadlines: list[tuple[int, int]] = []

    @property
    def waiting_requests(self) -> int:
        return len(self._backlog)

    def arrive(self, request: Request, now_ns: int) -> list[Decision]:
        """Admit or refuse a request, and launch what need not wait."""
        decisions = self._expire(now_ns)
        refusal = self.admit(request, now_ns)
        return [*decisions, refusal] if refusal else decisions + self._choose(now_ns)

    def admit(self, request: Request, now_ns: int) -> End | None:
        """Take in a request, to be launched by the next `tick`, or get why it is refused.

        Of requests that come together each is admitted, and then they are launched together.
        """
        route, deadline_ns = request.route, request.deadline_ns
        due_ns = now_ns + request.target_ns if deadline_ns is None else deadline_ns
        request.due_ns = due_ns + (request.priority - 1) * PRIORITY_STEP_NS
        request.arrived_ns = now_ns
        request.rows_left = route.rows
        self._sequence += 1
        request.number = request.sequence = self._sequence
        if self.has_every_profile:
            request.fits, request.owners = route.fits, route.owners
        else:
            request.fits = self._live(route.fits)
            request.owners = self.router.owners(request.fits, route.rows) if request.fits else ()
        if error := self._find_obstacle(request):
            return End(request, error, was_admitted=False)
        needed_ns = self._policy.needed_ns(self._backlog, request, now_ns)
        if deadline_ns is not None:
            # What nobody has measured is a guess, for which none is refused.
            is_late = now_ns + needed_ns >= deadline_ns and self._costs.knows(request.fits)
            if deadline_ns <= now_ns or (is_late and not self._may_try(now_ns)):
                return self._expired(request, now_ns, needed_ns, was_admitted=False)
            self._remember_deadline(request, deadline_ns)
        self._requests[request.number] = request
        self._backlog.add(request)
        return None

    def cancel(self, request: Request, now_ns: int) -> list[Decision]:
        """End a request, if it has not ended; rows in flight run on and are not delivered."""
        if request.number in self._requests:
            self._forget(request)
        return self.tick(now_ns)

    def finish(
        self,
        launch: Launch,
        now_ns: int,
        failure: Callable[[], BaseException] | None = None,
        *,
        launching: bool = True,
    ) -> list[Decision]:
        """Record that a launch is over, and launch what is due.

        Requests that shared a launch that failed are run again, see `Repeats`; only one that
        was alone ends with the failure.

        Args:
            launch: in flight.
            now_ns: the time.
            failure: if it failed, makes the error of a request.
            launching: False if `tick` will be called soon.
        """
        decisions = self._free_place(launch, now_ns, failure)
        return decisions + self.tick(now_ns) if launching else decisions

    def retire(
        self, launch: Launch, now_ns: int, failure: Callable[[], BaseException]
    ) -> list[Decision]:
        """Record that a launch has failed because its runner is lost, and retire its lane.

        Other launches in flight on the lane still have to be finished or retired.
        """
        launch.lane.is_retired = True
        decisions = self._free_place(launch, now_ns, failure)
        for waiting in self._give_up_repeats(launch.lane):
            decisions.append(End(waiting, failure(), was_run=True))
        self._live_profiles = {lane.profile.index for lane in self.lanes if not lane.is_retired}
        self.has_every_profile = len(self._live_profiles) == len(self._spec.profiles)
        return decisions + self._reroute() + self.tick(now_ns)

    def tick(self, now_ns: int) -> list[Decision]:
        if self._deadlines and self._deadlines[0][0] <= now_ns:
            return self._expire(now_ns) + self._choose(now_ns)
        return self._choose(now_ns)

    def drain(self, now_ns: int) -> list[Decision]:
        """Refuse every request from now on; those that wait are launched without delay."""
        self._backlog.draining = self._backlog.lanes_changed = True
        return self.tick(now_ns)

    def abandon(self) -> list[Decision]:
        """End every request that has rows waiting: the time to drain is over."""
        decisions: list[Decision] = []
        for request in list(self._backlog):
            self._forget(request)
            error = Draining("the server stopped before the request could run; try another replica")
            decisions.append(End(request, error))
        for request in self._give_up_repeats():
            error = Draining("the server stopped before the request was done; try another replica")
            decisions.append(End(request, error))
        return decisions

    def next_wakeup_ns(self) -> int | None:
        """Get when `tick` has something to do if nothing else happens before; None for never."""
        arrivals = self._backlog.arrivals
        if not arrivals:
            return None
        while self._deadlines and self._requests.get(self._deadlines[0][1]) not in arrivals:
            heapq.heappop(self._deadlines)
        due = self._policy.wakeup_ns
        if self._deadlines:
            at_ns = self._deadlines[0][0]
            due = at_ns if due is None else min(due, at_ns)
        return due

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself; for tests and simulations."""
        queued = list(self._backlog)
        owners = Counter(self.router.owners(waiting.fits, waiting.rows_left) for waiting in queued)
        assert self._backlog.by_owners == owners
        assert len({waiting.sequence for waiting in queued}) == len(queued)
        assert [w.sequence for w in queued] == sorted(w.sequence for w in queued)
        assert len(self._deadlines) <= 2 * len(self._requests) + MIN_STALE_DEADLINES
        assert all(self._requests[waiting.number] is waiting for waiting in queued)
        assert sum(len(queue.entries) for queue in self._backlog.queues.values()) == len(queued)
        for queue in self._backlog.queues.values():
            assert queue.entries, "an empty queue is kept"
            assert queue.rows == sum(waiting.rows_left for waiting in queue.entries)
            assert queue.rows == sum(queue.rows_by_bits.values())
            apart = [waiting for entries in queue.by_owners.values() for waiting in entries]
            assert sorted(map(id, apart)) == sorted(map(id, queue.entries))
            assert all(queue.by_owners.values()), "an empty list is kept"
        for request in self._requests.values():
            assert request.rows_left or request.launches, "a request neither waits nor runs"
            assert 0 <= request.next_row == request.route.rows - request.rows_left
        assert self._backlog.has_room == any(lane.has_room for lane in self.lanes)
        assert self._in_flight == sum(len(lane.in_flight) for lane in self.lanes)
        for lane in self.lanes:
            assert len(lane.in_flight) <= lane.depth
            for launch in lane.in_flight:
                assert launch.lane is lane
                assert launch.rows == sum(rows for _, _, rows in launch.parts)
                assert launch.rows <= launch.padded_rows
                limits = lane.profile.rows
                assert limits.min <= launch.padded_rows <= limits.max
                assert launch.length in (lane.profile.lengths or (0,))

    def _may_try(self, now_ns: int) -> bool:
        """Whether a request that seems bound to be late is run all the same.

        Otherwise costs that were measured too high would never be put right: what they
        refuse is never launched. Only while nothing else runs or waits, and now and then.
        """
        if self._in_flight or self._backlog.arrivals or now_ns < self._tried_ns + TRY_EVERY_NS:
            return False
        self._tried_ns = now_ns
        return True

    def _find_obstacle(self, asked: Request) -> ServingError | None:
        if self._backlog.draining:
            return Draining("the server is draining and takes no new requests; try another replica")
        if not asked.fits:
            return self._lost(asked)
        waiting = self._backlog.by_owners.get(asked.owners, 0)
        if waiting >= self._max_queue_requests:
            names = " or ".join(f"'{self._spec.profiles[i].name}'" for i in asked.owners)
            return QueueFull(
                f"model '{self._spec.name}': {waiting} requests wait for {names}, which is the "
                "limit; send again later or elsewhere, or raise --max-queue-requests"
            )
        return None

    def _expired(
        self, request: Request, now_ns: int, needed_ns: int = 0, *, was_admitted: bool = True
    ) -> End:
        """Make the end of a request whose deadline has passed or cannot be met."""
        title = f"model '{self._spec.name}'"
        waited_ns = now_ns - request.arrived_ns
        waited = f"{waited_ns / NS_PER_MS:.1f} ms"
        if needed_ns:
            when = f"after {waited} in the queue" if waited_ns else "at arrival"
            left_ms = max(0, (request.deadline_ns or 0) - now_ns) / NS_PER_MS
            text = (
                f"{title}: the deadline cannot be met: {when} the request needs "
                f"{needed_ns / NS_PER_MS:.1f} ms, and {left_ms:.1f} ms are left; it was not run. "
                "Allow more time or send less load"
            )
        else:
            text = (
                f"{title}: the deadline passed after {waited} in the queue, before the request "
                "could run; allow more time or send less load"
            )
        return End(request, DeadlineExpired(text), was_admitted, needed_ns)

    def _late(self) -> DeadlineExpired:
        """Make the error of a request of a launch that failed when it cannot be run again."""
        return DeadlineExpired(
            f"model '{self._spec.name}': the launch the request shared with others failed, and "
            "its deadline passed before it could be run again; allow more time"
        )

    def _live(self, fits: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(index for index in fits if index in self._live_profiles)

    def _lost(self, request: Request) -> RunnerLost:
        names = ", ".join(f"'{self._spec.profiles[i].name}'" for i in request.route.fits)
        return RunnerLost(
            f"model '{self._spec.name}': every lane that can run the request ({names}) is out "
            "of service; try another replica"
        )

    def _remember_deadline(self, request: Request, deadline_ns: int) -> None:
        """Add to the heap, which is rid of requests that have ended when they are most of it."""
        if len(self._deadlines) >= 2 * len(self._requests) + MIN_STALE_DEADLINES:
            self._deadlines = [one for one in self._deadlines if one[1] in self._requests]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline_ns, request.number))

    def _enqueue(self, request: Request) -> None:
        request.owners = self.router.owners(request.fits, request.rows_left)
        self._backlog.add(request)

    def _forget(self, request: Request) -> None:
        if request.rows_left:
            self._backlog.remove(request)
        del self._requests[request.number]

    def _expire(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, number = heapq.heappop(self._deadlines)
            request = self._requests.get(number)
            if request is not None and request.rows_left:
                self._forget(request)
                decisions.append(self._expired(request, now_ns))
        return decisions

    def _choose(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = self._repeat(now_ns) if self._repeats else []
        backlog = self._backlog
        while backlog.arrivals:
            choice = self._policy.choose(backlog, now_ns)
            if choice is None:
                break
            if isinstance(choice, Launch):
                self._start(choice, now_ns)
            else:
                self._forget(choice.request)
                choice = self._expired(choice.request, now_ns, choice.needed_ns)
            decisions.append(choice)
        backlog.changed.clear()
        backlog.lanes_changed = False
        return decisions

    def _repeat(self, now_ns: int) -> list[Decision]:
        """Launch what is left of launches that failed, on those of their lanes that have room."""
        decisions: list[Decision] = []
        while (group := self._repeats.take()) is not None:
            lane, parts = group
            left = []
            for part in parts:
                request = part[0]
                if request.number not in self._requests:
                    continue  # its caller has gone
                if request.is_late(now_ns):
                    self._forget(request)
                    decisions.append(End(request, self._late(), was_run=True))
                else:
                    left.append(part)
            if left:
                launch = Launch(lane, left, LaunchReason.REPEAT)
                launch.rows = sum(rows for _, _, rows in left)
                self._start(launch, now_ns)
                lane.counters.repeated_launches += 1
                decisions.append(launch)
        return decisions

    def _give_up_repeats(self, lane: Lane | None = None) -> list[Request]:
        """Forget the requests with rows to be run again, on one lane or on all; get them."""
        given_up = []
        for request, _, _ in self._repeats.give_up(lane):
            if request.number in self._requests:
                self._forget(request)
                given_up.append(request)
        return given_up

    def _start(self, launch: Launch, now_ns: int) -> None:
        """Complete a launch, and move its rows, unless they are repeated, from the backlog."""
        lane, counters = launch.lane, launch.lane.counters
        index = lane.profile.index
        for request, _, rows in () if launch.rows else launch.parts:
            self._backlog.remove(request)
            request.next_row += rows
            request.rows_left -= rows
            request.launches += 1
            if request.rows_left:
                # Behind what waits already: a large request takes turns with the others.
                self._sequence += 1
                request.sequence = self._sequence
                self._enqueue(request)
            launch.rows += rows
            counters.queue_ns += now_ns - request.arrived_ns
            counters.requests += 1
            counters.rows += rows
        route = _longest(launch.parts, index)
        launch.launched_ns = now_ns
        launch.padded_rows = lane.padded(launch.rows)
        launch.length = route.lengths[index] if route.lengths else 0
        launch.bucket = route.buckets[index]
        if self._in_flight:
            self._advance(now_ns)
            self._delay_others(launch, now_ns)
        self._advanced_ns = now_ns
        lane.expected_end_ns = now_ns + launch.predicted_ns
        lane.in_flight.append(launch)
        self._in_flight += 1
        self._backlog.note_lanes()
        counters.launches += 1
        counters.padded_rows += launch.padded_rows

    def _advance(self, now_ns: int) -> None:
        """Count for every lane what the time since the last call was worth to it.

        Beside others a launch gets on more slowly than alone. One that was given to a busy
        lane gets on when the one before it is over.
        """
        elapsed_ns = now_ns - self._advanced_ns
        self._advanced_ns = now_ns
        if not elapsed_ns:
            return
        running = [lane for lane in self.lanes if lane.in_flight]
        executed = tuple([(lane.profile.index, lane.in_flight[0].padded_rows) for lane in running])
        for lane, slowdown in zip(running, self._costs.slowdowns(executed), strict=True):
            lane.alone_ns += elapsed_ns / slowdown

    def _delay_others(self, launch: Launch, now_ns: int) -> None:
        """Foresee how much a new launch delays those beside it."""
        index, predicted_ns = launch.lane.profile.index, launch.predicted_ns
        for other in self.lanes:
            if other.in_flight and other is not launch.lane:
                slowdown = self._costs.beside(other.profile.index, index, launch.padded_rows)
                left_ns = max(0, other.expected_end_ns - now_ns) * slowdown
                other.expected_end_ns += round(min(left_ns, predicted_ns) * (1 - 1 / slowdown))

    def _free_place(
        self, launch: Launch, now_ns: int, failure: Callable[[], BaseException] | None
    ) -> list[Decision]:
        """Free a place on a lane and end the requests that its launch was the last of.

        If several shared one that failed, they are to be run again, unless the lane is retired.
        """
        self._advance(now_ns)
        lane, counters = launch.lane, launch.lane.counters
        lane.in_flight.remove(launch)
        self._in_flight -= 1
        counters.execution_ns += now_ns - launch.launched_ns
        counters.predicted_ns += launch.predicted_ns
        if failure is None:
            self._costs.record(
                lane.profile.index,
                launch.padded_rows,
                launch.bucket,
                round(lane.alone_ns),
                lane.waited_ns,
            )
        else:
            counters.failed_launches += 1
        lane.alone_ns = 0.0
        lane.waited_ns = now_ns - lane.in_flight[0].launched_ns if lane.in_flight else 0
        self._backlog.note_lanes()
        decisions: list[Decision] = []
        if failure is not None and len(launch.parts) > 1 and not lane.is_retired:
            # Their count of launches in flight stays: a request always waits or runs.
            left = [part for part in launch.parts if part[0].number in self._requests]
            counters.orphaned_rows += launch.rows - sum(rows for _, _, rows in left)
            self._repeats.add(lane, left)
            return decisions
        for request, _, rows in launch.parts:
            if request.number not in self._requests:
                counters.orphaned_rows += rows
                continue
            request.launches -= 1
            if failure is not None:
                self._forget(request)
                decisions.append(End(request, failure(), was_run=True))
            elif not request.rows_left and not request.launches:
                del self._requests[request.number]
                decisions.append(End(request))
        return decisions

    def _reroute(self) -> list[Decision]:
        """Queue every waiting request again, without the profiles that have lost their lanes."""
        decisions: list[Decision] = []
        for request in list(self._backlog):
            self._backlog.remove(request)
            request.fits = self._live(request.fits)
            if request.fits:
                self._enqueue(request)
            else:
                del self._requests[request.number]
                decisions.append(End(request, self._lost(request)))
        return decisions


def _longest(parts: Iterable[Part], profile: int) -> Route:
    """Get the route of the request that decides on the shapes which a launch executes."""
    routes = [request.route for request, _, _ in parts]
    if len(routes) == 1 or not routes[0].lengths:
        return routes[0]
    return max(routes, key=lambda route: route.lengths[profile])
