"""What a scheduling policy decides; the scheduler does the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.request import End, Launch, Part, Request


class Policy(Protocol):
    """Chooses what is launched next. Pure: no I/O, no clock; the backlog is only read."""

    wakeup_ns: int | None
    """When to ask again if nothing else happens before; None for never.

    Read after `choose` returned None; at that time it has something to do.
    """

    def choose(self, backlog: Backlog, now_ns: int) -> Launch | End | None:
        """Get the next thing to do now; None if nothing.

        An `End` without an error gives up a waiting request that cannot meet its deadline any
        more, and says what it would need.

        Called again after each choice was carried out, until it is None, and after
        whatever may change the answer: an arrival, an end, a launch that is over, and the time
        `wakeup_ns` tells.
        """
        ...

    def needed_ns(self, backlog: Backlog, waiting: Request, now_ns: int) -> int:
        """Estimate how long a request would take from now if it were served first.

        Called once for every request that arrives, before it waits.

        0 if the policy does not look at deadlines before they have passed: then nothing is
        refused because of it.
        """
        ...


def fill(entries: Iterable[Request], room: int) -> tuple[list[Part], int]:
    """Choose rows for one launch: in the order given, those that still fit into `room` rows.

    A request that is larger than `room` is cut, and only when it is the first: small ones
    are not torn apart.

    Returns:
        The parts, and how many rows they have.
    """
    parts: list[Part] = []
    left = room
    for waiting in entries:
        rows = waiting.rows_left
        if rows > left:
            if parts:
                continue
            rows = left
        parts.append((waiting, waiting.next_row, rows))
        left -= rows
        if not left:
            break
    return parts, room - left
