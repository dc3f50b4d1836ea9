"""A request as the scheduler sees it: shapes, rows and a deadline, never tensor data."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NewType

from lanewise.scheduler.routing import Route

RequestId = NewType("RequestId", int)


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """One ModelInfer call: rows that travel together.

    Attributes:
        route: which profiles can run its shapes, and its rows.
        stack_key: requests may share a launch only if their keys are equal.
        deadline_ns: on the monotonic clock; None for a request that can wait for ever.
    """

    request_id: RequestId
    route: Route
    stack_key: Hashable
    deadline_ns: int | None = None
