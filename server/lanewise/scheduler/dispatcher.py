"""The shell around the scheduler of a model, on real runners and time: what callers see."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import structlog

from lanewise.backends.runner import LoadedModel
from lanewise.backends.self_check import require_agreement, require_padding
from lanewise.clock import NS_PER_MS, Clock
from lanewise.errors import ExecutionFailed, RunnerLost, UnsoundOutputs
from lanewise.memory.regions import Regions
from lanewise.model.regions import RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array, Shape
from lanewise.scheduler.cold_shapes import ColdShapes
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.costs.file import MeasuredModel
from lanewise.scheduler.costs.measuring import MeasuredLane, measure_costs
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.explanation import explain
from lanewise.scheduler.flow import OVERTIME_S, Payload, RequestFlow
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.launching import Inputs, Launcher
from lanewise.scheduler.policy.cost_aware import CostAwarePolicy
from lanewise.scheduler.policy.interface import Policy
from lanewise.scheduler.region_tensors import RegionTensors, until_ended
from lanewise.scheduler.request import DEFAULT_TARGET_NS, NO_OPTIONS, Request, RequestOptions
from lanewise.scheduler.results import (
    InferResult,
    LaneStatus,
    RouteReport,
    WhenEnded,
)
from lanewise.scheduler.routing import Route, admit_values
from lanewise.settings.model import SchedulingSettings

_log = structlog.get_logger(__name__)

SAMPLES_HINT = "give values that it can run under [samples] in model.toml, see docs/models.md"

WhenArrived = Callable[[Mapping[str, Shape], RequestOptions, int], None]
"""Told of a request that came: the shape of every input by name, what was asked for, with the
model's own priority and target where nothing was, and when, on the monotonic clock."""


