"""What the scheduler knows of one runner."""

from __future__ import annotations

from dataclasses import dataclass, field

from lanewise.models import Profile
from lanewise.scheduler.decisions import LaneId, Launch
from lanewise.scheduler.results import LaneCounters, LaneState


@dataclass(slots=True, eq=False)
class Lane:
    """The scheduler's record of one runner. At most one launch is in flight on it."""

    lane_id: LaneId
    profile: Profile
    in_flight: Launch | None = None
    launched_ns: int = 0
    is_retired: bool = False
    counters: LaneCounters = field(default_factory=LaneCounters)

    @property
    def is_idle(self) -> bool:
        """Whether it can take a launch now."""
        return self.in_flight is None and not self.is_retired

    @property
    def state(self) -> LaneState:
        if self.is_retired:
            return LaneState.RETIRED
        return LaneState.IDLE if self.in_flight is None else LaneState.BUSY
