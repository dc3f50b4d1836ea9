"""The scheduler on a virtual clock: the same code as in the server, on a virtual device."""

from __future__ import annotations

import copy
import functools
import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lanewise.errors import ServingError
from lanewise.model.tensors import Shape
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.costs.file import MeasuredModel
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.policy.interface import Policy
from lanewise.scheduler.request import DEFAULT_TARGET_NS, Decision, Launch, Request
from lanewise.scheduler.routing import CACHED_ROUTES, Route
from lanewise.settings.server import DEFAULT_MAX_QUEUE_REQUESTS
from lanewise.simulator.device import Device, Ended, Work
from lanewise.simulator.outcomes import Outcomes
from lanewise.simulator.traffic import Arrival

_NOTHING: tuple[int | None, Arrival | None] = (None, None)

MakePolicy = Callable[[CostTable], Policy]


@dataclass(frozen=True, slots=True)
class Options:
    """How a simulation differs from the plainest one.

    Attributes:
        max_queue_requests: see `Scheduler`.
        learned: whether the scheduler begins with the measured costs, or without any.
        believed: costs to begin with instead, which launches then put right; only read.
        varied: whether launches take one of the kept times, or always the median.
        seed: of what is drawn.
        checked: whether the scheduler's invariants are checked at every step; slow.
    """

    max_queue_requests: int = DEFAULT_MAX_QUEUE_REQUESTS
    learned: bool = True
    believed: CostTable | None = None
    varied: bool = False
    seed: int = 0
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a simulation.

    Attributes:
        began_ns: when the first request arrived.
        ended_ns: when the last request or launch was over.
        lanes: with their counters.
        busy: for each lane, when it began to execute something and when that was over, in turn.
        steps: how often something happened: the measure of the simulator's own work.
    """

    began_ns: int
    ended_ns: int
    lanes: Sequence[Lane]
    busy: Sequence[Sequence[int]]
    outcomes: Outcomes
    steps: int


def simulate(
    model: MeasuredModel,
    traffic: Iterable[Arrival],
    make_policy: MakePolicy,
    options: Options = Options(),
) -> Result:
    """Serve `traffic` to its end and tell what came of it.

    Args:
        model: only read; what the scheduler learns does not change it.
        traffic: in order of arrival, with the model's inputs.
        options: the plainest simulation by default.
        make_policy: called with the scheduler's own cost table. A policy with an attribute
            `one_context` that is true runs on one execution context, which switches
            profiles; others have one for each lane.
    """
    return _Simulation(model, make_policy, options).run(traffic)


class _Simulation:
    """One run: a scheduler, a device and the thread that decides, which does one thing at a time.

    What happens while the thread is busy is seen when it is free again, in the order of when
    it happened. With host costs of 0 it is never busy.
    """

    def __init__(self, model: MeasuredModel, make_policy: MakePolicy, options: Options) -> None:
        believed = CostTable()
        if options.learned:
            believed = copy.deepcopy(options.believed or model.costs)
        policy = make_policy(believed)
        self._scheduler = Scheduler(
            model.spec,
            model.new_lanes(),
            policy,
            believed,
            max_queue_requests=options.max_queue_requests,
        )
        self._device = Device(
            self._scheduler.lanes,
            model.costs,
            one_context=getattr(policy, "one_context", False),
            draw=random.Random(options.seed) if options.varied else None,
        )
        self._names = [tensor.name for tensor in model.spec.inputs]
        self._host = model.host
        self._draw = random.Random(options.seed) if options.varied else None
        self._checked = options.checked
        self._outcomes = Outcomes()
        # The same few shapes come again and again: what follows from them is found once.
        self._route = functools.lru_cache(CACHED_ROUTES)(self._find_route)
        self._at_length = functools.lru_cache(CACHED_ROUTES)(self._scheduler.router.at_length)
        self._ended: deque[Ended] = deque()
        self._free_ns = 0
        self._last_id = 0
        self._timer_ns: int | None = None
        self._timer_late_ns = 0

    def run(self, traffic: Iterable[Arrival]) -> Result:
        arrivals = self._seen(traffic)
        seen_ns, arrival = next(arrivals, _NOTHING)
        began_ns = arrival.at_ns if arrival else 0
        self._free_ns = began_ns
        steps = 0
        while True:
            ended_ns = self._ended[0].at_ns if self._ended else self._device.next_end_ns
            coming = (seen_ns, ended_ns, self._woken_ns())
            at_ns = min((each for each in coming if each is not None), default=None)
            if at_ns is None:
                break
            steps += 1
            if ended_ns == at_ns:
                self._finish(ended_ns)
            elif arrival is not None and seen_ns == at_ns:
                self._arrive(arrival, at_ns)
                seen_ns, arrival = next(arrivals, _NOTHING)
            else:
                self._wake(at_ns)
            if self._checked:
                self._scheduler.check_invariants()
        assert not self._outcomes.open_requests, "requests were forgotten"
        return Result(
            began_ns,
            self._free_ns,
            self._scheduler.lanes,
            self._device.busy,
            self._outcomes,
            steps,
        )

    def _be_free(self, at_ns: int, busy_ns: int = 0) -> None:
        """Go on to when the thread sees what happened at `at_ns`, and is done with `busy_ns`."""
        self._free_ns = max(self._free_ns, at_ns) + busy_ns
        self._ended.extend(self._device.advance(self._free_ns))

    def _some_of(self, samples_ns: Sequence[int]) -> int:
        """Draw one of the samples; 0 if there are none or nothing is drawn."""
        return self._draw.choice(samples_ns) if self._draw and samples_ns else 0

    def _seen(self, traffic: Iterable[Arrival]) -> Iterator[tuple[int, Arrival]]:
        """Iterate over when the thread could see arrivals, and over these, in that order."""
        coming: list[tuple[int, int, Arrival]] = []  # a heap
        for number, arrival in enumerate(traffic):
            while coming and coming[0][0] <= arrival.at_ns:
                seen_ns, _, seen = heapq.heappop(coming)
                yield seen_ns, seen
            late_ns = self._some_of(self._host.late_ns)
            heapq.heappush(coming, (arrival.at_ns + late_ns, number, arrival))
        for seen_ns, _, seen in sorted(coming):
            yield seen_ns, seen

    def _woken_ns(self) -> int | None:
        """Tell when the thread looks again if nothing happens; the same until that changes."""
        at_ns = self._scheduler.next_wakeup_ns()
        if at_ns is None or not self._host.late_ns:
            return at_ns
        if at_ns != self._timer_ns:
            self._timer_ns, self._timer_late_ns = at_ns, self._some_of(self._host.late_ns)
        return at_ns + self._timer_late_ns

    def _wake(self, at_ns: int) -> None:
        self._be_free(at_ns)
        decisions = self._scheduler.tick(self._free_ns)
        if not decisions:
            next_ns = self._scheduler.next_wakeup_ns()
            # Virtual time would stand still forever.
            assert next_ns is None or next_ns > self._free_ns, "the policy is woken for nothing"
        self._carry_out(decisions)

    def _finish(self, at_ns: int) -> None:
        self._be_free(at_ns)
        launch, _ = self._ended.popleft()
        self._carry_out(self._scheduler.finish(launch, self._free_ns))

    def _arrive(self, arrival: Arrival, seen_ns: int) -> None:
        self._be_free(seen_ns, self._host.request_ns)
        self._last_id += 1
        try:
            route = self._route(arrival.shapes, arrival.pin)
        except ServingError:  # the trace is of a model with other profiles
            self._outcomes.arrive(self._last_id, arrival, 1)
            self._outcomes.refuse(self._last_id)
            return
        self._outcomes.arrive(self._last_id, arrival, route.rows)
        timeout_ns = arrival.timeout_ns
        request = Request(
            route,
            route.shapes,
            None if timeout_ns is None else arrival.at_ns + timeout_ns,
            DEFAULT_TARGET_NS if arrival.target_ns is None else arrival.target_ns,
            arrival.priority,
            route.of_any_length,
            payload=self._last_id,
        )
        self._carry_out(self._scheduler.arrive(request, self._free_ns), request)

    def _find_route(self, shapes: tuple[Shape, ...], pin: str | int | None) -> Route:
        return self._scheduler.router.route(dict(zip(self._names, shapes, strict=True)), pin)

    def _carry_out(self, decisions: Sequence[Decision], arrived: Request | None = None) -> None:
        for decision in decisions:
            if isinstance(decision, Launch):
                self._launch(decision)
                continue
            number: int = decision.request.payload
            if decision.error is None:
                back_ns = self._some_of(self._host.back_ns)
                self._outcomes.complete(number, self._free_ns + back_ns)
            elif decision.request is arrived:
                self._outcomes.refuse(number)
            else:
                self._outcomes.expire(number)

    def _launch(self, launch: Launch) -> None:
        self._be_free(self._free_ns, self._host.launch_ns)
        shapes = launch.parts[0][0].route.shapes
        executed = self._at_length(shapes, launch.length) if launch.length else shapes
        work = Work(
            launch,
            launch.lane.lane_id,
            launch.lane.profile.index,
            launch.padded_rows,
            launch.bucket,
            executed,
        )
        self._device.start(work, self._free_ns)
