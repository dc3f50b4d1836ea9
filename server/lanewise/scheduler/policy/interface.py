"""What a scheduling policy decides; the scheduler does the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lanewise.scheduler.backlog import Backlog, Waiting
from lanewise.scheduler.decisions import LaunchReason
from lanewise.scheduler.lane import Lane


@dataclass(frozen=True, slots=True)
class Choice:
    """A launch to start now.

    Attributes:
        lane: has room.
        parts: requests of one queue, or of several whose `padded_key` is equal, and how many of
            their next rows go along, 1 or more of each; in all no more than the lane's profile
            admits. The longest of them decides on the length that is executed.
        predicted_ns: how long the launch will take, from now; 0 if the policy cannot tell.
        slowdown: how many times longer than alone it will run, because of other lanes.
    """

    lane: Lane
    parts: Sequence[tuple[Waiting, int]]
    reason: LaunchReason
    predicted_ns: int = 0
    slowdown: float = 1.0


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A waiting request that cannot meet its deadline any more.

    Attributes:
        needed_ns: what it would take from now on, if nothing else came between.
    """

    waiting: Waiting
    needed_ns: int


class Policy(Protocol):
    """Chooses what is launched next. Pure: no I/O, no clock; the backlog is only read."""

    def choose(self, backlog: Backlog, now_ns: int) -> Choice | GiveUp | None:
        """Get the next thing to do now; None if nothing.

        Called again after each choice was carried out, until it is None, and after
        whatever may change the answer: an arrival, an end, a launch that is over, and the time
        `wakeup_ns` tells.
        """
        ...

    @property
    def wakeup_ns(self) -> int | None:
        """When to ask again if nothing else happens before; None for never.

        Asked after `choose` returned None; at that time it has something to do.
        """
        ...

    def needed_ns(self, backlog: Backlog, waiting: Waiting, now_ns: int) -> int:
        """Estimate how long a request would take from now if it were served first.

        Called once for every request that arrives, before it waits.

        0 if the policy does not look at deadlines before they have passed: then nothing is
        refused because of it.
        """
        ...


def fill(entries: Iterable[Waiting], room: int) -> list[tuple[Waiting, int]]:
    """Choose rows for one launch: in the order given, those that still fit into `room` rows.

    A request that is larger than `room` is cut, and only when it is the first: small ones
    are not torn apart.
    """
    parts: list[tuple[Waiting, int]] = []
    left = room
    for waiting in entries:
        rows = waiting.rows_left
        if rows > left:
            if parts:
                continue
            rows = left
        parts.append((waiting, rows))
        left -= rows
        if not left:
            break
    return parts
