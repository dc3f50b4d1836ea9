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

from benchmarks.scheduler.bystanders import Bystanders
from benchmarks.scheduler.contenders import OURS, Settings, contenders
from benchmarks.scheduler.figures import Figures, figures_of
from benchmarks.scheduler.host_costs import measure_host
from benchmarks.scheduler.lane_models import load_lanes
from benchmarks.scheduler.prediction import calibrate, predict
from benchmarks.scheduler.replay import replay
from benchmarks.scheduler.scenarios import DEADLINES_MS, ROWS, SHARES
from lanewise.backends.runner import LoadedModel
from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.model.tensors import Shape
from lanewise.scheduler.costs.file import HostCosts, MeasuredModel, load_costs, save_costs
from lanewise.scheduler.costs.table import CostTable, bucket_of
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.policy.interface import Policy
from lanewise.settings.server import DEFAULT_MAX_QUEUE_REQUESTS
from lanewise.simulator.simulation import simulate
from lanewise.simulator.traffic import Arrival, RequestKind, Traffic

POLICIES = (OURS, "first-fit", "triton", "tf-serving")
"""Those that lanes can follow: one-context needs an execution context that switches profiles, which
no lane has, and triton-as-coded chooses as triton does where the profiles do not overlap."""

H200_BULK_NS = 5_420_000
"""A launch of 128 rows in the scenarios whose deadlines are stretched for slower lanes."""

CALM, TRIES = 0.05, 4
"""A repeat is tried again if other processes took more of the machine, at most so often; the
calmest try counts."""

PAUSE_S = 0.2
"""Between runs, for what the one before has left behind."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes:
        loads: of capacity.
        seconds: of each of the two traces of a load. In 3 s on a small CPU p99 is the sixth
            longest of a few hundred latencies, and off by a quarter by chance.
        repeats: of each load under each policy, in turn with the others.
        seed: of the traces that are predicted.
        trace: requests to send instead of made-up ones; the first half is learnt from, the
            other is predicted. Then there is one load, and `loads`, `seconds` and `seed` mean
            nothing.
    """

    backend: str
    loads: tuple[float, ...] = (0.3, 0.6, 0.9)
    seconds: float = 8.0
    repeats: int = 3
    seed: int = 1
    policies: tuple[str, ...] = POLICIES
    trace: tuple[Arrival, ...] = ()

    @property
    def seeds(self) -> tuple[int, int]:
        """Of the trace that is learnt from, and of the one that is predicted."""
        return self.seed + 1000, self.seed


@dataclass(frozen=True, slots=True)
class TracePair:
    """The trace that is predicted, and one of the same kind that is served before."""

    before: Sequence[Arrival]
    trace: Sequence[Arrival]


@dataclass(frozen=True, slots=True)
class Try:
    """One repeat of a trace; `others` is the share of the machine that other processes took."""

    predicted: Figures
    measured: Figures
    late_p99_us: float
    others: float


@dataclass(slots=True)
class Case:
    """A trace under a policy: what was predicted for each repeat, and what it came to.

    Attributes:
        settings: of the policy, in words.
        late_p99_us: how late the load generator was in each repeat.
        others: the share of the machine that other processes took in each repeat.
    """

    load: float
    policy: str
    settings: str
    requests: int
    predicted: list[Figures] = field(default_factory=list)
    measured: list[Figures] = field(default_factory=list)
    late_p99_us: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def note(self, one: Try) -> None:
        """Add a repeat."""
        self.predicted.append(one.predicted)
        self.measured.append(one.measured)
        self.late_p99_us.append(one.late_p99_us)
        self.others.append(one.others)


@dataclass(frozen=True, slots=True)
class LaneRuns:
    """Everything that came of a plan.

    Attributes:
        capacity: requests of the mix a second, see README.
        model: as it was measured before the first request; predictions are made from what
            the lanes have learnt right before.
        hosts: what deciding costs, by policy.
    """

    plan: Plan
    capacity: float
    model: MeasuredModel
    hosts: Mapping[str, HostCosts]
    cases: Sequence[Case]


