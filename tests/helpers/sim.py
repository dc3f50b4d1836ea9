"""The whole scheduler core on a virtual clock, with lanes that only take time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Container, Mapping, Sequence

from lanewise.clock import NS_PER_MS
from lanewise.errors import DeadlineExpired
from lanewise.model.spec import ModelSpec, Profile, RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, DType, Shape, TensorSpec
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.costs.table import CostTable, bucket_of
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.policy.cost_aware import CostAwarePolicy
from lanewise.scheduler.policy.interface import Policy
from lanewise.scheduler.request import DEFAULT_TARGET_NS, Decision, End, Launch, Request


def profile(
    index: int,
    rows: tuple[int, int, int],
    item: Sequence[tuple[int, int, int]] = (),
    *,
    name: str = "",
    delay_ms: float = 2.0,
) -> Profile:
    """A profile for one input X of (rows, *item), every entry (min, opt, max)."""
    dims = (rows, *item)
    x = ShapeRange(*(tuple(dim[i] for dim in dims) for i in range(3)))
    return Profile(index, name or f"p{index}", {"X": x}, RowRange(*rows), int(delay_ms * NS_PER_MS))


def model(*profiles: Profile) -> ModelSpec:
    """A batching model with one input X and one output Y of the same shape."""
    shape = (DYNAMIC,) * len(profiles[0].ranges["X"].min)
    x = TensorSpec("X", DType.FP32, shape)
    y = TensorSpec("Y", DType.FP32, shape)
    return ModelSpec("m", "1", "simulated", (x,), (y,), True, frozenset({"X"}), profiles)


def mission_model(delay_ms: float = 2.0) -> ModelSpec:
    """Online, dynamic and offline lanes of one-row, four-row and 128-row traffic."""
    return model(
        profile(0, (1, 1, 1), name="online", delay_ms=delay_ms),
        profile(1, (1, 4, 32), name="dynamic", delay_ms=delay_ms),
        profile(2, (128, 128, 128), name="offline", delay_ms=delay_ms),
    )


def mission_costs() -> CostTable:
    """What launches of ResNet-50 in the lanes of `mission_model` cost on an NVIDIA H200."""
    measured_ms = {
        0: {1: 0.82},
        1: {1: 0.79, 2: 0.98, 4: 0.88, 8: 1.03, 16: 1.33, 32: 2.09},
        2: {128: 5.42},
    }
    costs = CostTable()
    for profile_index, by_rows in measured_ms.items():
        for rows, ms in by_rows.items():
            costs.record(profile_index, rows, bucket_of([()]), round(ms * NS_PER_MS))
    return costs


class LaunchFailed(Exception):
    """What the requests of a launch get that failed."""


class Simulation:
    """Drives a Scheduler through arrivals, cancels and finishes; writes a readable log.

    Args:
        exec_ms: execution time of padded rows on a profile index.
        fails: whether the n-th launch of all (from 0) fails.
        bad: ids of requests that fail every launch they are part of.
        lanes: the profile index of each lane; None for one lane a profile.
        depth: launches in flight on a lane.
        row_counts: of each lane, those within its profile, and its maximum; empty for any.
        policy: made from the cost table, which was told `exec_ms` of every lane at the numbers of
            rows of its profile, at the opt of the other dimensions.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        exec_ms: Callable[[int, int], float] = lambda _profile, rows: 1.0 + rows / 10,
        max_queue_requests: int = 1000,
        fails: Callable[[int], bool] = lambda _n: False,
        bad: Container[int] = (),
        lanes: Sequence[int] | None = None,
        depth: int = 1,
        row_counts: tuple[int, ...] = (),
        policy: Callable[[CostTable], Policy] = CostAwarePolicy,
    ) -> None:
        self.spec = spec
        self.costs = CostTable()
        lane_profiles = range(len(spec.profiles)) if lanes is None else lanes
        self.core = Scheduler(
            spec,
            [
                Lane(
                    LaneId(i),
                    spec.profiles[index],
                    depth,
                    _within(spec.profiles[index].rows, row_counts),
                )
                for i, index in enumerate(lane_profiles)
            ],
            policy(self.costs),
            self.costs,
            max_queue_requests=max_queue_requests,
        )
        for lane in self.core.lanes:
            self._measure(lane, exec_ms)
        self._lost: set[int] = set()
        self._free_ns: dict[int, int] = {}
        self.now_ns = 0
        self.log: list[str] = []
        self.launches: list[Launch] = []
        self.launched_at_ns: list[int] = []
        self.ended_at_ns: dict[Launch, int] = {}
        self.ends: dict[int, list[str]] = {}
        self.requests: dict[int, Request] = {}
        self._exec_ms = exec_ms
        self._fails = fails
        self._bad = bad
        self._ids = itertools.count()
        self._order = itertools.count()
        self._events: list[tuple[int, int, Callable[[], list[Decision]]]] = []

    def arrive(
        self,
        at_ms: float,
        rows: int,
        item: Shape = (),
        *,
        timeout_ms: float | None = None,
        target_ms: float = DEFAULT_TARGET_NS / NS_PER_MS,
        priority: int = 1,
        pin: str | int | None = None,
    ) -> int:
        """Have a request of shape (rows, *item) arrive; its id counts from 0."""
        request_id = next(self._ids)
        route = self.core.router.route({"X": (rows, *item)}, pin)
        at_ns = int(at_ms * NS_PER_MS)
        deadline_ns = None if timeout_ms is None else at_ns + int(timeout_ms * NS_PER_MS)
        target_ns = int(target_ms * NS_PER_MS)
        request = Request(
            route,
            route.shapes,
            deadline_ns,
            target_ns,
            priority,
            route.of_any_length,
            payload=request_id,
        )
        self.requests[request_id] = request
        self.ends[request_id] = []
        self.at(at_ms, lambda: self.core.arrive(request, self.now_ns))
        return request_id

    def cancel(self, at_ms: float, request_id: int) -> None:
        """Have the client give a request up."""

        def give_up() -> list[Decision]:
            if not self.ends[request_id]:
                self._end(request_id, "cancel")
            return self.core.cancel(self.requests[request_id], self.now_ns)

        self.at(at_ms, give_up)

    def retire(self, at_ms: float, lane_id: int) -> None:
        """Have a lane lose its runner: what is in flight on it fails, or else its next launch."""

        def lose() -> list[Decision]:
            self._lost.add(lane_id)
            decisions = []
            for launch in list(self.core.lanes[lane_id].in_flight):
                self.ended_at_ns[launch] = self.now_ns
                decisions += self.core.retire(launch, self.now_ns, LaunchFailed)
            return decisions

        self.at(at_ms, lose)

    def at(self, at_ms: float, action: Callable[[], list[Decision]]) -> None:
        self._push(int(at_ms * NS_PER_MS), action)

    def run(self) -> None:
        """Run until nothing is left to happen; check the core's invariants at every step."""
        while True:
            wakeup_ns = self.core.next_wakeup_ns()
            if wakeup_ns is not None and (not self._events or wakeup_ns < self._events[0][0]):
                assert wakeup_ns >= self.now_ns, "the core asked to be woken in the past"
                self.now_ns = wakeup_ns
                decisions = self.core.tick(self.now_ns)
                next_ns = self.core.next_wakeup_ns()
                assert decisions or next_ns is None or next_ns > self.now_ns, "a busy wait"
            elif self._events:
                self.now_ns, _, action = heapq.heappop(self._events)
                decisions = action()
            else:
                return
            for decision in decisions:
                self._carry_out(decision)
            self.core.check_invariants()
            wakeup_ns = self.core.next_wakeup_ns()
            if wakeup_ns is None or wakeup_ns > self.now_ns:
                assert not self.core.tick(self.now_ns), "something that was due was left undone"

    def ends_of(self, kind: str) -> list[int]:
        """The requests that ended in `kind`: complete, fail, reject, expire or cancel."""
        return [request_id for request_id, ends in self.ends.items() if ends == [kind]]

    @property
    def starts(self) -> list[str]:
        """The lines of the log that tell of launches."""
        return [line for line in self.log if " launch " in line]

    @property
    def mean_batch(self) -> float:
        """Mean number of request parts in a launch."""
        return sum(len(launch.parts) for launch in self.launches) / len(self.launches)

    def _measure(self, lane: Lane, exec_ms: Callable[[int, int], float]) -> None:
        """Put into the cost table what a warm-up would find out."""
        limits = lane.profile.rows
        bucket = bucket_of([lane.profile.ranges["X"].opt[1:]])
        for rows in lane.row_counts or (limits.min, limits.opt, limits.max):
            took_ns = int(exec_ms(lane.profile.index, rows) * NS_PER_MS)
            self.costs.record(lane.profile.index, rows, bucket, took_ns)

    def _push(self, at_ns: int, action: Callable[[], list[Decision]]) -> None:
        heapq.heappush(self._events, (at_ns, next(self._order), action))

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Launch():
                self._launch(decision)
            case End(request=request, error=None):
                self._end(request.payload, "complete")
            case End(request=request, error=LaunchFailed()):
                self._end(request.payload, "fail")
            case End(request=request, error=DeadlineExpired(), needed_ns=needed_ns):
                needs = f"needs {needed_ns / NS_PER_MS:.3f} ms" if needed_ns else ""
                self._end(request.payload, "expire", needs)
            case End(request=request, error=error):
                self._end(request.payload, "reject", type(error).__name__)

    def _launch(self, launch: Launch) -> None:
        lane = launch.lane
        failed = self._fails(len(self.launches)) or any(
            request.payload in self._bad for request, _, _ in launch.parts
        )
        self.launches.append(launch)
        self.launched_at_ns.append(self.now_ns)
        parts = ",".join(f"{request.payload}" for request, _, _ in launch.parts)
        self._write(
            f"launch {lane.profile.name} rows={launch.rows} padded={launch.padded_rows} "
            f"requests={parts} {launch.reason.value}"
        )
        took_ns = int(self._exec_ms(lane.profile.index, launch.padded_rows) * NS_PER_MS)

        def finish() -> list[Decision]:
            self.ended_at_ns.setdefault(launch, self.now_ns)
            if launch not in lane.in_flight:
                return []
            if lane.lane_id in self._lost:
                return self.core.retire(launch, self.now_ns, LaunchFailed)
            return self.core.finish(launch, self.now_ns, LaunchFailed if failed else None)

        # Launches on one lane are executed one after the other.
        starts_ns = max(self.now_ns, self._free_ns.get(lane.lane_id, 0))
        self._free_ns[lane.lane_id] = starts_ns + took_ns
        self._push(starts_ns + took_ns, finish)

    def _end(self, request_id: int, kind: str, detail: str = "") -> None:
        self.ends[request_id].append(kind)
        self._write(f"{kind} {request_id} {detail}".rstrip())

    def _write(self, line: str) -> None:
        self.log.append(f"{self.now_ns / NS_PER_MS:.3f} {line}")


def _within(rows: RowRange, counts: tuple[int, ...]) -> tuple[int, ...]:
    """The counts that a lane of these rows may have, and its largest."""
    if not counts:
        return ()
    return tuple(sorted({rows.max} | {n for n in counts if rows.min <= n <= rows.max}))


def by_profile(exec_ms: Mapping[str, float], spec: ModelSpec) -> Callable[[int, int], float]:
    """Execution times that depend on the profile's name alone."""
    return lambda index, _rows: exec_ms[spec.profiles[index].name]
