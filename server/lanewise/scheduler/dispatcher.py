"""The shell around the scheduler: carries out what it decides, on real runners and time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from lanewise.clock import NS_PER_MS, NS_PER_S, Clock, Timer
from lanewise.engine.runner import LoadedModel, find_misfit
from lanewise.engine.self_check import require_agreement, require_padding
from lanewise.engine.strings import decode_strings
from lanewise.errors import (
    Draining,
    ExecutionFailed,
    RunnerLost,
    ServingError,
)
from lanewise.model_settings import SchedulingSettings
from lanewise.models import ModelSpec
from lanewise.regions import NOWHERE, RegionSlice, RegionTensor
from lanewise.scheduler.cold_shapes import ColdShapes
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.cost_file import MeasuredModel
from lanewise.scheduler.cost_report import CostReport, report_costs
from lanewise.scheduler.costs import CostTable
from lanewise.scheduler.decisions import (
    Complete,
    Decision,
    Expire,
    Fail,
    LaneId,
    Launch,
    Reject,
)
from lanewise.scheduler.explanation import explain
from lanewise.scheduler.gathering import Gathering
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.launching import Inputs, Launcher
from lanewise.scheduler.log_lines import (
    Refusal,
    describe_expiry,
    is_debugged,
    log_launch,
    log_refusal,
)
from lanewise.scheduler.measuring import MeasuredLane, measure_costs
from lanewise.scheduler.parts import Outputs, Part, join, own_error, take_rows
from lanewise.scheduler.policies import DEFAULT_POLICY, POLICIES
from lanewise.scheduler.policy import Policy
from lanewise.scheduler.region_tensors import (
    RegionContents,
    RegionTensors,
    arrays_of,
    until_ended,
)
from lanewise.scheduler.request import DEFAULT_TARGET_NS, ArrivedRequest, QueuedRequest, RequestId
from lanewise.scheduler.results import (
    InferResult,
    LanesStatus,
    LaneStatus,
    LaunchReport,
    RouteReport,
    WhenEnded,
)
from lanewise.scheduler.routing import Route
from lanewise.scheduler.shape_values import admit_values
from lanewise.tensors import Array, Shape, on_host

_log = structlog.get_logger(__name__)

OVERTIME_S = 2.0
"""How long `drain` waits for launches in flight when its grace period is over."""


@dataclass(frozen=True, slots=True)
class _Urgency:
    """When a request should be served, see `QueuedRequest`."""

    deadline_ns: int | None
    target_ns: int
    priority: int


@dataclass(slots=True, eq=False)
class _Request:
    """A request that has not ended. The dispatcher only reads `inputs`."""

    inputs: Inputs
    queued: QueuedRequest
    when_ended: WhenEnded
    arrived_ns: int
    was_cold: bool
    is_admitted: bool = False
    parts: list[Part] = field(default_factory=list)
    error: BaseException | None = None


class Dispatcher:
    """Serves one version of a model: its lanes, their threads and their scheduler.

    Used on one event loop. `warm_up` first, then `submit` or `begin` as often as wanted, at the
    end `drain` and `close`. Owns the runners of `loaded` and closes them. Requests that come
    close together are launched together, see `Gathering`.

    Args:
        policy: a name in POLICIES, or what makes one from the cost table that is kept.
        costs: what launches cost, if that is known from before; None to have `warm_up`
            measure it.
        regions: what is registered as shared memory; None for nothing.

    Attributes:
        when_arrived: called on the event loop for every request that some profile admits,
            before anything is decided about it; None for nobody. May be set at any time.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        clock: Clock,
        *,
        max_queue_requests: int,
        scheduling: SchedulingSettings | None = None,
        policy: str | Callable[[CostTable], Policy] = DEFAULT_POLICY,
        costs: CostTable | None = None,
        when_lane_lost: Callable[[RunnerLost], None] = lambda _: None,
        regions: RegionContents | None = None,
    ) -> None:
        self.spec: ModelSpec = loaded.spec
        self.costs = CostTable() if costs is None else costs
        self._is_measured = costs is not None
        self._make_policy = POLICIES[policy] if isinstance(policy, str) else policy
        self._scheduling = scheduling or SchedulingSettings()
        self._clock = clock
        self._when_lane_lost = when_lane_lost
        self.when_arrived: Callable[[ArrivedRequest], None] | None = None
        self._regions = RegionTensors(regions, loaded.spec, loaded.direct_inputs)
        self._is_compiled = loaded.is_compiled
        self._launcher = Launcher(loaded.spec, loaded.runners, clock)
        self._scheduler = Scheduler(
            loaded.spec,
            lanes_of(loaded),
            self._make_policy(self.costs),
            self.costs,
            max_queue_requests=max_queue_requests,
        )
        target_ms = self._scheduling.latency_target_ms
        self._target_ns = DEFAULT_TARGET_NS if target_ms is None else int(target_ms * NS_PER_MS)
        self._shared = [t.name for t in self.spec.inputs if t.name not in self.spec.rowwise]
        self._cold_shapes = ColdShapes(
            loaded.spec, loaded.runners, clock, when_lane_lost, max_waiting=max_queue_requests
        )
        self._requests: dict[RequestId, _Request] = {}
        most_ns = min(profile.max_queue_delay_ns for profile in self.spec.profiles)
        self._gathering = Gathering(self._tick, clock, most_ns)
        self._cold_requests: set[asyncio.Task[None]] = set()
        self._nothing_open = asyncio.Event()
        self._last_id = 0
        self._timer: Timer | None = None
        self._timer_ns: int | None = None

    @property
    def lost_profiles(self) -> tuple[str, ...]:
        """Names of the profiles none of whose lanes is in service any more."""
        live = {lane.profile.index for lane in self._scheduler.lanes if not lane.is_retired}
        return tuple(p.name for p in self.spec.profiles if p.index not in live)

    @property
    def waiting_requests(self) -> int:
        """Requests that have rows which were not launched."""
        return self._scheduler.waiting_requests + self._cold_shapes.waiting_requests

    @property
    def open_requests(self) -> int:
        """Requests that have not ended, waiting or in flight."""
        return len(self._requests) + len(self._cold_requests) + self._regions.open_requests

    async def warm_up(self) -> None:
        """Warm up every runner, one after the other, and measure what their launches cost.

        If it is cancelled it returns at once and warms up no other runner; the one at work
        cannot be interrupted, so `close` would wait for it.

        Raises:
            ExecutionFailed: a runner cannot run its own profile, or two of them disagree.
        """
        runners, threads = self._launcher.runners, self._launcher.threads
        for runner, its_threads in zip(runners, threads, strict=True):
            await its_threads.call(runner.warm_up)
        if self._is_compiled:
            await threads[0].call(functools.partial(require_agreement, self.spec, runners))
        if self.spec.padding is not None:
            await threads[0].call(functools.partial(require_padding, self.spec, runners))
        if not self._is_measured:
            lanes = [MeasuredLane(*each) for each in zip(runners, threads, strict=True)]
            await measure_costs(self.spec, lanes, self.costs, self._clock)
            self._is_measured = True

    async def submit(
        self,
        inputs: Mapping[str, Array | RegionTensor],
        *,
        deadline_ns: int | None = None,
        profile: str | int | None = None,
        priority: int = 0,
        target_ns: int | None = None,
        placements: Mapping[str, RegionSlice] = NOWHERE,
    ) -> InferResult:
        """Run one request and get its outputs; see `begin`.

        Cancelling it frees its place at once.
        """

        def begin(when_ended: WhenEnded) -> Callable[[], None]:
            return self.begin(
                inputs,
                when_ended,
                deadline_ns=deadline_ns,
                profile=profile,
                priority=priority,
                target_ns=target_ns,
                placements=placements,
            )

        return await until_ended(begin)

    def begin(
        self,
        inputs: Mapping[str, Array | RegionTensor],
        when_ended: WhenEnded,
        *,
        deadline_ns: int | None = None,
        profile: str | int | None = None,
        priority: int = 0,
        target_ns: int | None = None,
        placements: Mapping[str, RegionSlice] = NOWHERE,
    ) -> Callable[[], None]:
        """Begin one request.

        Args:
            inputs: every input of the model, dtypes as in its spec. Only read, and not
                to be changed as long as the dispatcher or a runner refers to it. What lies in
                regions is read once, first of all, but for what the device copies from there.
            when_ended: called once, on the event loop, maybe before this returns; unless it
                is cancelled.
            deadline_ns: on the clock's time; the request never starts after it.
            profile: name or index of the only profile allowed; None for any.
            priority: 1 for the most important; one that the model does not have, such as
                0, for the model's default.
            target_ns: how long it should take if it has no deadline; None for the model's
                target.
            placements: where outputs are to be written that shall not come back.

        Returns:
            What cancels it, and frees its place at once; without effect when it has ended.

        Raises:
            InvalidRequest, QueueFull: it could never run, or needs a shape to be compiled for
                and too many do. Other errors are told to `when_ended`: Overloaded,
                Unavailable, DeadlineExpired, ExecutionFailed, and what is wrong with regions;
                see `lanewise.errors`.
        """
        urgency = _Urgency(
            deadline_ns,
            self._target_ns if target_ns is None else target_ns,
            self._scheduling.resolve_priority(priority),
        )
        arrays = arrays_of(inputs)
        if arrays is not None and not placements:
            return self._begin(arrays, when_ended, urgency, profile)
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        self._scheduler.router.route(shapes, profile)  # nothing is read for what cannot run

        def begin(pieces: Inputs, when_run: WhenEnded) -> Callable[[], None]:
            return self._begin(pieces, when_run, urgency, profile)

        return self._regions.begin(inputs, placements, when_ended, begin)

    def _begin(
        self,
        inputs: Inputs,
        when_ended: WhenEnded,
        urgency: _Urgency,
        profile: str | int | None,
    ) -> Callable[[], None]:
        shapes = {name: array.shape for name, array in inputs.items()}
        route = self._scheduler.router.route(shapes, profile)
        route = admit_values(route, self.spec, inputs)
        if self.when_arrived is not None:
            self.when_arrived(self._describe_arrival(shapes, urgency, profile))
        warm = self._cold_shapes.warm_route(route, shapes)
        if warm is None:
            return self._begin_cold(route, shapes, inputs, urgency, when_ended)
        return self._begin_warm(warm, inputs, urgency, when_ended)

    def _describe_arrival(
        self, shapes: Mapping[str, Shape], urgency: _Urgency, profile: str | int | None
    ) -> ArrivedRequest:
        return ArrivedRequest(
            shapes,
            self._clock.now_ns(),
            urgency.deadline_ns,
            urgency.target_ns,
            urgency.priority,
            profile,
        )

    def _begin_cold(
        self,
        route: Route,
        shapes: Mapping[str, Shape],
        inputs: Inputs,
        urgency: _Urgency,
        when_ended: WhenEnded,
    ) -> Callable[[], None]:
        """Begin a request as soon as a lane has been prepared for its shapes."""
        cancel_warm: Callable[[], None] | None = None

        async def wait_and_begin() -> None:
            nonlocal cancel_warm
            try:
                warm = await self._cold_shapes.wait(route, shapes, urgency.deadline_ns)
                cancel_warm = self._begin_warm(warm, inputs, urgency, when_ended, was_cold=True)
            except Exception as error:
                when_ended(None, error)

        task = asyncio.get_running_loop().create_task(wait_and_begin())
        self._cold_requests.add(task)
        task.add_done_callback(self._cold_requests.discard)

        def cancel() -> None:
            task.cancel()
            if cancel_warm is not None:
                cancel_warm()

        return cancel

    def _begin_warm(
        self,
        route: Route,
        inputs: Inputs,
        urgency: _Urgency,
        when_ended: WhenEnded,
        *,
        was_cold: bool = False,
    ) -> Callable[[], None]:
        for name in self.spec.text_inputs:
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

    def explain(self, shapes: Mapping[str, Shape], profile: str | int | None = None) -> RouteReport:
        """Tell where a request of these shapes would run, and why; runs nothing.

        Raises:
            InvalidRequest: unknown or missing input, a shape the model contradicts, or an
                unknown profile. A shape that no profile admits is no error here.
        """
        scheduler = self._scheduler
        return explain(
            scheduler.router,
            scheduler.lanes,
            self._make_policy(self.costs),
            self.costs,
            shapes,
            profile,
        )

    def status(self) -> tuple[LaneStatus, ...]:
        """Get every lane as it is now. May be called from any thread."""
        return tuple(
            LaneStatus(
                lane_id=lane.lane_id,
                profile=lane.profile,
                state=lane.state,
                counters=replace(lane.counters),
                memory=runner.memory(),
                graphs=runner.graph_counts(),
            )
            for lane, runner in zip(self._scheduler.lanes, self._launcher.runners, strict=True)
        )

    async def get_status(self) -> LanesStatus:
        """Get every lane as it is now."""
        return LanesStatus(self.status(), self.waiting_requests)

    async def get_costs(self) -> CostReport:
        """Get what launches cost, as measured."""
        return self.cost_report()

    async def get_route(
        self, shapes: Mapping[str, Shape], profile: str | int | None = None
    ) -> RouteReport:
        """Tell where a request of these shapes would run; see `explain`."""
        return self.explain(shapes, profile)

    def cost_report(self) -> CostReport:
        """Get what launches cost, as measured. Called on the event loop."""
        return report_costs(self.spec, self.costs)

    def measured(self, source: str) -> MeasuredModel:
        """Get the model with its lanes and costs, which go on changing, for a cost file.

        Args:
            source: where the costs come from, for people.
        """
        return MeasuredModel(self.spec, self._scheduler.lanes, self.costs, source=source)

    async def drain(self, grace_ns: int) -> int:
        """Refuse new requests and run those that wait, for at most `grace_ns`.

        Returns when every request has ended. What still waits after the grace period is
        rejected. Launches in flight cannot be interrupted: they get OVERTIME_S more.

        Returns:
            How many requests got no outputs.
        """
        self._cold_shapes.drain()
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
        await self._regions.drain(OVERTIME_S)
        return len(rejected) + len(stuck)

    async def close(self) -> bool:
        """Release the runners and their threads. Nothing may be submitted any more.

        Returns:
            Whether all is released. False if a launch is still in flight or a shape is being
            prepared: the threads go on until it returns, and the runners are left to the end
            of the process.
        """
        if self._timer is not None:
            self._timer.cancel()
        is_free = await self._launcher.close()
        return await self._cold_shapes.close(OVERTIME_S) and is_free

    def _shared_contents(self, inputs: Inputs) -> Hashable:
        """Get what must be equal, besides shapes, for two requests to share a launch."""
        if not self.spec.batching:
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
            log_launch(self.spec, lane.profile, launch, now_ns - launched_ns)
        if outputs is not None and (problem := find_misfit(self.spec, outputs, launch.length)):
            outputs, error = None, ExecutionFailed(problem)
        if outputs is not None:
            self._deliver(launch, launched_ns, now_ns, outputs)
            # Requests that are being gathered would go one by one into every lane that gets
            # free: 32 in flight, one core, grpcio 1.78, two thirds of them were launched alone.
            launching = not self._gathering.is_gathering
            ends = self._scheduler.finish(launch.launch_id, now_ns, launching=launching)
            self._carry_out(ends)
            return
        error = error or ExecutionFailed("the runner returned nothing")
        _log.error(
            "launch failed",
            model=self.spec.name,
            version=self.spec.version,
            profile=lane.profile.name,
            rows=launch.rows,
            exc_info=error,
        )
        for part in launch.slices:
            if request := self._requests.get(part.request_id):
                request.error = own_error(error, self.spec, lane.profile.name)
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
                mine = take_rows(outputs, own, self.spec, request.queued.route.length)
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
                result = join(request.parts, self.spec, was_cold=request.was_cold)
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
            error = describe_expiry(self.spec, refusal)
        if is_debugged():
            log_refusal(self.spec, refusal, error)
        self._end(request_id, error)


def lanes_of(loaded: LoadedModel) -> tuple[Lane, ...]:
    """Make the scheduler's record of each runner of a model, in their order."""
    return tuple(
        Lane(LaneId(i), runner.profile, runner.depth, runner.row_counts)
        for i, runner in enumerate(loaded.runners)
    )
