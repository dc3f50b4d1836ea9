"""The same traces on real lanes and in the simulator, under several policies."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.scheduler.contenders import OURS, Settings, contenders
from benchmarks.scheduler.figures import Figures, figures_of
from benchmarks.scheduler.host_costs import measure_host
from benchmarks.scheduler.lane_models import load_lanes
from benchmarks.scheduler.replay import Replay, replay
from benchmarks.scheduler.scenarios import DEADLINES_MS, ROWS, SHARES
from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.config import DEFAULT_MAX_QUEUE_REQUESTS
from lanewise.engine.runner import LoadedModel
from lanewise.scheduler.cost_file import HostCosts, MeasuredModel, load_costs, save_costs
from lanewise.scheduler.costs import CostTable, bucket_of
from lanewise.scheduler.decisions import LaneId
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.lane import Lane
from lanewise.simulator.simulation import Options, simulate
from lanewise.simulator.traffic import Arrival, RequestKind, Traffic
from lanewise.tensors import Shape

POLICIES = (OURS, "first-fit", "triton", "tf-serving")
"""Those that lanes can follow: one-context needs an execution context that switches profiles, which
no lane has, and triton-as-coded chooses as triton does where the profiles do not overlap."""

H200_BULK_NS = 5_420_000
"""A launch of 128 rows in the scenarios whose deadlines are stretched for slower lanes."""

PAUSE_S = 0.2
"""Between runs, for what the one before has left behind."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes:
        loads: of capacity.
        repeats: of each load under each policy, in turn with the others.
        trace: requests to send instead of made-up ones; then there is one load, and `loads`,
            `seconds` and `seed` mean nothing.
    """

    backend: str
    loads: tuple[float, ...] = (0.4, 0.7, 1.0)
    seconds: float = 5.0
    repeats: int = 3
    seed: int = 1
    policies: tuple[str, ...] = POLICIES
    trace: tuple[Arrival, ...] = ()


@dataclass(slots=True)
class Case:
    """A trace under a policy: what was predicted, and what each repeat came to.

    Attributes:
        settings: of the policy, in words.
        late_p99_us: how late the load generator was in each repeat.
    """

    load: float
    policy: str
    settings: str
    requests: int
    predicted: Figures
    measured: list[Figures] = field(default_factory=list)
    late_p99_us: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LaneRuns:
    """Everything that came of a plan.

    Attributes:
        capacity: requests of the mix a second, see README.
        model: as it was measured before the first request.
        hosts: what deciding costs, by policy.
    """

    plan: Plan
    capacity: float
    model: MeasuredModel
    hosts: Mapping[str, HostCosts]
    cases: Sequence[Case]


async def run_lanes(plan: Plan, tell: Callable[[str], None]) -> LaneRuns:
    """Measure the lanes, predict each trace from that, and then serve each on them."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        loaded = await asyncio.to_thread(load_lanes, plan.backend, Path(folder), clock)
        tell("warming up")
        measuring = _dispatcher(loaded, OURS, None)
        await measuring.warm_up()
        model = _through_file(_measured_model(loaded, measuring.costs), Path(folder) / "costs.json")
    capacity = capacity_of(model)
    traces = {load: _trace(plan, model, load * capacity) for load in plan.loads}
    if plan.trace:
        traces = {0.0: plan.trace}
    tell(f"capacity {capacity:.0f} requests/s; tuning")
    settings = {name: _tune(name, model, traces.values()) for name in plan.policies}
    hosts, dispatchers = {}, {OURS: measuring}
    for name, (_, make_policy) in settings.items():
        costs = copy.deepcopy(model.costs)
        hosts[name] = await measure_host(loaded.spec, loaded, copy.deepcopy(costs), make_policy)
        dispatchers[name] = _dispatcher(loaded, make_policy, costs)
    cases = [
        _predict(load, trace, name, settings[name], model, hosts[name])
        for load, trace in traces.items()
        for name in plan.policies
    ]
    gc.freeze()  # what was made so far need not be looked through while requests wait
    try:
        for repeat in range(plan.repeats):
            tell(f"repeat {repeat + 1} of {plan.repeats}")
            for case in cases:
                await asyncio.sleep(PAUSE_S)
                gc.collect()
                _note(case, await replay(dispatchers[case.policy], traces[case.load]))
    finally:
        for dispatcher in {measuring, *dispatchers.values()}:
            await dispatcher.close()
    return LaneRuns(plan, capacity, model, hosts, cases)


