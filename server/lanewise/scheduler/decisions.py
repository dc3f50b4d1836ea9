"""What the scheduler asks for. Each decision is carried out once, in the order given."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NewType

from lanewise.errors import ServingError
from lanewise.scheduler.request import RequestId

LaneId = NewType("LaneId", int)
LaunchId = NewType("LaunchId", int)


class LaunchReason(enum.Enum):
    """Why a launch did not wait any longer for more rows."""

    IDLE = "idle"  # nothing else was running
    PREFERRED = "preferred"  # as many rows as the profile is tuned for
    DELAY = "delay"  # the oldest request had waited the profile's queue delay
    DEADLINE = "deadline"  # a request's deadline would have passed before that
    FULL = "full"  # requests of smaller lanes fill this one without padding
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
    """

    launch_id: LaunchId
    lane_id: LaneId
    slices: tuple[Slice, ...]
    rows: int
    padded_rows: int
    reason: LaunchReason


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
    """The request's deadline passed while rows of it waited; they will not be run."""

    request_id: RequestId


Decision = Launch | Complete | Fail | Reject | Expire
