"""What a request costs the scheduler itself, with 256 requests waiting for 8 lanes."""

from __future__ import annotations

import heapq
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from lanewise.model.spec import ModelSpec, Profile, RowRange, ShapeRange
from lanewise.model.tensors import DType, Shape, TensorSpec
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.costs.table import CostTable, bucket_of
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.request import Decision, Launch, Request
from lanewise.simulator.simulation import MakePolicy

BACKLOG = 256
LANES = 8
SHAPES = 4
"""Different shapes in turn, so that there is more than one queue."""

TIMEOUT_NS = 3_600_000_000_000
"""Long enough that no request expires."""


class LoadedCore:
    """A scheduler with a constant backlog, every lane busy.

    Args:
        backlog: requests that wait.
    """

    def __init__(self, make_policy: MakePolicy, backlog: int = BACKLOG) -> None:
        self._backlog = backlog
        spec = _spec()
        costs = CostTable()
        lanes = [
            Lane(LaneId(i), profile, row_counts=tuple(1 << n for n in range(i + 1)))
            for i, profile in enumerate(spec.profiles)
        ]
        for lane, n in itertools.product(lanes, range(SHAPES)):
            for rows in lane.row_counts:
                costs.record(lane.profile.index, rows, bucket_of([_item(n)]), _took_ns(rows))
        self._core = Scheduler(
            spec, lanes, make_policy(costs), costs, max_queue_requests=10 * backlog
        )
        self._routes = [
            self._core.router.route({"X": (1 + n % 3, *_item(n % SHAPES))}) for n in range(12)
        ]
        self._ends: list[tuple[int, int, Launch]] = []  # a heap; the number settles ties
        self._launches = 0
        self._last_id = 0
        self._now_ns = 0
        while self._core.waiting_requests < self._backlog:
            self._arrive()

    def serve(self, requests: int) -> int:
        """Take in at least `requests` requests, and end launches to make room; count them."""
        before = self._last_id
        while self._last_id - before < requests:
            self._now_ns, _, launch = heapq.heappop(self._ends)
            self._note(self._core.finish(launch, self._now_ns))
            while self._core.waiting_requests < self._backlog:
                self._arrive()
        return self._last_id - before

    def _arrive(self) -> None:
        self._last_id += 1
        route = self._routes[self._last_id % len(self._routes)]
        request = Request(route, route.shapes, self._now_ns + TIMEOUT_NS)
        self._note(self._core.arrive(request, self._now_ns))

    def _note(self, decisions: Sequence[Decision]) -> None:
        for one in decisions:
            if isinstance(one, Launch):
                end_ns = self._now_ns + _took_ns(one.padded_rows)
                self._launches += 1
                heapq.heappush(self._ends, (end_ns, self._launches, one))


def microseconds_per_request(make_policy: MakePolicy, repeats: int = 50) -> float:
    """Measure the median time of this process for one request, from arrival to end."""
    core = LoadedCore(make_policy)
    samples = []
    for _ in range(repeats):
        began = time.perf_counter()
        count = core.serve(BACKLOG)
        samples.append((time.perf_counter() - began) / count * 1e6)
    return statistics.median(samples)


def calls_per_request(
    make_policy: MakePolicy, backlog: int = BACKLOG, requests: int = 2000
) -> float:
    """Count the calls of functions, Python's and built in, for one request: free of noise."""
    core = LoadedCore(make_policy, backlog)
    core.serve(backlog)
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    return _profiled(lambda: core.serve(requests), count, lambda: calls)


def _profiled(
    run: Callable[[], int],
    profile: Callable[[FrameType, str, Any], None],
    read: Callable[[], int],
) -> float:
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        requests = run()
    finally:
        sys.setprofile(before)
    return read() / requests


def _item(number: int) -> Shape:
    return (32 << number,)


def _took_ns(rows: int) -> int:
    """Tell how long a launch takes: always the same, so that no plan is ever out of date."""
    return 500_000 + 20_000 * rows


def _spec() -> ModelSpec:
    def profile(index: int) -> Profile:
        most = 1 << index
        limits = ShapeRange((1, 1), (most, 32), (most, 512))
        rows = RowRange(1, most, most)
        return Profile(index, f"p{index}", {"X": limits}, rows, 2_000_000)

    x, y = (TensorSpec(name, DType.FP32, (-1, -1)) for name in "XY")
    profiles = tuple(profile(i) for i in range(LANES))
    return ModelSpec("m", "1", "simulated", (x,), (y,), True, frozenset({"X"}), profiles)
