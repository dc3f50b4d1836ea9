"""Requests that wait, kept by what can run together."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections import Counter
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field

from lanewise.scheduler.costs.table import Bucket
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import QueuedRequest, RequestId

by_urgency = operator.attrgetter("due_ns", "sequence")
"""The order in which requests are served, all else being equal."""


@dataclass(slots=True, eq=False)
class Waiting:
    """An admitted request that has not ended.

    Attributes:
        sequence: its place in the order of arrival; a new one, at the end, each time a part
            of it was launched.
        due_ns: what it is ordered by: when it should be done, later for a lower priority.
        fits: of its route, the profiles that still have a lane.
        buckets: of its shapes, by profile index.
        owners: indexes of the profiles made for its rows left; see `Router.eligibility`.
        next_row: the first row that was not launched.
        rows_left: rows that were not launched.
        launches: launches in flight with rows of it.
    """

    request: QueuedRequest
    sequence: int
    arrived_ns: int
    due_ns: int
    fits: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    owners: tuple[int, ...] = ()
    next_row: int = 0
    rows_left: int = field(init=False)
    launches: int = 0

    def __post_init__(self) -> None:
        self.rows_left = self.request.route.rows - self.next_row

    def take(self, rows: int) -> None:
        """Take note that the next `rows` rows are launched."""
        self.next_row += rows
        self.rows_left -= rows
        self.launches += 1

    @property
    def deadline_ns(self) -> int | None:
        """When it must be done; None if it can wait for ever."""
        return self.request.deadline_ns


@dataclass(slots=True, eq=False)
class StackQueue:
    """Waiting requests that may share a launch, most urgent first; never empty in a backlog.

    Attributes:
        fits: indexes of the profiles that may run them, ascending.
        buckets: of their shapes, by profile index.
        entries: by due_ns, then by sequence.
        by_owners: the same, apart by the profiles made for them, so that a bulk request that
            waits for its lane keeps no single row from going to another. No list is empty.
        rows: left of all of them together.
        rows_by_bits: the rows of requests by the number of bits of their rows left.
        length: the least that is executed for them anywhere; 0 without padding.
    """

    fits: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    entries: list[Waiting] = field(default_factory=list)
    by_owners: dict[tuple[int, ...], list[Waiting]] = field(default_factory=dict)
    rows: int = 0
    rows_by_bits: dict[int, int] = field(default_factory=dict)
    length: int = 0

    @property
    def heads(self) -> Iterator[Waiting]:
        """The most urgent requests, one for each combination of profiles made for them."""
        return (entries[0] for entries in self.by_owners.values())

    def rows_beside(self, head: Waiting) -> list[int]:
        """Count the rows that could go along with `head`, by the bits of the room beside it.

        With room for r rows, and n the most bits with 2^n - 1 <= r, all requests of at most
        n bits fit one by one: they have list[min(n, last)] rows together.
        """
        counted = [0] * (max(self.rows_by_bits) + 1)
        for bits, rows in self.rows_by_bits.items():
            counted[bits] = rows
        counted[head.rows_left.bit_length()] -= head.rows_left
        return list(itertools.accumulate(counted))

    def add(self, waiting: Waiting) -> None:
        """Put a request where its urgency places it."""
        bisect.insort(self.entries, waiting, key=by_urgency)
        bisect.insort(self.by_owners.setdefault(waiting.owners, []), waiting, key=by_urgency)
        rows = waiting.rows_left
        self.rows += rows
        bits = rows.bit_length()
        self.rows_by_bits[bits] = self.rows_by_bits.get(bits, 0) + rows

    def remove(self, waiting: Waiting) -> None:
        """Take out a request; its rows_left must be what they were when it was added."""
        _remove(self.entries, waiting)
        same_owners = self.by_owners[waiting.owners]
        _remove(same_owners, waiting)
        if not same_owners:
            del self.by_owners[waiting.owners]
        rows = waiting.rows_left
        self.rows -= rows
        self.rows_by_bits[rows.bit_length()] -= rows


def _remove(entries: list[Waiting], waiting: Waiting) -> None:
    if entries[0] is waiting:
        del entries[0]
    else:
        del entries[bisect.bisect_left(entries, by_urgency(waiting), key=by_urgency)]


QueueKey = tuple[Hashable, tuple[int, ...]]


class Backlog:
    """Every request that has rows to launch, and the lanes they wait for.

    Policies read it; the scheduler changes it.

    Attributes:
        lanes: all of them, retired ones too; each lane's id is its position.
        draining: whether nothing more will come.
        arrivals: the waiting requests in order of arrival, those with a part in flight behind.
        queues: by what can run together without padding; none is empty.
        by_owners: how many requests wait for the same profiles made for them; none is 0.
        changed: queues that requests came to or left since `choose` last had nothing to do;
            some may be gone.
        lanes_changed: whether a lane was given something or became free since then.
        has_room: whether a lane can take a launch.
    """

    def __init__(self, lanes: tuple[Lane, ...]) -> None:
        self.lanes = lanes
        self.draining = False
        self.arrivals: dict[RequestId, Waiting] = {}
        self.queues: dict[QueueKey, StackQueue] = {}
        self._kin: dict[Hashable, dict[QueueKey, StackQueue]] = {}
        self.by_owners: Counter[tuple[int, ...]] = Counter()
        self.changed: set[QueueKey] = set()
        self.lanes_changed = True
        self.has_room = True

    def note_lanes(self) -> None:
        """Take note that a lane was given something, became free or was retired."""
        self.lanes_changed = True
        self.has_room = any(lane.has_room for lane in self.lanes)

    def __len__(self) -> int:
        return len(self.arrivals)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self.arrivals.values())

    def queue_of(self, waiting: Waiting) -> StackQueue:
        """Get the queue in which a request waits."""
        return self.queues[waiting.request.stack_key, waiting.fits]

    @property
    def has_kin(self) -> bool:
        """Whether a queue may share launches with others."""
        return bool(self._kin)

    def kin_of(self, waiting: Waiting) -> Collection[StackQueue]:
        """Get the queues that may share a launch with a request, its own included."""
        key = waiting.request.padded_key
        return (self.queue_of(waiting),) if key is None else self._kin[key].values()

    def changed_queues(self) -> Collection[StackQueue]:
        """Get the queues in `changed` that are left, and those they may share a launch with."""
        found = {key: self.queues[key] for key in self.changed if key in self.queues}
        for queue in list(found.values()) if self._kin else ():
            found.update(self._kin.get(queue.entries[0].request.padded_key, ()))
        return found.values()

    def add(self, waiting: Waiting) -> None:
        """Take in a request, or what is left of it."""
        key = (waiting.request.stack_key, waiting.fits)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = StackQueue(
                waiting.fits,
                waiting.buckets,
                length=min(filter(None, waiting.request.route.lengths), default=0),
            )
            if waiting.request.padded_key is not None:
                self._kin.setdefault(waiting.request.padded_key, {})[key] = queue
        queue.add(waiting)
        self.changed.add(key)
        self.by_owners[waiting.owners] += 1
        self.arrivals[waiting.request.request_id] = waiting

    def remove(self, waiting: Waiting) -> None:
        """Take out a request; its rows_left must be what they were when it was added."""
        key = (waiting.request.stack_key, waiting.fits)
        queue = self.queues[key]
        queue.remove(waiting)
        self.changed.add(key)
        if not queue.entries:
            del self.queues[key]
            self._forget_kin(key, waiting.request.padded_key)
        self.by_owners[waiting.owners] -= 1
        if not self.by_owners[waiting.owners]:
            del self.by_owners[waiting.owners]
        del self.arrivals[waiting.request.request_id]

    def _forget_kin(self, key: QueueKey, padded_key: Hashable) -> None:
        if padded_key is not None:
            del self._kin[padded_key][key]
            if not self._kin[padded_key]:
                del self._kin[padded_key]
