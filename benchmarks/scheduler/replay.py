"""A trace on real lanes, in open loop: requests come when due, whatever became of others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.scheduler.pacer import pace
from lanewise.errors import DeadlineExpired, Overloaded
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array, Shape
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.request import RequestOptions
from lanewise.simulator.outcomes import Outcomes
from lanewise.simulator.traffic import Arrival


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a trace on real lanes.

    Attributes:
        outcomes: latencies count from when a request was due, not from when it was submitted.
        duration_ns: from when the first request was due until the last ended.
        lateness_ns: how long after it was due each request was submitted.
        back_ns: how long it took from when the last launch of each request was seen to be over
            until its caller went on, for those that got outputs.
    """

    outcomes: Outcomes
    duration_ns: int
    lateness_ns: Sequence[int]
    back_ns: Sequence[int]


class Inputs:
    """Arrays to send, one for each shape: what they hold changes nothing about what they cost."""

    def __init__(self, spec: ModelSpec) -> None:
        self._tensors = {tensor.name: tensor for tensor in spec.inputs}
        self._made: dict[tuple[str, Shape], Array] = {}

    def of(self, shapes: Sequence[Shape]) -> Mapping[str, Array]:
        """Get inputs of these shapes, in the model's order; only to be read."""
        names = zip(self._tensors, shapes, strict=True)
        return {name: self._get(name, shape) for name, shape in names}

    def _get(self, name: str, shape: Shape) -> Array:
        if (name, shape) not in self._made:
            dtype = self._tensors[name].dtype.numpy
            # Not zeros: the kernel maps those to one page, which is copied faster than data.
            self._made[name, shape] = np.ones(shape, dtype)
        return self._made[name, shape]


async def replay(dispatcher: Dispatcher, trace: Sequence[Arrival]) -> Replay:
    """Send every request of `trace` when it is due, and wait until all have ended.

    Raises:
        Exception: whatever a request got but outputs, a refusal or an expiry.
    """
    inputs = Inputs(dispatcher.spec)
    for arrival in trace:
        inputs.of(arrival.shapes)
    run = _Run(dispatcher, inputs)
    began_ns = trace[0].at_ns

    async with asyncio.TaskGroup() as requests:

        def send(index: int, base_ns: int) -> None:
            # A coroutine of its own for each request, as the gRPC server has.
            requests.create_task(run.serve(index, trace[index], base_ns))

        base_ns = await pace([arrival.at_ns for arrival in trace], send)
    duration_ns = run.ended_ns - base_ns - began_ns
    return Replay(run.outcomes, duration_ns, run.lateness_ns, run.back_ns)


class _Run:
    """Follows the requests of one replay."""

    def __init__(self, dispatcher: Dispatcher, inputs: Inputs) -> None:
        self._dispatcher = dispatcher
        self._inputs = inputs
        self.outcomes = Outcomes()
        self.lateness_ns: list[int] = []
        self.back_ns: list[int] = []
        self.ended_ns = 0

    async def serve(self, number: int, arrival: Arrival, base_ns: int) -> None:
        """Submit one request and record its end."""
        due_ns, sent_ns = base_ns + arrival.at_ns, time.monotonic_ns()
        self.lateness_ns.append(sent_ns - due_ns)
        self.outcomes.arrive(number, arrival, arrival.shapes[0][0])
        options: dict[str, Any] = {"profile": arrival.pin, "priority": arrival.priority}
        if arrival.timeout_ns is not None:
            options["deadline_ns"] = due_ns + arrival.timeout_ns
        try:
            result = await self._dispatcher.submit(
                self._inputs.of(arrival.shapes), RequestOptions(**options)
            )
        except DeadlineExpired:
            self.outcomes.expire(number)
        except Overloaded:
            self.outcomes.refuse(number)
        else:
            now_ns = time.monotonic_ns()
            self.outcomes.complete(number, now_ns - base_ns)
            over_ns = max(one.queue_ns + one.execution_ns for one in result.launches)
            self.back_ns.append(max(0, now_ns - sent_ns - over_ns))
        self.ended_ns = time.monotonic_ns()
