"""What the scheduler asks for. Each decision is carried out once, in the order given."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NewType

from lanewise.errors import ServingError
from lanewise.scheduler.costs.table import Bucket
from lanewise.scheduler.request import RequestId

LaneId = NewType("LaneId", int)
LaunchId = NewType("LaunchId", int)


class LaunchReason(enum.Enum):
    """Why a launch did not wait any longer for more rows."""

    IDLE = "idle"  # nothing else was running
    FULL = "full"  # more rows would not make it cheaper by the row
    DELAY = "delay"  # the oldest request had waited the profile's queue delay
    DEADLINE = "deadline"  # the most urgent request would have become late
    DRAIN = "drain"  # nothing more will come


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive rows of one request in one launch."""

    request_id: RequestId
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Run these rows together on this lane, now.

    Attributes:
        rows: the sum over the slices.
        padded_rows: rows to execute, >= rows.
        length: to execute, see `Padding`, no less than that of any request; 0 without padding.
        bucket: of the shapes to execute.
        predicted_ns: from now until its outputs can be read; 0 if unknown.
        slowdown: how many times longer than alone it will run, because of other lanes.
    """

    launch_id: LaunchId
    lane_id: LaneId
    slices: tuple[Slice, ...]
    rows: int
    padded_rows: int
    reason: LaunchReason
    length: int = 0
    bucket: Bucket = 0
    predicted_ns: int = 0
    slowdown: float = 1.0


@dataclass(frozen=True, slots=True)
class Complete:
    """Every row of the request has been run."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Fail:
    """A launch with rows of the request failed; its other rows will not be run."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Reject:
    """The request will not be run, or not to its end; the error says why."""

    request_id: RequestId
    error: ServingError


@dataclass(frozen=True, slots=True)
class Expire:
    """Rows of the request that wait will not be run.

    Attributes:
        needed_ns: what it would have taken to run them, if that is more than the time left;
            0 if the deadline has passed.
    """

    request_id: RequestId
    needed_ns: int = 0


Decision = Launch | Complete | Fail | Reject | Expire