def capacity_of(model: MeasuredModel) -> float:
    """Get the rate of the mix that launches one after the other could serve at most."""
    bucket = bucket_of(_item(model))
    row_ns = min(
        model.costs.typical_ns(kind.profile, kind.rows, bucket) / kind.rows
        for kind, _ in model.costs.kinds()
    )
    rows = sum(share * sum(ROWS[name]) / 3 for name, share in SHARES.items())
    return 1e9 / (rows * row_ns)


def _item(model: MeasuredModel) -> list[Shape]:
    opt = model.spec.profiles[0].ranges
    return [opt[t.name].opt[t.name in model.spec.rowwise :] for t in model.spec.inputs]


def _trace(plan: Plan, model: MeasuredModel, rate: float) -> tuple[Arrival, ...]:
    bulk_ns = model.costs.typical_ns(len(model.lanes) - 1, 128, bucket_of(_item(model)))
    stretch = max(1.0, bulk_ns / H200_BULK_NS)
    mix = [
        RequestKind(
            name,
            ROWS[name],
            rate * share,
            timeout_ns=round(stretch * DEADLINES_MS["tight"][name] * NS_PER_MS),
        )
        for name, share in SHARES.items()
    ]
    return tuple(Traffic(model.spec, mix, plan.seconds, plan.seed))


def _tune(name: str, model: MeasuredModel, traces: Iterable[Sequence[Arrival]]) -> Settings:
    """Find the settings with which the most requests of all traces meet their deadlines."""
    candidates = contenders()[name]
    if len(candidates) == 1:
        return candidates[0]

    def met(settings: Settings) -> int:
        results = (simulate(model, trace, settings[1]) for trace in traces)
        return sum(kind.met for result in results for kind in result.outcomes.kinds.values())

    return max(candidates, key=met)


def _dispatcher(
    loaded: LoadedModel, policy: str | Callable[[CostTable], object], costs: CostTable | None
) -> Dispatcher:
    return Dispatcher(
        loaded,
        SystemClock(),
        max_queue_requests=DEFAULT_MAX_QUEUE_REQUESTS,
        policy=policy,  # type: ignore[arg-type]
        costs=costs,
    )


def _measured_model(loaded: LoadedModel, costs: CostTable) -> MeasuredModel:
    lanes = tuple(
        Lane(LaneId(i), runner.profile, runner.depth, runner.row_counts)
        for i, runner in enumerate(loaded.runners)
    )
    return MeasuredModel(loaded.spec, lanes, costs)


def _through_file(model: MeasuredModel, path: Path) -> MeasuredModel:
    """Save and load the costs, so that what is simulated is what a cost file holds."""
    save_costs(path, model)
    return load_costs(path)


def _predict(
    load: float,
    trace: Sequence[Arrival],
    policy: str,
    settings: Settings,
    model: MeasuredModel,
    host: HostCosts,
) -> Case:
    label, make_policy = settings
    hosted = dataclasses.replace(model, host=host)
    result = simulate(hosted, trace, make_policy, Options(varied=True))
    figures = figures_of(result.outcomes, result.ended_ns - result.began_ns)
    return Case(load, policy, label, len(trace), figures)


def _note(case: Case, result: Replay) -> None:
    case.measured.append(figures_of(result.outcomes, result.duration_ns))
    case.late_p99_us.append(float(np.quantile(result.lateness_ns, 0.99)) / 1e3)
