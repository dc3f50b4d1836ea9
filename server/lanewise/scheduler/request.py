"""A request on its way, and what is decided about it. Plain records of shapes and times."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lanewise.model.regions import NO_PLACEMENTS, RegionSlice
from lanewise.scheduler.routing import Route

if TYPE_CHECKING:
    from lanewise.scheduler.costs.table import Bucket
    from lanewise.scheduler.lane import Lane

DEFAULT_TARGET_NS = 1_000_000_000
"""A request with neither deadline nor latency target goes behind those due within a second, and
before those due later: so it is never starved."""

PRIORITY_STEP_NS = 100_000_000
"""What one level of priority is worth: a request goes before those of the next level that came
up to this much earlier with the same target. So none of them is starved either."""


class RequestOptions(NamedTuple):
    """What a caller may ask for beside the inputs.

    Attributes:
        deadline_ns: on the monotonic clock; the request never starts after it. None: it can wait
            forever.
        profile: name or index of the only profile allowed; None for any.
        priority: 1 for the most important; a level that the model does not have, such as 0, means
            the model's default.
        target_ns: how long it should take if it has no deadline; None for the model's target.
        placements: by name, where to write outputs that shall not come back.
    """

    deadline_ns: int | None = None
    profile: str | int | None = None
    priority: int = 0
    target_ns: int | None = None
    placements: Mapping[str, RegionSlice] = NO_PLACEMENTS


NO_OPTIONS = RequestOptions()


@dataclass(slots=True, eq=False)
class Request:
    """One ModelInfer call: rows that travel together. Compared by identity.

    Attributes:
        route: which profiles can run its shapes, and its rows.
        stack_key: requests may share a launch if their keys are equal.
        deadline_ns: on the monotonic clock; None for a request that can wait forever.
        target_ns: how long it should take from arrival, if it has no deadline.
        priority: 1 for the most important.
        padded_key: requests may also share a launch, padded to the longest of them, if these
            keys are equal and not None.
        payload: the caller's; the scheduler never looks at it.
        arrived_ns: when it was admitted; this and the rest are the scheduler's.
        number: its place in the order of arrival.
        sequence: the same, and a new one, at the end, each time a part of it was launched.
        due_ns: what it is ordered by: when it should be done, later for a lower priority.
        fits: of its route, the profiles that still have a lane.
        owners: indexes of the profiles made for its rows left; see `Router.owners`.
        next_row: the first row that was not launched.
        rows_left: rows that were not launched.
        launches: launches in flight, or to be repeated, with rows of it.
    """

    route: Route
    stack_key: Hashable
    deadline_ns: int | None = None
    target_ns: int = DEFAULT_TARGET_NS
    priority: int = 1
    padded_key: Hashable = None
    payload: Any = None
    arrived_ns: int = 0
    number: int = 0
    sequence: int = 0
    due_ns: int = 0
    fits: tuple[int, ...] = ()
    owners: tuple[int, ...] = ()
    next_row: int = 0
    rows_left: int = 0
    launches: int = 0

    def is_late(self, now_ns: int) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_ns is not None and self.deadline_ns <= now_ns


Part = tuple[Request, int, int]
"""Consecutive rows of a request in one launch: the request, the first row, how many."""


class LaunchReason(enum.Enum):
    """Why a launch did not wait any longer for more rows."""

    IDLE = "idle"  # nothing else was running
    FULL = "full"  # more rows would not make it cheaper by the row
    DELAY = "delay"  # the oldest request had waited the profile's queue delay
    DEADLINE = "deadline"  # the most urgent request would have become late
    DRAIN = "drain"  # nothing more will come
    REPEAT = "repeat"  # the launch that its requests shared with others failed


@dataclass(slots=True, eq=False)
class Launch:
    """Run these rows together on this lane, now. Chosen by the policy, completed by the core.

    Attributes:
        lane: has room.
        parts: requests of one queue, or of several whose `padded_key` is equal, with 1 or more of
            their next rows each, or rows to be repeated; in all no more than the lane's profile
            admits. The longest of them decides on the length that is executed.
        predicted_ns: from now until its outputs can be read; 0 if the policy cannot tell.
        slowdown: how many times longer than alone it will run, because of other lanes.
        launched_ns: when it was decided.
        rows: the sum over the parts.
        padded_rows: rows to execute, >= rows.
        length: to execute, see `Padding`, no less than that of any request; 0 without padding.
        bucket: of the shapes to execute.
    """

    lane: Lane
    parts: Sequence[Part]
    reason: LaunchReason
    predicted_ns: int = 0
    slowdown: float = 1.0
    launched_ns: int = 0
    rows: int = 0
    padded_rows: int = 0
    length: int = 0
    bucket: Bucket = 0


@dataclass(slots=True, eq=False)
class End:
    """The request has ended: each request does so once.

    Attributes:
        error: why it was not run to its end; None if every row of it has been run.
        was_admitted: whether it waited; False for one that was refused on arrival.
        needed_ns: what it would have taken to run it from then on, if that was the reason.
        was_run: whether it ended because a launch with rows of it failed, or did not return.
    """

    request: Request
    error: BaseException | None = None
    was_admitted: bool = True
    needed_ns: int = 0
    was_run: bool = False


Decision = Launch | End
"""Each is carried out once, in the order given."""
