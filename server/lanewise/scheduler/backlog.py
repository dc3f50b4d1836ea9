"""Requests that wait, kept by what can run together."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field

from lanewise.scheduler.costs.table import Bucket
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import Request

by_urgency = operator.attrgetter("due_ns", "sequence")
"""The order in which requests are served, all else being equal."""


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
    entries: list[Request] = field(default_factory=list)
    by_owners: dict[tuple[int, ...], list[Request]] = field(default_factory=dict)
    rows: int = 0
    rows_by_bits: dict[int, int] = field(default_factory=dict)
    length: int = 0

    def rows_beside(self, head: Request) -> list[int]:
        """Count the rows that could go along with `head`, by the bits of the room beside it.

        With room for r rows, and n the most bits with 2^n - 1 <= r, all requests of at most
        n bits fit one by one: they have list[min(n, last)] rows together.
        """
        counted = [0] * (max(self.rows_by_bits) + 1)
        for bits, rows in self.rows_by_bits.items():
            counted[bits] = rows
        counted[head.rows_left.bit_length()] -= head.rows_left
        return list(itertools.accumulate(counted))

    def add(self, waiting: Request) -> None:
        bisect.insort(self.entries, waiting, key=by_urgency)
        bisect.insort(self.by_owners.setdefault(waiting.owners, []), waiting, key=by_urgency)
        rows = waiting.rows_left
        self.rows += rows
        bits = rows.bit_length()
        self.rows_by_bits[bits] = self.rows_by_bits.get(bits, 0) + rows

    def remove(self, waiting: Request) -> None:
        """Take out a request; its rows_left must be what they were when it was added."""
        same_owners = self.by_owners[waiting.owners]
        for entries in (self.entries, same_owners):
            # The most urgent is the one that leaves, as a rule.
            at = 0
            if entries[0] is not waiting:
                at = bisect.bisect_left(entries, by_urgency(waiting), key=by_urgency)
            del entries[at]
        if not same_owners:
            del self.by_owners[waiting.owners]
        rows = waiting.rows_left
        self.rows -= rows
        self.rows_by_bits[rows.bit_length()] -= rows


QueueKey = tuple[Hashable, tuple[int, ...]]


class Backlog:
    """Every request that has rows to launch, and the lanes they wait for.

    Policies read it; the scheduler changes it.

    Attributes:
        lanes: all of them, retired ones too; each lane's id is its position.
        draining: whether nothing more will come.
        arrivals: the waiting requests in order of arrival, those with a part in flight behind.
        queues: by what can run together without padding; none is empty.
        kin: the queues that may share launches if padded, by the requests' `padded_key`.
        by_owners: how many requests wait for the same profiles made for them; none is 0.
        changed: queues that requests came to or left since `choose` last had nothing to do;
            some may be gone.
        lanes_changed: whether a lane was given something or became free since then.
        has_room: whether a lane can take a launch.
    """

    def __init__(self, lanes: tuple[Lane, ...]) -> None:
        self.lanes = lanes
        self.draining = False
        self.arrivals: dict[Request, None] = {}
        self.queues: dict[QueueKey, StackQueue] = {}
        self.kin: dict[Hashable, dict[QueueKey, StackQueue]] = {}
        self.by_owners: dict[tuple[int, ...], int] = {}
        self.changed: set[QueueKey] = set()
        self.lanes_changed = True
        self.has_room = True

    def note_lanes(self) -> None:
        """Look at the lanes again: one was given something, became free or was retired."""
        self.lanes_changed = True
        for lane in self.lanes:
            if len(lane.in_flight) < lane.depth and not lane.is_retired:
                self.has_room = True
                return
        self.has_room = False

    def __len__(self) -> int:
        return len(self.arrivals)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.arrivals)

    def queue_of(self, waiting: Request) -> StackQueue:
        return self.queues[waiting.stack_key, waiting.fits]

    def kin_of(self, waiting: Request) -> Collection[StackQueue]:
        """Get the queues that may share a launch with a request, its own included."""
        key = waiting.padded_key
        return (self.queue_of(waiting),) if key is None else self.kin[key].values()

    def changed_queues(self) -> Collection[StackQueue]:
        """Get the queues in `changed` that are left, and those they may share a launch with."""
        found = {}
        for key in self.changed:
            queue = self.queues.get(key)
            if queue is not None:
                found[key] = queue
        for queue in list(found.values()) if self.kin else ():
            found.update(self.kin.get(queue.entries[0].padded_key, ()))
        return found.values()

    def add(self, waiting: Request) -> None:
        key = (waiting.stack_key, waiting.fits)
        queue = self.queues.get(key)
        if queue is None:
            route = waiting.route
            length = min(filter(None, route.lengths)) if route.lengths else 0
            queue = StackQueue(waiting.fits, route.buckets, [], {}, 0, {}, length)
            self.queues[key] = queue
            if waiting.padded_key is not None:
                self.kin.setdefault(waiting.padded_key, {})[key] = queue
        queue.add(waiting)
        self.changed.add(key)
        self.by_owners[waiting.owners] = self.by_owners.get(waiting.owners, 0) + 1
        self.arrivals[waiting] = None

    def remove(self, waiting: Request) -> None:
        """Take out a request; its rows_left must be what they were when it was added."""
        key = (waiting.stack_key, waiting.fits)
        queue = self.queues[key]
        queue.remove(waiting)
        self.changed.add(key)
        if not queue.entries:
            del self.queues[key]
            if waiting.padded_key is not None:
                del self.kin[waiting.padded_key][key]
                if not self.kin[waiting.padded_key]:
                    del self.kin[waiting.padded_key]
        left = self.by_owners.pop(waiting.owners) - 1
        if left:
            self.by_owners[waiting.owners] = left
        del self.arrivals[waiting]
