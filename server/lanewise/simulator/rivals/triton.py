"""Triton's dynamic batcher in front of its TensorRT backend, one instance.

The batcher: DynamicBatchScheduler::GetDynamicBatch in triton-inference-server/core,
`src/dynamic_batch_scheduler.cc`. The profile: GetMostOptimizedProfile and
EvaluateTensorRTContext in triton-inference-server/tensorrt_backend. Every profile is listed in
the instance group, so that each has a context of its own and none is ever switched.

Where Triton would fail a client, this policy serves it, so that the comparison is about
scheduling alone: of a batch that no profile admits, the most requests that one does admit are
launched (Triton fails the whole batch); a request that fits no profile by itself is padded, or
split if it is larger than every profile (Triton refuses it); and requests leave the queue at their
deadlines (in Triton only if the client sets a timeout that the queue policy honours).
"""

from __future__ import annotations

from collections.abc import Sequence

from lanewise.model.spec import Profile
from lanewise.model.tensors import Shape
from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import Launch, Request
from lanewise.simulator.rivals.arrival_order import (
    ArrivalOrder,
    is_busy,
    lane_with_room,
    lanes_in_service,
    profiles_for,
    same_kind,
    take_in_order,
    why,
)


class TritonPolicy(ArrivalOrder):
    """Batches in order of arrival, closed by the first request of another shape.

    Args:
        max_queue_delay_ns: how long the oldest request may be held while no preferred size is
            reached; 0 launches whatever waits.
        preferred_rows: sizes of batches that are launched at once; empty for the largest of
            all profiles, which is Triton's default.
        as_coded: choose the profile as the code does instead of the way its comment says, see
            `distance`.
    """

    def __init__(
        self,
        *,
        max_queue_delay_ns: int = 0,
        preferred_rows: Sequence[int] = (),
        as_coded: bool = False,
    ) -> None:
        self._delay_ns = max_queue_delay_ns
        self._preferred = frozenset(preferred_rows)
        self._as_coded = as_coded

    def choose(self, backlog: Backlog, now_ns: int) -> Launch | None:
        self.wakeup_ns = None
        if is_busy(backlog):
            return None
        lanes = lanes_in_service(backlog, next(iter(backlog)).fits)
        most = max(lane.profile.rows.max for lane in lanes)
        batch = self._form_batch(backlog, most, now_ns)
        if not batch:
            return None
        profile, batch = self._fit(batch, lanes)
        lane = lane_with_room(lanes, profile)
        if lane is None:
            return None
        parts = take_in_order(iter(batch), profile.rows.max)
        full = sum(rows for _, _, rows in parts) == profile.rows.max
        return Launch(lane, parts, why(backlog, full=full))

    def _form_batch(self, backlog: Backlog, most: int, now_ns: int) -> list[Request]:
        """Get the requests to launch now; none if it is better to wait until `wakeup_ns`."""
        preferred = self._preferred or {most}
        pending: list[Request] = []
        rows = 0
        marked = 0  # how many requests make up the last preferred size that was passed
        is_closed = False
        for waiting in backlog:
            if pending:
                together = rows + waiting.rows_left
                if together > max(preferred) and not marked:
                    marked = len(pending)
                if together > most or not same_kind(waiting, pending[0]):
                    is_closed = True
                    break
            pending.append(waiting)
            rows += waiting.rows_left
            if rows in preferred:
                marked = len(pending)
        due_ns = pending[0].arrived_ns + self._delay_ns
        is_delayed = self._delay_ns > 0 and due_ns <= now_ns
        if marked and not is_delayed:
            return pending[:marked]
        if is_closed or is_delayed or backlog.draining or not self._delay_ns:
            return pending
        if rows >= max(preferred):
            return pending
        self.wakeup_ns = due_ns
        return []

    def _fit(self, batch: list[Request], lanes: Sequence[Lane]) -> tuple[Profile, list[Request]]:
        """Choose the profile of a batch, and how much of the batch it admits."""
        rows = sum(waiting.rows_left for waiting in batch)
        for count in range(len(batch), 0, -1):
            admit = [one for one in profiles_for(lanes, rows) if _admits(one, rows)]
            if admit:
                return self._nearest(admit, rows, batch[0]), batch[:count]
            rows -= batch[count - 1].rows_left
        rows = batch[0].rows_left
        return self._nearest(profiles_for(lanes, rows), rows, batch[0]), batch[:1]

    def _nearest(self, profiles: Sequence[Profile], rows: int, head: Request) -> Profile:
        shapes = head.route.shapes
        return min(profiles, key=lambda one: distance(one, rows, shapes, as_coded=self._as_coded))


def distance(
    profile: Profile, rows: int, shapes: Sequence[Shape], *, as_coded: bool = False
) -> int:
    """Sum up how far the dimensions of a batch are from the opt dimensions of a profile.

    As coded, opt dimension n is compared with dimension n - 1 of the batch for n > 0, so that the
    last dimension of the batch never counts. `shapes` are those of the inputs, in the order of
    the profile's ranges, without rows.
    """
    total = 0
    for limits, item in zip(profile.ranges.values(), shapes, strict=True):
        if not limits.opt:
            continue
        shape = (rows, *item)[-len(limits.opt) :]
        others = shape[:-1] if as_coded else shape[1:]
        total += abs(limits.opt[0] - shape[0])
        total += sum(abs(opt - size) for opt, size in zip(limits.opt[1:], others, strict=True))
    return total


def _admits(profile: Profile, rows: int) -> bool:
    return profile.rows.min <= rows <= profile.rows.max
