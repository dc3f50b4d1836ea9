"""The best possible schedule of a few requests, found by looking at all of them.

The schedule knows every request beforehand. It is for a device that runs one launch at a time,
for requests that are not torn apart, and for launches whose time depends on their rows and shapes
alone; `one_at_a_time` restricts a policy to the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.scheduler import devices
from benchmarks.scheduler.scenarios import ROWS, SHARES
from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.costs.file import MeasuredModel
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.policy.interface import Policy
from lanewise.scheduler.request import End, Launch, Request
from lanewise.simulator.simulation import MakePolicy, simulate
from lanewise.simulator.traffic import Arrival

MAX_REQUESTS = 10
"""Requests of a trace; the search tries up to 3 to that power of pairs of disjoint sets."""

SLACK = (1.2, 5.0)
"""Least and most time to the deadline, of what the request takes alone."""

LOAD = (0.5, 2.0)
"""Least and most load of a trace, of what the device can do one request at a time."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the search sees it."""

    arrival_ns: int
    deadline_ns: int
    rows: int
    shape: tuple[int, ...]


LaunchNs = Callable[[int, tuple[int, ...]], int | None]
"""The time of a launch of so many rows of a shape; None if no lane takes so many."""


def most_on_time(jobs: Sequence[Job], launch_ns: LaunchNs) -> int:
    """Count the jobs that the best schedule completes by their deadlines.

    Dynamic programming over sets of jobs: for each set that can be completed on time, the
    earliest time at which the device is free again. Nothing else of the past matters, and earlier
    is never worse, because the device can wait.
    """
    batches = list(_batches(jobs, launch_ns))
    free_ns: dict[int, int] = {0: 0}
    for done in range(1 << len(jobs)):  # a set comes after all its subsets
        if done not in free_ns:
            continue
        for members, arrived_ns, took_ns, deadline_ns in batches:
            end_ns = max(free_ns[done], arrived_ns) + took_ns
            if done & members or end_ns > deadline_ns:
                continue
            both = done | members
            if end_ns < free_ns.get(both, end_ns + 1):
                free_ns[both] = end_ns
    return max(done.bit_count() for done in free_ns)


def _batches(jobs: Sequence[Job], launch_ns: LaunchNs) -> Iterator[tuple[int, int, int, int]]:
    """Iterate over the launches that could be on time if they had the device for themselves.

    Yields:
        The set of jobs, when the last of them arrives, how long the launch takes, and the
        first deadline.
    """
    for members in range(1, 1 << len(jobs)):
        batch = [job for i, job in enumerate(jobs) if members >> i & 1]
        if any(job.shape != batch[0].shape for job in batch):
            continue
        took_ns = launch_ns(sum(job.rows for job in batch), batch[0].shape)
        arrived_ns = max(job.arrival_ns for job in batch)
        deadline_ns = min(job.deadline_ns for job in batch)
        if took_ns is not None and arrived_ns + took_ns <= deadline_ns:
            yield members, arrived_ns, took_ns, deadline_ns


class _OneAtATime:
    """A policy that is asked only when nothing runs."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.wakeup_ns: int | None = None

    def choose(self, backlog: Backlog, now_ns: int) -> Launch | End | None:
        self.wakeup_ns = None
        if any(lane.in_flight for lane in backlog.lanes):
            return None
        choice = self._policy.choose(backlog, now_ns)
        self.wakeup_ns = self._policy.wakeup_ns
        return choice

    def needed_ns(self, backlog: Backlog, waiting: Request, now_ns: int) -> int:
        return self._policy.needed_ns(backlog, waiting, now_ns)


def one_at_a_time(make_policy: MakePolicy) -> MakePolicy:
    """Keep a policy from running lanes side by side."""

    def make(costs: CostTable) -> Policy:
        return _OneAtATime(make_policy(costs))

    return make


def mean_share(make_policies: Mapping[str, MakePolicy], traces: int) -> dict[str, float]:
    """Get the mean share that each policy completes on time of what can be, over seeded traces.

    Traces are of ResNet-50 and of two lengths of BERT in turn.
    """
    models = [
        (devices.serial(devices.resnet()), ((3, 224, 224),)),
        (devices.serial(devices.bert()), ((64,), (128,))),
    ]
    total = dict.fromkeys(make_policies, 0.0)
    for seed in range(traces):
        model, shapes = models[seed % len(models)]
        trace = _draw_trace(model, shapes, seed)
        best = most_on_time([_job(one) for one in trace], _launch_times(model))
        for name, make_policy in make_policies.items():
            result = simulate(model, trace, one_at_a_time(make_policy))
            total[name] += sum(kind.met for kind in result.outcomes.kinds.values()) / best
    return {name: each / traces for name, each in total.items()}


def _launch_times(model: MeasuredModel) -> LaunchNs:
    return lambda rows, shape: devices.launch_ns(model, rows, [shape])


def _job(arrival: Arrival) -> Job:
    (shape,) = arrival.shapes
    assert arrival.timeout_ns is not None
    return Job(arrival.at_ns, arrival.at_ns + arrival.timeout_ns, shape[0], shape[1:])


def _draw_trace(
    model: MeasuredModel, shapes: Sequence[tuple[int, ...]], seed: int
) -> list[Arrival]:
    draw = random.Random(seed)
    load = draw.uniform(*LOAD)
    times_ns = _launch_times(model)
    trace = []
    at_ns = 0
    for _ in range(draw.randint(MAX_REQUESTS // 2, MAX_REQUESTS)):
        (kind,) = draw.choices(tuple(SHARES), tuple(SHARES.values()))
        least, mode, most = ROWS[kind]
        rows = round(draw.triangular(least, most, mode))
        shape = draw.choice(shapes)
        alone_ns = times_ns(rows, shape)
        assert alone_ns is not None
        timeout_ns = round(alone_ns * draw.uniform(*SLACK))
        trace.append(Arrival(at_ns, ((rows, *shape),), timeout_ns))
        at_ns += round(draw.expovariate(load / alone_ns))
    return trace
