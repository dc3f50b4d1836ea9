"""Requests of different lengths in one launch: which of them should share, by measured costs.

Sorted by length, the requests are cut into groups, each padded to the longest in it. Dynamic
programming over the lengths finds the cheapest groups, as TurboTransformers does over requests
(Fang et al., "TurboTransformers: an efficient GPU serving system for transformer models",
PPoPP 2021, section 5).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lanewise.scheduler.backlog import Backlog, StackQueue, by_urgency
from lanewise.scheduler.costs.table import Bucket
from lanewise.scheduler.policy.prices import Prices
from lanewise.scheduler.request import Request

PricesFor = Callable[[tuple[int, ...], tuple[Bucket, ...]], Prices]
"""Gets the prices in the profiles of given indexes, of shapes of given buckets, by profile."""


class Group(NamedTuple):
    """Requests that are launched together.

    Attributes:
        queues: of neighbouring lengths, the longest last.
        fits: indexes of the profiles that admit all of them.
    """

    queues: Sequence[StackQueue]
    fits: tuple[int, ...]


class Mixes:
    """The cheapest groups of the requests in a backlog as it is now.

    Args:
        backlog: must not change as long as this is used.
        prices_for: asked only for groups that some profile admits.
    """

    def __init__(self, backlog: Backlog, prices_for: PricesFor) -> None:
        self._backlog = backlog
        self._prices_for = prices_for
        self._groups: dict[int, Group] = {}
        self._mixed: dict[int, StackQueue] = {}

    def mix_of(self, head: Request) -> StackQueue:
        """Get what should be launched together with `head`: its queue, alone or with others."""
        queue = self._backlog.queue_of(head)
        kin = self._backlog.kin_of(head)
        if len(kin) == 1:
            return queue
        if id(queue) not in self._groups:
            by_length = sorted(kin, key=lambda each: each.length)
            for group in cheapest_groups(by_length, self._prices_for):
                self._groups.update((id(each), group) for each in group.queues)
        group = self._groups[id(queue)]
        if len(group.queues) == 1:
            return queue
        mixed = self._mixed.get(id(group))
        if mixed is None:
            mixed = self._mixed[id(group)] = _merge(group)
        return mixed


def cheapest_groups(queues: Sequence[StackQueue], prices_for: PricesFor) -> list[Group]:
    """Cut `queues`, sorted by length, into the groups that cost least one after the other."""
    least_ns = [0.0]  # for the first n queues
    last: list[Group] = []  # of the groups for the first n + 1
    for end, longest in enumerate(queues, 1):
        fits, rows, best_ns = longest.fits, 0, math.inf
        for start in range(end - 1, -1, -1):
            queue = queues[start]
            if queue.fits != fits:
                fits = tuple(index for index in fits if index in queue.fits)
                if not fits:
                    break
            rows += queue.rows
            cost_ns = least_ns[start] + prices_for(fits, longest.buckets).serial_ns[rows]
            if cost_ns <= best_ns:
                best_ns, best_start, best_fits = cost_ns, start, fits
        least_ns.append(best_ns)
        last.append(Group(queues[best_start:end], best_fits))
    groups = []
    end = len(queues)
    while end:
        groups.append(last[end - 1])
        end -= len(groups[-1].queues)
    return groups[::-1]


def _merge(group: Group) -> StackQueue:
    """Make one queue of a group, for a policy to read."""
    queues, longest = group.queues, group.queues[-1]
    rows_by_bits: Counter[int] = Counter()
    for queue in queues:
        rows_by_bits.update(queue.rows_by_bits)
    entries = sorted(itertools.chain(*(queue.entries for queue in queues)), key=by_urgency)
    by_owners: dict[tuple[int, ...], list[Request]] = {}
    for waiting in entries:
        by_owners.setdefault(waiting.owners, []).append(waiting)
    return StackQueue(
        group.fits,
        longest.buckets,
        entries=entries,
        by_owners=by_owners,
        rows=sum(queue.rows for queue in queues),
        rows_by_bits=rows_by_bits,
        length=longest.length,
    )
