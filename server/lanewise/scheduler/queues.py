"""Requests that wait, kept by what can run together.

One StackQueue holds the requests that may share a launch. Within it, requests that the
same profiles may launch form a RequestClass, so that what a lane could launch is known
without looking at each request.
"""

from __future__ import annotations

import bisect
import heapq
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

from lanewise.scheduler.request import QueuedRequest
from lanewise.scheduler.routing import Eligibility

_sequence = operator.attrgetter("sequence")


@dataclass(slots=True, eq=False)
class Waiting:
    """An admitted request that has not ended.

    Attributes:
        sequence: its place in the order of arrival; a new one, at the end, each time a part
            of it was launched.
        fits: of its route, the profiles that still have a lane.
        next_row: the first row that was not launched.
        launches: launches in flight with rows of it.
    """

    request: QueuedRequest
    sequence: int
    arrived_ns: int
    fits: tuple[int, ...]
    next_row: int = 0
    launches: int = 0

    @property
    def rows_left(self) -> int:
        """Rows that were not launched."""
        return self.request.route.rows - self.next_row


@dataclass(slots=True, eq=False)
class RequestClass:
    """Waiting requests, oldest first, that may share a launch and have the same eligibility."""

    entries: list[Waiting] = field(default_factory=list)
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one profile could launch from one queue.

    Attributes:
        oldest: of the requests it owns, or of the guests if it owns none.
        rows: of own requests and guests together.
        owns_any: whether it owns any of them.
    """

    oldest: Waiting
    rows: int
    owns_any: bool


class StackQueue:
    """The waiting requests of one stack key, in order of arrival."""

    def __init__(self) -> None:
        self._classes: dict[Eligibility, RequestClass] = {}

    def __bool__(self) -> bool:
        return bool(self._classes)

    def __iter__(self) -> Iterator[Waiting]:
        for group in self._classes.values():
            yield from group.entries

    def add(self, waiting: Waiting, eligibility: Eligibility) -> None:
        """Put a request, or what is left of it, where its arrival places it."""
        group = self._classes.setdefault(eligibility, RequestClass())
        bisect.insort(group.entries, waiting, key=_sequence)
        group.rows += waiting.rows_left

    def remove(self, waiting: Waiting, eligibility: Eligibility) -> None:
        """Take out a request; its rows_left must be what they were when it was added."""
        group = self._classes[eligibility]
        del group.entries[bisect.bisect_left(group.entries, waiting.sequence, key=_sequence)]
        group.rows -= waiting.rows_left
        if not group.entries:
            del self._classes[eligibility]

    def candidates(self, profile_index: int) -> Candidates | None:
        """Sum up what a profile could launch; None if nothing."""
        own: Waiting | None = None
        guest: Waiting | None = None
        rows = 0
        for eligibility, group in self._classes.items():
            head = group.entries[0]
            if profile_index in eligibility.owners:
                rows += group.rows
                own = head if own is None or head.sequence < own.sequence else own
            elif profile_index in eligibility.guests:
                rows += group.rows
                guest = head if guest is None or head.sequence < guest.sequence else guest
        oldest = own or guest
        return None if oldest is None else Candidates(oldest, rows, own is not None)

    def in_order(self, profile_index: int) -> Iterator[Waiting]:
        """Iterate over what a profile could launch: the oldest own request, then by arrival.

        The queue must not change meanwhile.
        """
        own = [g for e, g in self._classes.items() if profile_index in e.owners]
        guests = [g for e, g in self._classes.items() if profile_index in e.guests]
        first = min((group.entries[0] for group in own), key=_sequence, default=None)
        if first is not None:
            yield first
        for waiting in heapq.merge(*(group.entries for group in (*own, *guests)), key=_sequence):
            if waiting is not first:
                yield waiting
