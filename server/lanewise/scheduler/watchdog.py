"""Launches that nobody waits for any more, and those that hang. Does no I/O and reads no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lanewise.clock import NS_PER_S
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import Launch, Request

PATIENCE_NS = 1 * NS_PER_S
"""How long a launch runs at least before it is ended because nobody waits for it: most are over
by then, and teach what they cost."""

HANGS_AFTER_NS = 5 * NS_PER_S
"""How long after it was to be ended a launch that still runs is said to hang."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look has found anew.

    Attributes:
        abandoned: to be ended, if their runners can; again at every look.
        hanging: since this look.
        has_changed: whether a lane hangs since this look, or does not hang any more.
    """

    abandoned: list[Launch]
    hanging: list[Launch]
    has_changed: bool


class Watchdog:
    """Looks at the launches in flight of one model, every now and then.

    A launch is abandoned when each of its requests has gone or is past its deadline.

    Attributes:
        ending: the abandoned launches, and when each was first found to be.
    """

    def __init__(self) -> None:
        self.ending: dict[Launch, int] = {}
        self._hanging: set[Launch] = set()

    def look(
        self,
        lanes: Iterable[Lane],
        is_open: Callable[[Request], bool],
        now_ns: int,
        patience_ns: int = PATIENCE_NS,
    ) -> Findings:
        """Look at what runs on `lanes`; `is_open` tells the requests that have not ended."""
        abandoned, hanging = [], []
        in_flight = {launch for lane in lanes for launch in lane.in_flight}
        for gone in self.ending.keys() - in_flight:
            del self.ending[gone]
        was_hanging, self._hanging = self._hanging, self._hanging & in_flight
        for launch in in_flight:
            if now_ns < launch.launched_ns + patience_ns:
                continue
            if any(is_open(each) and not each.is_late(now_ns) for each, _, _ in launch.parts):
                continue
            abandoned.append(launch)
            since_ns = self.ending.setdefault(launch, now_ns)
            if now_ns >= since_ns + HANGS_AFTER_NS and launch not in self._hanging:
                self._hanging.add(launch)
                hanging.append(launch)
        return Findings(abandoned, hanging, has_changed=self._hanging != was_hanging)

    def hangs(self, lane: Lane) -> bool:
        """Whether a launch hung on the lane at the last look, and has not ended since."""
        return any(launch in self._hanging for launch in lane.in_flight)