async def run_lanes(plan: Plan, log: Callable[[str], None]) -> LaneRuns:
    """Serve a trace, predict another one from what the lanes cost by then, and serve it, too.

    All that is done again if other processes were busy meanwhile: on a machine shared with
    others lanes are not as fast from minute to minute, which is nothing a prediction could know.
    """
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        loaded = await asyncio.to_thread(load_lanes, plan.backend, Path(folder), clock)
        log("warming up")
        measuring = _dispatcher(loaded, OURS, None)
        await measuring.warm_up()
        model = _through_file(_measured_model(loaded, measuring.costs), Path(folder) / "costs.json")
    capacity = capacity_of(model)
    traces = _traces(plan, model, capacity)
    log(f"capacity {capacity:.0f} requests/s; tuning")
    learnt_from = [each.before for each in traces.values()]
    settings = {name: _tune(name, model, learnt_from) for name in plan.policies}
    hosts, dispatchers = {}, {OURS: measuring}
    for name, (_, make_policy) in settings.items():
        costs = copy.deepcopy(model.costs)
        hosts[name] = await measure_host(loaded.spec, loaded, copy.deepcopy(costs), make_policy)
        dispatchers[name] = _dispatcher(loaded, make_policy, costs)
    cases = {
        load: [Case(load, name, settings[name][0], len(each.trace)) for name in plan.policies]
        for load, each in traces.items()
    }
    gc.freeze()  # what was made so far need not be looked through while requests wait
    try:
        for repeat in range(plan.repeats):
            log(f"repeat {repeat + 1} of {plan.repeats}")
            for load, pair in traces.items():
                for case in cases[load]:
                    name = case.policy
                    known = dataclasses.replace(model, host=hosts[name])
                    tries: list[Try] = []
                    while len(tries) < TRIES and (not tries or tries[-1].others > CALM):
                        tries.append(await _try(known, dispatchers[name], pair, settings[name]))
                    case.note(min(tries, key=lambda one: one.others))
    finally:
        for dispatcher in {measuring, *dispatchers.values()}:
            await dispatcher.close()
    every = [case for same_load in cases.values() for case in same_load]
    return LaneRuns(plan, capacity, model, hosts, every)


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


def _traces(plan: Plan, model: MeasuredModel, capacity: float) -> dict[float, TracePair]:
    """Get what is served at each load."""
    if plan.trace:
        half = len(plan.trace) // 2
        return {0.0: TracePair(plan.trace[:half], plan.trace[half:])}
    return {
        load: TracePair(*(_trace(plan, model, load * capacity, seed) for seed in plan.seeds))
        for load in plan.loads
    }


def _trace(plan: Plan, model: MeasuredModel, rate: float, seed: int) -> tuple[Arrival, ...]:
    bulk_ns = model.costs.typical_ns(len(model.spec.profiles) - 1, 128, bucket_of(_item(model)))
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
    return tuple(Traffic(model.spec, mix, plan.seconds, seed))


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
    loaded: LoadedModel, policy: str | Callable[[CostTable], Policy], costs: CostTable | None
) -> Dispatcher:
    return Dispatcher(
        loaded,
        SystemClock(),
        max_queue_requests=DEFAULT_MAX_QUEUE_REQUESTS,
        policy=policy,
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


async def _try(
    model: MeasuredModel, dispatcher: Dispatcher, pair: TracePair, settings: Settings
) -> Try:
    """Serve the one trace, predict from that what comes of the other, and serve it."""
    await asyncio.sleep(PAUSE_S)
    bystanders = Bystanders()
    learnt = await calibrate(model, dispatcher, pair.before)
    predicted = predict(learnt, pair.trace, settings[1])
    gc.collect()
    served = await replay(dispatcher, pair.trace)
    return Try(
        predicted,
        figures_of(served.outcomes, served.duration_ns),
        float(np.quantile(served.lateness_ns, 0.99)) / 1e3,
        bystanders.share(),
    )
