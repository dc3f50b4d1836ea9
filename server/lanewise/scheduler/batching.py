"""The first policy: launch now or hold, and which launch comes first.

An idle device is given whatever waits. Otherwise an idle lane gathers until it has the rows
its profile is tuned for, or until its oldest request has waited the profile's queue delay,
unless that would outlast a deadline: then waiting could only cost the request its answer. A
busy lane with room is given batches that are as full as whole requests make them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lanewise.models import Profile
from lanewise.scheduler.decisions import LaunchReason, Slice
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.queues import Candidates, StackQueue, Waiting


@dataclass(frozen=True, slots=True)
class Proposal:
    """A launch that need not wait any longer."""

    lane: Lane
    queue: StackQueue
    oldest: Waiting
    rows: int
    reason: LaunchReason

    def rank(self) -> tuple[int, int, float, int]:
        """Order among proposals, least first.

        The oldest request goes first; for it, the launch with the most rows; then the
        profile tuned for shapes nearest to it.
        """
        route = self.oldest.request.route
        preference = route.preference(self.lane.profile, self.rows, self.lane.padded(self.rows))
        return (self.oldest.sequence, *preference, self.lane.lane_id)


def propose(
    lane: Lane, queue: StackQueue, now_ns: int, *, device_idle: bool, draining: bool
) -> Proposal | None:
    """Get what `lane` should launch from `queue` now; None to hold, or if nothing waits for it."""
    candidates = queue.candidates(lane.profile.index)
    if candidates is None:
        return None
    rows = min(candidates.rows, lane.profile.rows.max)
    if lane.in_flight and rows < lane.profile.rows.max:
        return None  # it would only wait on the device, and could no longer grow
    reason = _why_now(candidates, lane.profile, now_ns, device_idle, draining)
    if reason is None and not _would_outlast_a_deadline(candidates, lane.profile, queue):
        return None
    reason = reason or LaunchReason.DEADLINE
    return Proposal(lane, queue, candidates.oldest, rows, reason)


def _why_now(
    candidates: Candidates, profile: Profile, now_ns: int, device_idle: bool, draining: bool
) -> LaunchReason | None:
    if not candidates.owns_any:
        return LaunchReason.FULL if candidates.rows >= profile.rows.min else None
    if device_idle:
        return LaunchReason.IDLE
    if candidates.rows >= profile.rows.opt:
        return LaunchReason.PREFERRED
    if draining:
        return LaunchReason.DRAIN
    if now_ns >= candidates.oldest.arrived_ns + profile.max_queue_delay_ns:
        return LaunchReason.DELAY
    return None


def _would_outlast_a_deadline(candidates: Candidates, profile: Profile, queue: StackQueue) -> bool:
    """Whether holding `candidates` for the queue delay could cost one of them its deadline.

    Looks at fewer requests than the profile's opt has rows: with more, nothing is held.
    """
    if not candidates.owns_any:
        return False
    held_until_ns = candidates.oldest.arrived_ns + profile.max_queue_delay_ns
    deadlines = (waiting.request.deadline_ns for waiting in queue.in_order(profile.index))
    return any(at_ns is not None and at_ns <= held_until_ns for at_ns in deadlines)


def hold_until_ns(lane: Lane, queue: StackQueue) -> int | None:
    """Tell when the queue delay of the oldest request `lane` owns in `queue` is over.

    None if there is none, or if the lane is busy and would not launch for that reason.
    """
    if lane.in_flight or lane.is_retired:
        return None
    candidates = queue.candidates(lane.profile.index)
    if candidates is None or not candidates.owns_any:
        return None
    return candidates.oldest.arrived_ns + lane.profile.max_queue_delay_ns


def fill(profile: Profile, queue: StackQueue) -> Iterator[tuple[Waiting, Slice]]:
    """Choose rows for one launch: in order of arrival, those that still fit.

    A request larger than the profile is cut, and only when it is the first: cut ones fill
    the launch, and small ones are not torn apart. The queue must not change meanwhile.
    """
    room = profile.rows.max
    for waiting in queue.in_order(profile.index):
        if waiting.rows_left > room < profile.rows.max:
            continue
        rows = min(waiting.rows_left, room)
        yield waiting, Slice(waiting.request.request_id, waiting.next_row, rows)
        room -= rows
        if room == 0:
            return
