"""What the scheduler knows of one runner."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import NewType

from lanewise.model.spec import Profile
from lanewise.scheduler.request import Launch
from lanewise.scheduler.results import LaneCounters, LaneState

LaneId = NewType("LaneId", int)


@dataclass(slots=True, eq=False)
class Lane:
    """The scheduler's record of one runner.

    Attributes:
        depth: launches that may be in flight at a time. All but the first only wait on the
            device, so they are given to it when they cannot grow any more.
        row_counts: ascending; rows are padded up to the next of them. Empty: any number
            within the profile is executed as it is.
        in_flight: launches, oldest first.
        expected_end_ns: when the last launch in flight should be over.
        alone_ns: what the launch that runs has got done, as time that it would have taken alone.
        waited_ns: how long that launch waited for the one before it.
    """

    lane_id: LaneId
    profile: Profile
    depth: int = 1
    row_counts: tuple[int, ...] = ()
    in_flight: list[Launch] = field(default_factory=list)
    is_retired: bool = False
    expected_end_ns: int = 0
    alone_ns: float = 0.0
    waited_ns: int = 0
    counters: LaneCounters = field(default_factory=LaneCounters)

    @property
    def has_room(self) -> bool:
        return len(self.in_flight) < self.depth and not self.is_retired

    @property
    def state(self) -> LaneState:
        if self.is_retired:
            return LaneState.RETIRED
        return LaneState.BUSY if self.in_flight else LaneState.IDLE

    def padded(self, rows: int) -> int:
        """Get the rows executed for a launch of `rows`, at most the profile's max."""
        at_least = max(rows, self.profile.rows.min)
        next_count = bisect.bisect_left(self.row_counts, at_least)
        if next_count == len(self.row_counts):
            return at_least
        return self.row_counts[next_count]
