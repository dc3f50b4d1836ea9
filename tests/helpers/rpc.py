"""A real server over real gRPC on a free port, in front of lanes that echo."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from helpers.linked import linked
from helpers.processes import FrontEndProcesses, LentFrontEnds
from helpers.transports import tested_transport
from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.errors import UnknownTensor
from lanewise.memory.regions import Regions
from lanewise.model.regions import RegionCalls, RegionSlice, RegionTensor
from lanewise.model.runner_status import GraphCounts, RunnerMemory
from lanewise.model.spec import ModelSpec, Profile, RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, Array, DType, Shape, TensorSpec
from lanewise.rpc.engine_calls import EngineCalls, engine_calls
from lanewise.rpc.health import HealthService
from lanewise.rpc.inference.service import ignore_finished
from lanewise.rpc.services import build_services
from lanewise.scheduler.costs.table import CostTable, Kind
from lanewise.scheduler.registry import ModelRegistry, ModelState, ServedModel
from lanewise.scheduler.request import NO_OPTIONS, RequestOptions
from lanewise.scheduler.results import (
    CandidateReport,
    InferResult,
    LaneCounters,
    LaneState,
    LaneStatus,
    LaunchReport,
    PlannedLaunch,
    RouteReport,
    WhenFinished,
)
from lanewise.settings.server import SharedMemory
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from lanewise_client.protos.lanes_pb2_grpc import LaneServiceStub

MAX_MESSAGE_BYTES = 1 << 20

NARROW = Profile(
    0,
    "narrow",
    {"X": ShapeRange((1, 3), (1, 3), (1, 3))},
    RowRange(1, 1, 1),
    2 * NS_PER_MS,
)
WIDE = Profile(
    1,
    "wide",
    {"X": ShapeRange((1, 3), (4, 3), (32, 3))},
    RowRange(1, 4, 32),
    5 * NS_PER_MS,
)


def spec_of(
    *tensors: tuple[str, DType, Shape], outputs: str = "", name: str = "echo", version: str = "1"
) -> ModelSpec:
    """A model whose outputs mirror its inputs: the output of input "X" is called "out.X"."""
    inputs = tuple(TensorSpec(*tensor) for tensor in tensors)
    mirrored = tuple(TensorSpec(f"out.{t.name}", t.dtype, t.shape) for t in inputs)
    return ModelSpec(
        name, version, "echo", inputs, mirrored, True, frozenset({"X"}), (NARROW, WIDE)
    )


ECHO = spec_of(("X", DType.FP32, (DYNAMIC, 3)))


@dataclass(slots=True, eq=False)
class Submission:
    """What the lanes were asked to run."""

    inputs: dict[str, Array | RegionTensor]
    deadline_ns: int | None
    profile: str | int | None
    priority: int
    target_ns: int | None
    placements: Mapping[str, RegionSlice]


@dataclass
class EchoLanes:
    """Lanes that answer every request with its own inputs, as if it took three launches.

    Attributes:
        before_answer: awaited before a request is answered; may raise what the request
            shall fail with.
        submissions: every request, in the order of arrival.
        arrivals: the same requests, to be awaited.
        cancellations: the requests that were cancelled before they were answered.
    """

    spec: ModelSpec = ECHO
    before_answer: Callable[[Submission], Awaitable[None]] | None = None
    submissions: list[Submission] = field(default_factory=list)
    arrivals: asyncio.Queue[Submission] = field(default_factory=asyncio.Queue)
    cancellations: asyncio.Queue[Submission] = field(default_factory=asyncio.Queue)

    lost_profiles: tuple[str, ...] = ()
    hung_profiles: tuple[str, ...] = ()

    def forget(self) -> None:
        """Let go of every request, and of the memory that its tensors are in."""
        self.submissions.clear()
        self.arrivals = asyncio.Queue()
        self.cancellations = asyncio.Queue()

    @property
    def waiting_requests(self) -> int:
        return 7

    async def submit(
        self,
        inputs: Mapping[str, Array | RegionTensor],
        options: RequestOptions = NO_OPTIONS,
    ) -> InferResult:
        submission = Submission(dict(inputs), *options)
        self.submissions.append(submission)
        self.arrivals.put_nowait(submission)
        try:
            if self.before_answer is not None:
                await self.before_answer(submission)
        except asyncio.CancelledError:
            self.cancellations.put_nowait(submission)
            raise
        outputs = {f"out.{name}": array for name, array in inputs.items()}
        rows = next(iter(inputs.values())).shape[0]
        launches = (
            LaunchReport(WIDE, rows, rows + 1, rows + 2, queue_ns=5, execution_ns=6),
            LaunchReport(NARROW, 1, 1, 1, queue_ns=7, execution_ns=8),
            LaunchReport(WIDE, rows, rows, rows, queue_ns=5, execution_ns=6),
        )
        return InferResult(outputs, launches)

    def begin(
        self,
        inputs: Mapping[str, Array],
        when_ended: Callable[[InferResult | None, BaseException | None], None],
        options: RequestOptions = NO_OPTIONS,
    ) -> Callable[[], None]:
        def end(task: asyncio.Task[InferResult]) -> None:
            if not task.cancelled():
                error = task.exception()
                when_ended(None if error else task.result(), error)

        task = asyncio.get_running_loop().create_task(self.submit(inputs, options))
        task.add_done_callback(end)
        return task.cancel

    def status(self) -> tuple[LaneStatus, ...]:
        counters = LaneCounters(
            launches=1,
            failed_launches=2,
            requests=3,
            rows=4,
            padded_rows=5,
            orphaned_rows=6,
            queue_ns=7,
            execution_ns=8,
            predicted_ns=9,
        )
        return (
            LaneStatus(0, NARROW, LaneState.IDLE, LaneCounters(), RunnerMemory(pageable_bytes=10)),
            LaneStatus(
                1,
                WIDE,
                LaneState.BUSY,
                counters,
                RunnerMemory(1, 2, 3, 4, 5),
                GraphCounts(launches=9, misses={"first_run": 10, "captured": 0}, held=11),
            ),
            LaneStatus(2, WIDE, LaneState.RETIRED, LaneCounters(), RunnerMemory()),
        )

    @property
    def costs(self) -> CostTable:
        costs = CostTable()
        costs.restore(Kind(WIDE.index, 8, 2), [9] * 9 + [10] * 2, [8] * 3)
        costs.record_beside(WIDE.index, NARROW.index, 1, 1.5)
        return costs

    def explain(self, shapes: Mapping[str, Shape], profile: str | int | None = None) -> RouteReport:
        if shapes.keys() != {"X"}:
            raise UnknownTensor(f"the inputs are {sorted(shapes)}, but the model has 'X'")
        rows = shapes["X"][0]
        return RouteReport(
            admitted=True,
            reason=f"pinned to {profile}",
            rows=rows,
            candidates=(
                CandidateReport(NARROW, False, "too many rows"),
                CandidateReport(WIDE, True, "fits"),
            ),
            launches=(PlannedLaunch(0, WIDE, 0, rows, rows + 1),),
        )


@dataclass
class RecordedRequests:
    """A `WhenFinished` that remembers; `finished` yields each request when it ends.

    But for the time it took; an impossible one stands in place of the error.
    """

    finished: asyncio.Queue[tuple[str, str, str, str]] = field(default_factory=asyncio.Queue)

    def __call__(self, model: str, version: str, profile: str, error: str, latency_ns: int) -> None:
        if latency_ns < 0:
            error = f"took {latency_ns} ns"
        self.finished.put_nowait((model, version, profile, error))


@dataclass
class Serving:
    """A running server and a channel to it.

    Attributes:
        health: that of the process which the channel leads to; None if that is another one.
    """

    address: str
    channel: grpc.aio.Channel
    health: HealthService | None
    publish: Callable[[], Awaitable[None]]

    def __post_init__(self) -> None:
        self.inference = GRPCInferenceServiceStub(self.channel)
        self.lanes = LaneServiceStub(self.channel)


def registry_of(*lanes: EchoLanes) -> ModelRegistry:
    """A registry in which every model is ready."""
    registry = ModelRegistry()
    for each in lanes:
        registry.add(ServedModel(each.spec.name, each.spec.version, ModelState.READY, "", each))
    return registry


@asynccontextmanager
async def serving(
    registry: ModelRegistry,
    when_finished: WhenFinished | None = None,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    regions: RegionCalls | None = None,
    shared_memory: SharedMemory = "auto",
) -> AsyncIterator[Serving]:
    """A server on a free port of this machine, stopped at the end.

    Clients may not see what a test has changed in its registry before `publish`.

    Args:
        registry: what is served.
        when_finished: is told of every request.
        max_message_bytes: a whole number of 2^20 bytes.
        regions: of shared memory; None for some of its own.
        shared_memory: which calls may use it.
    """
    transport = tested_transport.get()
    limits = {"max_message_bytes": max_message_bytes, "shared_memory": shared_memory}
    if transport.front_ends is not None:
        front_ends = transport.front_ends.get(max_message_bytes >> 20, shared_memory)
        async with _serving_by(front_ends, registry, when_finished, regions) as server:
            yield server
    elif transport.is_linked:
        async with _serving_linked(registry, when_finished, regions, **limits) as server:
            yield server
    else:
        async with _serving(
            registry, when_finished, engine_calls(registry, regions or Regions()), **limits
        ) as server:

            async def publish() -> None:
                await server.health.publish(registry)

            server.publish = publish
            yield server


@asynccontextmanager
async def _serving_by(
    front_ends: FrontEndProcesses,
    registry: ModelRegistry,
    when_finished: WhenFinished | None,
    regions: RegionCalls | None,
) -> AsyncIterator[Serving]:
    engine_server = LentFrontEnds(
        registry,
        when_finished or ignore_finished,
        engine_calls(registry, regions or Regions()),
        front_ends.listener,
    )
    await engine_server.start()
    address = f"127.0.0.1:{front_ends.port}"

    async def publish() -> None:
        await front_ends.until_told(engine_server)

    try:
        await publish()
        async with new_channel(address) as channel:
            yield Serving(address, channel, None, publish)
    finally:
        await engine_server.close()


@asynccontextmanager
async def _serving_linked(
    registry: ModelRegistry,
    when_finished: WhenFinished | None,
    regions: RegionCalls | None,
    **limits: Any,
) -> AsyncIterator[Serving]:
    async with linked(registry, when_finished, regions) as (front_end, engine):
        told, link = front_end.registry, front_end.link
        async with _serving(told, link.count, link.ask, **limits) as server:

            async def publish() -> None:
                await engine.front_ends.publish()
                await link.changed.wait()
                link.changed.clear()
                await server.health.publish(told)

            server.publish = publish
            yield server


@asynccontextmanager
async def _serving(
    registry: ModelRegistry,
    when_finished: WhenFinished | None,
    engine: EngineCalls,
    **limits: Any,
) -> AsyncIterator[Serving]:
    services = build_services(
        registry,
        SystemClock(),
        engine=engine,
        when_finished=when_finished or ignore_finished,
        **limits,
    )
    server, health = tested_transport.get().make(services), services.health
    address = f"127.0.0.1:{server.listen('127.0.0.1', 0)}"
    await health.publish(registry)
    await server.start()
    try:
        async with new_channel(address) as channel:
            yield Serving(address, channel, health, _nothing)
    finally:
        await server.stop(0.0)


def new_channel(address: str) -> grpc.aio.Channel:
    """Get a channel with a connection of its own: others of the process would be shared."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(address, options=options)


async def _nothing() -> None:
    """Publish nothing."""


def infer_request(*values: float, **fields: object) -> pb.ModelInferRequest:
    """A request to ECHO with one row for each value, contents raw."""
    x = np.repeat(np.array(values or (1.0,), np.float32), 3).reshape(-1, 3)
    request = pb.ModelInferRequest(model_name="echo", **fields)
    request.inputs.add(name="X", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return request


def in_event_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test function of a coroutine function."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        async def within_time() -> None:
            async with asyncio.timeout(30):
                await test(*args, **kwargs)

        asyncio.run(within_time())

    return run
