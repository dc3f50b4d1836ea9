"""Requests that wait, kept by what can run together."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from lanewise.scheduler.costs import Bucket
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import QueuedRequest, RequestId

_urgency = operator.attrgetter("due_ns", "sequence")


@dataclass(slots=True, eq=False)
class Waiting:
    """An admitted request that has not ended.

    Attributes:
        sequence: its place in the order of arrival; a new one, at the end, each time a part
            of it was launched.
        due_ns: what it is ordered by: when it should be done, later for a lower priority.
        fits: of its route, the profiles that still have a lane.
        bucket: of its shapes.
        next_row: the first row that was not launched.
        launches: launches in flight with rows of it.
    """

    request: QueuedRequest
    sequence: int
    arrived_ns: int
    due_ns: int
    fits: tuple[int, ...]
    bucket: Bucket
    next_row: int = 0
    launches: int = 0

    @property
    def rows_left(self) -> int:
        """Rows that were not launched."""
        return self.request.route.rows - self.next_row

    @property
    def deadline_ns(self) -> int | None:
        """When it must be done; None if it can wait for ever."""
        return self.request.deadline_ns


@dataclass(slots=True, eq=False)
class StackQueue:
    """Waiting requests that may share a launch, most urgent first; never empty in a backlog.

    Attributes:
        fits: indexes of the profiles that may run them, ascending.
        bucket: of their shapes.
        entries: by due_ns, then by sequence.
        rows: left of all of them together.
        sizes: how many requests there are by their rows left.
    """

    fits: tuple[int, ...]
    bucket: Bucket
    entries: list[Waiting] = field(default_factory=list)
    rows: int = 0
    sizes: dict[int, int] = field(default_factory=dict)

    @property
    def head(self) -> Waiting:
        """The most urgent request."""
        return self.entries[0]

    def rows_beside_head(self, room: int) -> int:
        """Count the rows of a launch of at most `room` rows that has the head's in it.

        Of the others only those are counted that fit beside it whole.
        """
        rows = self.head.rows_left
        if rows >= room:
            return room
        most = room - rows
        total = sum(size * count for size, count in self.sizes.items() if size <= most)
        return min(room, total if rows <= most else total + rows)


QueueKey = tuple[Hashable, tuple[int, ...]]


class Backlog:
    """Every request that has rows to launch, and the lanes they wait for.

    Policies read it; the scheduler changes it.

    Attributes:
        lanes: all of them, retired ones too; each lane's id is its position.
        draining: whether nothing more will come.
        arrivals: the waiting requests in order of arrival, those with a part in flight behind.
        queues: by what can run together; none is empty.
    """

    def __init__(self, lanes: tuple[Lane, ...]) -> None:
        self.lanes = lanes
        self.draining = False
        self.arrivals: dict[RequestId, Waiting] = {}
        self.queues: dict[QueueKey, StackQueue] = {}

    def __len__(self) -> int:
        return len(self.arrivals)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self.arrivals.values())

    def queue_of(self, waiting: Waiting) -> StackQueue:
        """Get the queue in which a request waits."""
        return self.queues[waiting.request.stack_key, waiting.fits]

    def add(self, waiting: Waiting) -> None:
        """Take in a request, or what is left of it."""
        key = (waiting.request.stack_key, waiting.fits)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = StackQueue(waiting.fits, waiting.bucket)
        bisect.insort(queue.entries, waiting, key=_urgency)
        rows = waiting.rows_left
        queue.rows += rows
        queue.sizes[rows] = queue.sizes.get(rows, 0) + 1
        self.arrivals[waiting.request.request_id] = waiting

    def remove(self, waiting: Waiting) -> None:
        """Take out a request; its rows_left must be what they were when it was added."""
        key = (waiting.request.stack_key, waiting.fits)
        queue = self.queues[key]
        entries = queue.entries
        at = (
            0
            if entries[0] is waiting
            else bisect.bisect_left(entries, _urgency(waiting), key=_urgency)
        )
        del entries[at]
        rows = waiting.rows_left
        queue.rows -= rows
        queue.sizes[rows] -= 1
        if not queue.sizes[rows]:
            del queue.sizes[rows]
        if not entries:
            del self.queues[key]
        del self.arrivals[waiting.request.request_id]
