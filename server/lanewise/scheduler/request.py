"""A request as the scheduler sees it: shapes, rows and a deadline, never tensor data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NewType

from lanewise.model.tensors import Shape
from lanewise.scheduler.routing import Route

RequestId = NewType("RequestId", int)

DEFAULT_TARGET_NS = 1_000_000_000
"""A request with neither deadline nor latency target goes behind those due within a second, and
before those due later: so it is never starved."""

PRIORITY_STEP_NS = 100_000_000
"""What one level of priority is worth: a request goes before those of the next level that came
up to this much earlier with the same target. So none of them is starved either."""


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """One ModelInfer call: rows that travel together.

    Attributes:
        route: which profiles can run its shapes, and its rows.
        stack_key: requests may share a launch if their keys are equal.
        deadline_ns: on the monotonic clock; None for a request that can wait for ever.
        target_ns: how long it should take from arrival, if it has no deadline.
        priority: 1 for the most important.
        padded_key: requests may also share a launch, padded to the longest of them, if these
            keys are equal and not None.
    """

    request_id: RequestId
    route: Route
    stack_key: Hashable
    deadline_ns: int | None = None
    target_ns: int = DEFAULT_TARGET_NS
    priority: int = 1
    padded_key: Hashable = None


@dataclass(frozen=True, slots=True)
class ArrivedRequest:
    """A request as it came, for whoever keeps a record: what was asked for, never its data.

    Attributes:
        shapes: of every input of the model, by name, rows included.
        at_ns, deadline_ns: on the monotonic clock.
        target_ns: how long it should take, if it has no deadline.
        pin: name or index of the only profile allowed; None for any.
    """

    shapes: Mapping[str, Shape]
    at_ns: int
    deadline_ns: int | None = None
    target_ns: int = DEFAULT_TARGET_NS
    priority: int = 1
    pin: str | int | None = None
