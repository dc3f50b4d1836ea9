"""Requests on their way: what the scheduler decides about them is carried out here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import structlog

from lanewise.backends.runner import find_misfit
from lanewise.backends.strings import decode_strings
from lanewise.clock import NS_PER_S, Clock, Timer
from lanewise.errors import Draining, ExecutionFailed, RunnerLost, ServingError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import on_host
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.decisions import Complete, Decision, Expire, Fail, Launch, Reject
from lanewise.scheduler.gathering import Gathering
from lanewise.scheduler.launching import Inputs, Launcher
from lanewise.scheduler.log_lines import (
    Refusal,
    describe_expiry,
    is_debugged,
    log_launch,
    log_refusal,
)
from lanewise.scheduler.parts import Outputs, Part, join, own_error, take_rows
from lanewise.scheduler.request import QueuedRequest, RequestId
from lanewise.scheduler.results import LaunchReport, WhenEnded
from lanewise.scheduler.routing import Route

_log = structlog.get_logger(__name__)

OVERTIME_S = 2.0
"""How long `drain` waits for launches in flight when its grace period is over."""


@dataclass(frozen=True, slots=True)
class Urgency:
    """When a request should be served, see `QueuedRequest`."""

    deadline_ns: int | None
    target_ns: int
    priority: int


@dataclass(slots=True, eq=False)
class _Request:
    """A request that has not ended. `inputs` are only read."""

    inputs: Inputs
    queued: QueuedRequest
    when_ended: WhenEnded
    arrived_ns: int
    was_cold: bool
    is_admitted: bool = False
    parts: list[Part] = field(default_factory=list)
    error: BaseException | None = None


class RequestFlow:
    """Takes the requests of one model to its scheduler and to the runners, and ends them.

    The sole caller of the scheduler, on one event loop. Requests that come close together are
    launched together, see `Gathering`.

    Args:
        spec: of the model.
        scheduler: decides; nobody else may call it.
        launcher: runs what was decided; its owner closes it.
        clock: of the scheduler.
        when_lane_lost: called when a lane turns out to be out of service.
    """

    def __init__(
        self,
        spec: ModelSpec,
        scheduler: Scheduler,
        launcher: Launcher,
        clock: Clock,
        when_lane_lost: Callable[[RunnerLost], None],
    ) -> None:
        self._spec = spec
        self._scheduler = scheduler
        self._launcher = launcher
        self._clock = clock
        self._when_lane_lost = when_lane_lost
        self._shared = [t.name for t in spec.inputs if t.name not in spec.rowwise]
        self._requests: dict[RequestId, _Request] = {}
        most_ns = min(profile.max_queue_delay_ns for profile in spec.profiles)
        self._gathering = Gathering(self._tick, clock, most_ns)
        self._nothing_open = asyncio.Event()
        self._last_id = 0
        self._timer: Timer | None = None
        self._timer_ns: int | None = None

    @property
    def open_requests(self) -> int:
        """Requests that have not ended, waiting or in flight."""
        return len(self._requests)

    def begin(
        self,
        route: Route,
        inputs: Inputs,
        urgency: Urgency,
        when_ended: WhenEnded,
        *,
        was_cold: bool = False,
    ) -> Callable[[], None]:
        """Begin a request whose shapes its lanes are warm for; see `Dispatcher.begin`."""
        for name in self._spec.text_inputs:
            decode_strings(on_host(inputs[name]), name)  # here, where it fails this request alone
        now_ns = self._clock.now_ns()
        self._last_id += 1
        request_id = RequestId(self._last_id)
        shared = self._shared_contents(inputs)
        of_any_length = self._scheduler.router.shapes_of_any_length(route)
        queued = QueuedRequest(
            request_id,
            route,
            (route.shapes, shared),
            urgency.deadline_ns,
            urgency.target_ns,
            urgency.priority,
            None if of_any_length is None else (of_any_length, shared),
        )
        request = _Request(inputs, queued, when_ended, now_ns, was_cold)
        self._requests[request_id] = request
        refusal = self._scheduler.admit(queued, now_ns)
        if refusal is None:
            request.is_admitted = True
            self._gathering.note_arrival()
        else:
            self._carry_out((refusal,))
        return functools.partial(self._cancel, request_id)

    def _cancel(self, request_id: RequestId) -> None:
        if self._requests.pop(request_id, None) is not None:
            self._note_end()
            self._carry_out(self._scheduler.cancel(request_id, self._clock.now_ns()))

    async def drain(self, grace_ns: int) -> int:
        """Refuse new requests and run those that wait; see `Dispatcher.drain`."""
        self._carry_out(self._scheduler.drain(self._clock.now_ns()))
        if self._requests:
            self._nothing_open.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nothing_open.wait(), grace_ns / NS_PER_S)
        rejected = self._scheduler.abandon()
        self._carry_out(rejected)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._launcher.wait_for_all(), OVERTIME_S)
        stuck = list(self._requests)
        for request_id in stuck:
            text = "the server stopped before the request was done; try another replica"
            self._end(request_id, Draining(text))
        return len(rejected) + len(stuck)

    def close(self) -> None:
        """Let no timer go off any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _shared_contents(self, inputs: Inputs) -> Hashable:
        """Get what must be equal, besides shapes, for two requests to share a launch."""
        if not self._spec.batching:
            return None
        shared = (on_host(inputs[name]) for name in self._shared)
        return tuple(
            tuple(array.flat) if array.dtype.hasobject else array.tobytes() for array in shared
        )

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        launches = []
        for decision in decisions:
            match decision:
                case Launch():
                    launches.append(decision)
                case Complete(request_id) | Fail(request_id):
                    self._end(request_id)
                case Reject(request_id, error):
                    self._refuse(request_id, error)
                case Expire(request_id, needed_ns):
                    self._refuse(request_id, None, needed_ns)
        self._set_timer()
        # Last of all: a runner's thread cannot begin before this one lets go of the
        # interpreter lock.
        for launch in launches:
            self._launcher.launch(launch, self._inputs_of, self._finish)

    def _inputs_of(self, request_id: RequestId) -> Inputs:
        return self._requests[request_id].inputs

    def _set_timer(self) -> None:
        wakeup_ns = self._scheduler.next_wakeup_ns()
        if wakeup_ns == self._timer_ns:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = wakeup_ns
        self._timer = None if wakeup_ns is None else self._clock.call_at(wakeup_ns, self._ring)

    def _ring(self) -> None:
        self._timer = self._timer_ns = None
        self._tick()

    def _tick(self) -> None:
        self._carry_out(self._scheduler.tick(self._clock.now_ns()))

    def _finish(
        self,
        launch: Launch,
        launched_ns: int,
        outputs: Outputs | None,
        error: BaseException | None,
    ) -> None:
        now_ns = self._clock.now_ns()
        lane = self._scheduler.lanes[launch.lane_id]
        if is_debugged():
            log_launch(self._spec, lane.profile, launch, now_ns - launched_ns)
        if outputs is not None and (problem := find_misfit(self._spec, outputs, launch.length)):
            outputs, error = None, ExecutionFailed(problem)
        if outputs is not None:
            self._deliver(launch, launched_ns, now_ns, outputs)
            # Requests that are being gathered would go one by one into every lane that gets
            # free: 32 in flight, one core, grpcio 1.78, more than half of them were launched alone.
            launching = not self._gathering.is_gathering
            ends = self._scheduler.finish(launch.launch_id, now_ns, launching=launching)
            self._carry_out(ends)
            return
        error = error or ExecutionFailed("the runner returned nothing")
        _log.error(
            "launch failed",
            model=self._spec.name,
            version=self._spec.version,
            profile=lane.profile.name,
            rows=launch.rows,
            exc_info=error,
        )
        for part in launch.slices:
            if request := self._requests.get(part.request_id):
                request.error = own_error(error, self._spec, lane.profile.name)
        if isinstance(error, RunnerLost):
            self._carry_out(self._scheduler.retire(launch.launch_id, now_ns))
            self._when_lane_lost(error)
        else:
            self._carry_out(self._scheduler.finish(launch.launch_id, now_ns, failed=True))

    def _deliver(self, launch: Launch, launched_ns: int, now_ns: int, outputs: Outputs) -> None:
        """Give each request in the launch its rows of the outputs."""
        lane = self._scheduler.lanes[launch.lane_id]
        offset = 0
        for part in launch.slices:
            if request := self._requests.get(part.request_id):
                own = slice(offset, offset + part.rows)
                report = LaunchReport(
                    profile=lane.profile,
                    rows=part.rows,
                    batch_rows=launch.rows,
                    padded_rows=launch.padded_rows,
                    queue_ns=launched_ns - request.arrived_ns,
                    execution_ns=now_ns - launched_ns,
                    padded_length=launch.length,
                )
                mine = take_rows(outputs, own, self._spec, request.queued.route.length)
                request.parts.append(Part(part.first_row, mine, report))
            offset += part.rows

    def _end(self, request_id: RequestId, error: ServingError | None = None) -> None:
        request = self._requests.pop(request_id, None)
        if request is None:  # its caller has gone
            return
        self._note_end()
        failure: BaseException | None = error or request.error
        result = None
        if failure is None:
            try:
                result = join(request.parts, self._spec, was_cold=request.was_cold)
            except ExecutionFailed as misfit:
                failure = misfit
        request.when_ended(result, failure)

    def _note_end(self) -> None:
        if not self._requests:
            self._nothing_open.set()

    def _refuse(
        self, request_id: RequestId, error: ServingError | None, needed_ns: int = 0
    ) -> None:
        """End a request that is not run; without an error, because of its deadline."""
        request = self._requests.get(request_id)
        if request is None:  # its caller has gone
            return
        now_ns, deadline_ns = self._clock.now_ns(), request.queued.deadline_ns
        refusal = Refusal(
            request.queued,
            waited_ns=now_ns - request.arrived_ns if request.is_admitted else 0,
            needed_ns=needed_ns,
            left_ns=None if deadline_ns is None else deadline_ns - now_ns,
        )
        if error is None:
            error = describe_expiry(self._spec, refusal)
        if is_debugged():
            log_refusal(self._spec, refusal, error)
        self._end(request_id, error)
