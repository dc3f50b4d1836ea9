"""What the policies that serve in order of arrival have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lanewise.model.spec import Profile
from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import LaunchReason, Part, Request


class ArrivalOrder:
    """The half of a policy that does not look at deadlines: they expire in the queue."""

    wakeup_ns: int | None = None

    def needed_ns(self, backlog: Backlog, waiting: Request, now_ns: int) -> int:
        return 0


def is_busy(backlog: Backlog) -> bool:
    """Tell whether anything is in flight on any lane."""
    return any(lane.in_flight for lane in backlog.lanes)


def same_kind(waiting: Request, other: Request) -> bool:
    """Tell whether two requests may share a launch."""
    return waiting.stack_key == other.stack_key and waiting.fits == other.fits


def head_run(backlog: Backlog) -> Iterator[Request]:
    """Iterate over the oldest request and those right behind it that may share its launch."""
    head = None
    for waiting in backlog:
        head = head or waiting
        if not same_kind(waiting, head):
            return
        yield waiting


def take_in_order(run: Iterator[Request], room: int) -> list[Part]:
    """Take requests until the next does not fit into `room` rows; the first is cut to fit."""
    parts: list[Part] = []
    for waiting in run:
        rows = waiting.rows_left if parts else min(waiting.rows_left, room)
        if rows > room:
            break
        parts.append((waiting, waiting.next_row, rows))
        room -= rows
    return parts


def lanes_in_service(backlog: Backlog, fits: Sequence[int]) -> list[Lane]:
    """Get the lanes of these profiles, by profile index."""
    lanes = [one for one in backlog.lanes if one.profile.index in fits and not one.is_retired]
    return sorted(lanes, key=lambda lane: lane.profile.index)


def profiles_for(lanes: Sequence[Lane], rows: int) -> list[Profile]:
    """Choose among the profiles of `lanes` those that admit `rows`, by index.

    If there is none: those with the lowest minimum above it; if there is none of these
    either, those with the most rows, which run a part of it.
    """
    profiles = list({lane.profile.index: lane.profile for lane in lanes}.values())
    within = [one for one in profiles if one.rows.min <= rows <= one.rows.max]
    if within:
        return within
    above = [one for one in profiles if rows < one.rows.min]
    if above:
        lowest = min(one.rows.min for one in above)
        return [one for one in above if one.rows.min == lowest]
    most = max(one.rows.max for one in profiles)
    return [one for one in profiles if one.rows.max == most]


def lane_with_room(lanes: Sequence[Lane], profile: Profile) -> Lane | None:
    """Get the first lane of a profile that can take a launch now."""
    return next((one for one in lanes if one.profile is profile and one.has_room), None)


def why(backlog: Backlog, *, full: bool) -> LaunchReason:
    """Say why a launch starts now, of a policy that never holds one but for its delay."""
    if backlog.draining:
        return LaunchReason.DRAIN
    if full:
        return LaunchReason.FULL
    return LaunchReason.DELAY if is_busy(backlog) else LaunchReason.IDLE