class Dispatcher:
    """Serves one version of a model: its lanes, their threads and their scheduler.

    Used on one event loop. `warm_up` first, then `submit` or `begin` as often as wanted, at the
    end `drain` and `close`. Owns the runners of `loaded` and closes them. Requests that come
    close together are launched together, see `Gathering`.

    Args:
        policy: makes the policy from the cost table that is kept.
        costs: what launches cost, if that is known from before; None to have `warm_up`
            measure it.
        regions: what is registered as shared memory; None for nothing.

    Attributes:
        when_arrived: called on the event loop for every request that some profile admits,
            before anything is decided about it, see `WhenArrived`; None for nobody. May be set at
            any time.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        clock: Clock,
        *,
        max_queue_requests: int,
        scheduling: SchedulingSettings | None = None,
        policy: Callable[[CostTable], Policy] = CostAwarePolicy,
        costs: CostTable | None = None,
        when_lane_lost: Callable[[RunnerLost], None] = lambda _: None,
        regions: Regions | None = None,
    ) -> None:
        self.spec: ModelSpec = loaded.spec
        self.costs = CostTable() if costs is None else costs
        self._is_measured = costs is not None
        self._make_policy = policy
        self._scheduling = scheduling or SchedulingSettings()
        self._clock = clock
        self.when_arrived: WhenArrived | None = None
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
        self._cold_shapes = ColdShapes(
            loaded.spec, loaded.runners, clock, when_lane_lost, max_waiting=max_queue_requests
        )
        self._flow = RequestFlow(
            loaded.spec, self._scheduler, self._launcher, clock, when_lane_lost
        )
        self._cold_requests: set[asyncio.Task[None]] = set()

    @property
    def lost_profiles(self) -> tuple[str, ...]:
        """Names of the profiles none of whose lanes is in service any more."""
        if self._scheduler.has_every_profile:
            return ()
        live = {lane.profile.index for lane in self._scheduler.lanes if not lane.is_retired}
        return tuple(p.name for p in self.spec.profiles if p.index not in live)

    @property
    def hung_profiles(self) -> tuple[str, ...]:
        """Names of the profiles all of whose lanes in service are held by launches that hang."""
        live = [lane for lane in self._scheduler.lanes if not lane.is_retired]
        held = {lane.profile.index for lane in live if self._flow.hangs(lane)}
        if not held:
            return ()
        free = {lane.profile.index for lane in live if not self._flow.hangs(lane)}
        return tuple(p.name for p in self.spec.profiles if p.index in held - free)

    def watch(self) -> bool:
        """End launches that nobody waits for; to be called every now and then.

        Returns:
            Whether `hung_profiles` may have changed.
        """
        return self._flow.watch()

    @property
    def waiting_requests(self) -> int:
        return self._scheduler.waiting_requests + self._cold_shapes.waiting_requests

    @property
    def open_requests(self) -> int:
        return self._flow.open_requests + len(self._cold_requests) + self._regions.open_requests

    def _judge_failed_warm_up(self, profile: str, error: ExecutionFailed) -> None:
        """Let a model pass that fails on blank inputs: it may serve every real request.

        Not one whose samples it cannot run, and none that has to be compiled for its shapes before.
        """
        title = f"model '{self.spec.name}', profile '{profile}'"
        if self.spec.samples:
            raise ExecutionFailed(
                f"{title}: cannot run the samples in model.toml, zeros or empty strings for "
                f"inputs without any: {error.message}; {SAMPLES_HINT}"
            ) from error
        if self._is_compiled:
            raise ExecutionFailed(f"{title}: {error.message}; {SAMPLES_HINT}") from error
        _log.warning(
            "not warmed up",
            model=self.spec.name,
            version=self.spec.version,
            profile=profile,
            reason=f"it fails on zeros and empty strings: {error.message}",
            hint=f"it serves all the same, and its costs are learnt from traffic; {SAMPLES_HINT}",
        )

    async def warm_up(self) -> None:
        """Warm up every runner, one after the other, and measure what their launches cost.

        If it is cancelled it returns at once and warms up no other runner; the one at work
        cannot be interrupted, so `close` would wait for it.

        Raises:
            UnsoundOutputs: outputs cannot be given to requests, or two runners disagree.
            ExecutionFailed: a runner cannot run the model's samples, or what it is compiled for.
        """
        runners, threads = self._launcher.runners, self._launcher.threads
        for runner, its_threads in zip(runners, threads, strict=True):
            try:
                await its_threads.call(runner.warm_up)
            except UnsoundOutputs:
                raise
            except ExecutionFailed as error:
                self._judge_failed_warm_up(runner.profile.name, error)
        if self._is_compiled:
            await threads[0].call(functools.partial(require_agreement, self.spec, runners))
        if self.spec.padding is not None:
            try:
                await threads[0].call(functools.partial(require_padding, self.spec, runners))
            except UnsoundOutputs:
                raise
            except ExecutionFailed as error:
                raise ExecutionFailed(
                    f"model '{self.spec.name}': which outputs grow with "
                    f"{self.spec.padding.dimension} is unknown, because it fails on made-up "
                    f"inputs: {error.message}; {SAMPLES_HINT}"
                ) from error
        if not self._is_measured:
            lanes = [MeasuredLane(*each) for each in zip(runners, threads, strict=True)]
            await measure_costs(self.spec, lanes, self.costs, self._clock)
            self._is_measured = True

    async def submit(
        self, inputs: Mapping[str, Array | RegionTensor], options: RequestOptions = NO_OPTIONS
    ) -> InferResult:
        """Run one request and get its outputs; see `begin`.

        Cancelling it frees its place at once.
        """
        return await until_ended(lambda when_ended: self.begin(inputs, when_ended, options))

    def begin(
        self,
        inputs: Mapping[str, Array | RegionTensor],
        when_ended: WhenEnded,
        options: RequestOptions = NO_OPTIONS,
    ) -> Callable[[], None]:
        """Begin one request.

        Args:
            inputs: every input of the model, dtypes as in its spec. Only read, and not
                to be changed as long as the dispatcher or a runner refers to it. What lies in
                regions is read once, first of all, but for what the device copies from there.
            when_ended: called once, on the event loop, maybe before this returns; unless it
                is cancelled.
            options: deadline, pin, priority, target and where to write outputs.

        Returns:
            What cancels it, and frees its place at once; without effect when it has ended.

        Raises:
            InvalidRequest, QueueFull: it could never run, or needs a shape to be compiled for
                and too many do. Other errors are told to `when_ended`: Overloaded,
                Unavailable, DeadlineExpired, ExecutionFailed, and what is wrong with regions;
                see `lanewise.errors`.
        """
        shapes = {}
        in_regions = bool(options.placements)
        for name, tensor in inputs.items():
            shapes[name] = tensor.shape
            if type(tensor) is RegionTensor:
                in_regions = True
        # Before anything is read: not for what cannot run.
        route = self._scheduler.router.route(shapes, options.profile)
        if not in_regions:
            return self._begin(options, route, shapes, cast(Inputs, inputs), when_ended)
        begin = functools.partial(self._begin, options, route, shapes)
        return self._regions.begin(inputs, options.placements, when_ended, begin)

    def _begin(
        self,
        options: RequestOptions,
        route: Route,
        shapes: Mapping[str, Shape],
        inputs: Inputs,
        when_ended: WhenEnded,
    ) -> Callable[[], None]:
        if self.spec.profiles[0].values:
            route = admit_values(route, self.spec, inputs)
        priority = self._scheduling.resolve_priority(options.priority)
        target_ns = self._target_ns if options.target_ns is None else options.target_ns
        if self.when_arrived is not None:
            asked = options._replace(priority=priority, target_ns=target_ns)
            self.when_arrived(shapes, asked, self._clock.now_ns())
        payload = Payload(inputs, when_ended)
        request = Request(route, None, options.deadline_ns, target_ns, priority, None, payload)
        if self._cold_shapes.can_be_cold:
            warm = self._cold_shapes.warm_route(route, shapes)
            if warm is None:
                return self._begin_cold(request, shapes)
            request.route = warm
        return self._flow.begin(request)

    def _begin_cold(self, request: Request, shapes: Mapping[str, Shape]) -> Callable[[], None]:
        cancel_warm: Callable[[], None] | None = None

        async def wait_and_begin() -> None:
            nonlocal cancel_warm
            try:
                request.route = await self._cold_shapes.wait(
                    request.route, shapes, request.deadline_ns
                )
                request.payload.was_cold = True
                cancel_warm = self._flow.begin(request)
            except Exception as error:
                request.payload.when_ended(None, error)

        task = asyncio.get_running_loop().create_task(wait_and_begin())
        self._cold_requests.add(task)
        task.add_done_callback(self._cold_requests.discard)

        def cancel() -> None:
            task.cancel()
            if cancel_warm is not None:
                cancel_warm()

        return cancel

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
                hangs=self._flow.hangs(lane),
            )
            for lane, runner in zip(self._scheduler.lanes, self._launcher.runners, strict=True)
        )

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
        dropped = await self._flow.drain(grace_ns)
        await self._regions.drain(OVERTIME_S)
        return dropped

    async def close(self) -> bool:
        """Release the runners and their threads. Nothing may be submitted any more.

        Returns:
            Whether all is released. False if a launch is still in flight or a shape is being
            prepared: the threads go on until it returns, and the runners are left to the end
            of the process.
        """
        self._flow.close()
        is_free = await self._launcher.close()
        return await self._cold_shapes.close(OVERTIME_S) and is_free


def lanes_of(loaded: LoadedModel) -> tuple[Lane, ...]:
    """Make the scheduler's record of each runner of a model, in their order."""
    return tuple(
        Lane(LaneId(i), runner.profile, runner.depth, runner.row_counts)
        for i, runner in enumerate(loaded.runners)
    )
