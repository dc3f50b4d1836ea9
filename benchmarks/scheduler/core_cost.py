"""What a request costs the scheduler itself, with 256 requests waiting for 8 lanes."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from lanewise.models import ModelSpec, Profile, RowRange, ShapeRange
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.costs import CostTable, bucket_of
from lanewise.scheduler.decisions import Decision, LaneId, Launch, LaunchId
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import QueuedRequest, RequestId
from lanewise.simulator.simulation import MakePolicy
from lanewise.tensors import DType, TensorSpec

BACKLOG = 256
LANES = 8
SHAPES = 4
"""Different shapes in turn, so that there is more than one queue."""

TIMEOUT_NS = 3_600_000_000_000
"""Long enough that no request expires."""


class LoadedCore:
    """A scheduler with a constant backlog, every lane busy.

    Args:
        max_queue_requests: none of the requests here is refused.
    """

    def __init__(self, make_policy: MakePolicy) -> None:
        spec = _spec()
        costs = CostTable()
        lanes = [Lane(LaneId(i), profile) for i, profile in enumerate(spec.profiles)]
        for lane in lanes:
            for rows in {1, lane.profile.rows.max}:
                for bucket in {bucket_of([(16 * (n + 1),)]) for n in range(SHAPES)}:
                    took_ns = 500_000 + 20_000 * rows + 10_000 * bucket
                    costs.record(lane.profile.index, rows, bucket, took_ns)
        self._core = Scheduler(
            spec, lanes, make_policy(costs), costs, max_queue_requests=10 * BACKLOG
        )
        self._routes = [
            self._core.router.route({"X": (1 + n % 3, 16 * (n % SHAPES + 1))}) for n in range(12)
        ]
        self._in_flight: deque[LaunchId] = deque()
        self._last_id = 0
        self._now_ns = 0
        while self._core.waiting_requests < BACKLOG:
            self._arrive()

    def serve(self, requests: int) -> int:
        """Take in at least `requests` requests, and end launches to make room; count them."""
        before = self._last_id
        while self._last_id - before < requests:
            self._now_ns += 100_000
            self._note(self._core.finish(self._in_flight.popleft(), self._now_ns))
            while self._core.waiting_requests < BACKLOG:
                self._arrive()
        return self._last_id - before

    def _arrive(self) -> None:
        self._last_id += 1
        route = self._routes[self._last_id % len(self._routes)]
        request = QueuedRequest(
            RequestId(self._last_id), route, route.shapes, self._now_ns + TIMEOUT_NS
        )
        self._note(self._core.arrive(request, self._now_ns))

    def _note(self, decisions: Sequence[Decision]) -> None:
        self._in_flight.extend(one.launch_id for one in decisions if isinstance(one, Launch))


def microseconds_per_request(make_policy: MakePolicy, repeats: int = 50) -> float:
    """Measure the median time of this process for one request, from arrival to end."""
    core = LoadedCore(make_policy)
    samples = []
    for _ in range(repeats):
        began = time.perf_counter()
        count = core.serve(BACKLOG)
        samples.append((time.perf_counter() - began) / count * 1e6)
    return statistics.median(samples)


def calls_per_request(make_policy: MakePolicy, requests: int = 2000) -> float:
    """Count the calls of functions, Python's and built in, for one request: free of noise."""
    core = LoadedCore(make_policy)
    core.serve(BACKLOG)
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


def _spec() -> ModelSpec:
    def profile(index: int) -> Profile:
        most = 1 << index
        limits = ShapeRange((1, 1), (most, 32), (most, 512))
        rows = RowRange(1, most, most)
        return Profile(index, f"p{index}", {"X": limits}, rows, 2_000_000)

    x, y = (TensorSpec(name, DType.FP32, (-1, -1)) for name in "XY")
    profiles = tuple(profile(i) for i in range(LANES))
    return ModelSpec("m", "1", "simulated", (x,), (y,), True, frozenset({"X"}), profiles)
