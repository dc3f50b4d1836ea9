"""Requests on their way: what the scheduler decides about them is carried out here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import structlog

from lanewise.backends.runner import find_misfit
from lanewise.backends.strings import decode_strings
from lanewise.clock import NS_PER_S, Clock, Timer
from lanewise.errors import DeadlineExpired, Draining, ExecutionFailed, RunnerLost, ServingError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import on_host
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.gathering import Gathering
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.launching import Inputs, Launcher
from lanewise.scheduler.log_lines import is_debugged, launch_facts, log_launch, log_refusal
from lanewise.scheduler.parts import Outputs, RowsRun, join, own_error, take_rows
from lanewise.scheduler.request import Decision, End, Launch, Request
from lanewise.scheduler.results import LaunchReport, WhenEnded
from lanewise.scheduler.watchdog import PATIENCE_NS, Findings, Watchdog

_log = structlog.get_logger(__name__)

OVERTIME_S = 2.0
"""How long `drain` waits for launches in flight when its grace period is over."""


@dataclass(slots=True, eq=False)
class Payload:
    """What a request brings and gets; the `payload` of its `Request`.

    Attributes:
        inputs: by name; only read.
        when_ended: called once, unless the request is cancelled.
        was_cold: whether it had to wait for its shapes to be compiled for.
        runs: what launches gave to it so far.
    """

    inputs: Inputs
    when_ended: WhenEnded
    was_cold: bool = False
    runs: list[RowsRun] = field(default_factory=list)


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
        self._requests: set[Request] = set()  # that have not ended
        most_ns = min(profile.max_queue_delay_ns for profile in spec.profiles)
        self._gathering = Gathering(self._tick, clock, most_ns)
        self._watchdog = Watchdog()
        self._nothing_open = asyncio.Event()
        self._timer: Timer | None = None
        self._timer_ns: int | None = None

    @property
    def open_requests(self) -> int:
        return len(self._requests)

    def begin(self, request: Request) -> Callable[[], None]:
        """Begin a request whose shapes its lanes are warm for; see `Dispatcher.begin`.

        Its payload is a `Payload`, and what it may share launches with is set here.
        """
        inputs = request.payload.inputs
        for name in self._spec.text_inputs:
            decode_strings(on_host(inputs[name]), name)  # here, where it fails this request alone
        route = request.route
        shared: Hashable = ()
        if not self._spec.batching:
            shared = None
        elif self._shared:
            shared = self._shared_contents(inputs)
        request.stack_key = (route.shapes, shared)
        if route.of_any_length is not None:
            request.padded_key = (route.of_any_length, shared)
        self._requests.add(request)
        refusal = self._scheduler.admit(request, self._clock.now_ns())
        if refusal is None:
            self._gathering.note_arrival()
        else:
            self._carry_out((refusal,))
        return functools.partial(self._cancel, request)

    def _cancel(self, request: Request) -> None:
        if request in self._requests:
            self._leave(request)
            self._carry_out(self._scheduler.cancel(request, self._clock.now_ns()))

    def watch(self) -> bool:
        """End launches that nobody waits for, where that is possible, and tell which hang.

        Returns:
            Whether `hangs` has changed for any lane.
        """
        found = self._end_abandoned(PATIENCE_NS)
        for launch in found.hanging:
            _log.error(
                "launch hangs",
                **launch_facts(self._spec, launch),
                lane=launch.lane.lane_id,
                seconds=round((self._clock.now_ns() - launch.launched_ns) / NS_PER_S, 1),
                reason="nobody waits for it, and it cannot be ended; restart the server if no "
                "lane is left",
            )
        return found.has_changed

    def _end_abandoned(self, patience_ns: int) -> Findings:
        found = self._watchdog.look(
            self._scheduler.lanes, self._requests.__contains__, self._clock.now_ns(), patience_ns
        )
        for launch in found.abandoned:
            self._launcher.interrupt(launch)
        return found

    def hangs(self, lane: Lane) -> bool:
        """Whether a launch that nobody waits for holds the lane, and cannot be ended."""
        return self._watchdog.hangs(lane)

    async def drain(self, grace_ns: int) -> int:
        self._carry_out(self._scheduler.drain(self._clock.now_ns()))
        if self._requests:
            self._nothing_open.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nothing_open.wait(), grace_ns / NS_PER_S)
        dropped = self._scheduler.abandon()
        self._carry_out(dropped)
        self._end_abandoned(0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._launcher.wait_for_all(), OVERTIME_S)
        stuck = list(self._requests)
        for request in stuck:
            text = "the server stopped before the request was done; try another replica"
            self._end(End(request, Draining(text), was_run=True))
        return len(dropped) + len(stuck)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _shared_contents(self, inputs: Inputs) -> Hashable:
        """Get what must be equal, besides shapes, for two requests to share a launch."""
        shared = (on_host(inputs[name]) for name in self._shared)
        return tuple(
            tuple(array.flat) if array.dtype.hasobject else array.tobytes() for array in shared
        )

    def _carry_out(self, decisions: Sequence[Decision]) -> None:
        launches = []
        for decision in decisions:
            if isinstance(decision, Launch):
                launches.append(decision)
            elif decision.request in self._requests:  # otherwise its caller has gone
                self._end(decision)
        wakeup_ns = self._scheduler.next_wakeup_ns()
        if wakeup_ns != self._timer_ns:
            self._set_timer(wakeup_ns)
        # Last of all: a runner's thread cannot begin before this one lets go of the
        # interpreter lock.
        for launch in launches:
            self._launcher.launch(launch, self._finish)

    def _set_timer(self, wakeup_ns: int | None) -> None:
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
        self, launch: Launch, now_ns: int, outputs: Outputs | None, error: BaseException | None
    ) -> None:
        if is_debugged():
            log_launch(self._spec, launch, now_ns - launch.launched_ns)
        if outputs is not None and (problem := find_misfit(self._spec, outputs, launch.length)):
            outputs, error = None, ExecutionFailed(problem)
        if outputs is None:
            self._fail(launch, now_ns, error or ExecutionFailed("the runner returned nothing"))
            return
        self._deliver(launch, now_ns, outputs)
        # Requests that are being gathered would go one by one into every lane that gets
        # free: 32 in flight, one core, grpcio 1.78, more than half of them were launched alone.
        launching = not self._gathering.is_gathering
        self._carry_out(self._scheduler.finish(launch, now_ns, launching=launching))

    def _fail(self, launch: Launch, now_ns: int, error: BaseException) -> None:
        if launch in self._watchdog.ending and not isinstance(error, RunnerLost):
            self._finish_abandoned(launch, now_ns)
            return
        repeats = len(launch.parts) > 1 and not isinstance(error, RunnerLost)
        _log.error(
            "launch failed",
            **launch_facts(self._spec, launch),
            requests=len(launch.parts),
            **({"then": "its requests are run again, apart"} if repeats else {}),
            # Of the foreseen errors the text says it all, and a caller could have the server
            # spend its time on formatting tracebacks.
            **(
                {"reason": error.message}
                if isinstance(error, ServingError)
                else {"exc_info": error}
            ),
        )
        failure = functools.partial(own_error, error, self._spec, launch.lane.profile.name)
        if isinstance(error, RunnerLost):
            self._carry_out(self._scheduler.retire(launch, now_ns, failure))
            self._when_lane_lost(error)
        else:
            self._carry_out(self._scheduler.finish(launch, now_ns, failure))

    def _finish_abandoned(self, launch: Launch, now_ns: int) -> None:
        _log.warning(
            "launch ended",
            **launch_facts(self._spec, launch),
            requests=len(launch.parts),
            seconds=round((now_ns - launch.launched_ns) / NS_PER_S, 1),
            reason="nobody waited for it any more",
        )
        error = DeadlineExpired(
            f"model '{self._spec.name}': the deadline passed while the request ran, and it was "
            "ended; allow more time"
        )
        failure = functools.partial(own_error, error, self._spec, launch.lane.profile.name)
        self._carry_out(self._scheduler.finish(launch, now_ns, failure))

    def _deliver(self, launch: Launch, now_ns: int, outputs: Outputs) -> None:
        launched_ns = launch.launched_ns
        offset = 0
        for request, first_row, rows in launch.parts:
            if request in self._requests:
                report = LaunchReport(
                    launch.lane.profile,
                    rows,
                    launch.rows,
                    launch.padded_rows,
                    launched_ns - request.arrived_ns,
                    now_ns - launched_ns,
                    launch.length,
                )
                own = slice(offset, offset + rows)
                mine = take_rows(outputs, own, self._spec, request.route.length)
                request.payload.runs.append((first_row, mine, report))
            offset += rows

    def _end(self, end: End) -> None:
        request, failure, result = end.request, end.error, None
        payload: Payload = request.payload
        self._leave(request)
        if failure is None:
            try:
                result = join(payload.runs, self._spec, was_cold=payload.was_cold)
            except ExecutionFailed as misfit:
                failure = misfit
        elif not end.was_run and isinstance(failure, ServingError) and is_debugged():
            log_refusal(self._spec, end, failure, self._clock.now_ns())
        payload.when_ended(result, failure)

    def _leave(self, request: Request) -> None:
        self._requests.remove(request)
        if not self._requests:
            self._nothing_open.set()
