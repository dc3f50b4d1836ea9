"""A device that only takes time: lanes side by side, each slowed down by those beside it."""

from __future__ import annotations

import operator
import random
from array import array
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lanewise.scheduler.costs.estimate import after_wait
from lanewise.scheduler.costs.table import Bucket, CostTable, Kind
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.request import Launch


class Work(NamedTuple):
    """A launch as the device sees it.

    Attributes:
        launch: handed back at its end.
        rows: executed, padding included.
        shapes: what must be equal, besides rows, for the launch after it in its execution
            context to need no change of shape.
    """

    launch: Launch
    lane_id: LaneId
    profile: int
    rows: int
    bucket: Bucket
    shapes: Hashable

    def executes_like(self, other: Work) -> bool:
        """Whether the execution context need not be changed between the two."""
        return (
            self.profile == other.profile
            and self.rows == other.rows
            and self.shapes == other.shapes
        )


class Ended(NamedTuple):
    """A launch whose outputs can be read."""

    launch: Launch
    at_ns: int


@dataclass(slots=True, eq=False)
class _Running:
    """A launch that executes.

    Attributes:
        left_ns: how long it would still take if it were alone.
        slowdown: how many times longer than alone it takes at present.
    """

    work: Work
    began_ns: int
    left_ns: float
    slowdown: float = 1.0

    @property
    def lasts_ns(self) -> float:
        return self.left_ns * self.slowdown


_lasts_ns = operator.attrgetter("lasts_ns")


@dataclass(slots=True, eq=False)
class _Context:
    """What executes launches one after the other: a lane's execution context, or the only one.

    Attributes:
        queue: given to it and not begun, and when it was given.
        last: what it executed last, or executes.
    """

    queue: deque[tuple[Work, int]] = field(default_factory=deque)
    running: _Running | None = None
    last: Work | None = None


class Device:
    """Executes launches in virtual time.

    A launch takes what the cost table says for it alone, and what a change of shapes or
    profile costs in its context; if it waited for the one before it in its context, less by
    that, but no less than the table says for one behind another. Beside others it progresses
    at the speed 1 / (1 + sum of (slowdown beside each of them - 1)): slowdowns of single
    pairs are all that is measured, and their excess is added up.

    Attributes:
        next_end_ns: when the next launch will be over; None if nothing runs.
        work_ns: what all launches begun so far take if each is alone.
        busy: for each lane, when it began to execute something and when that was over, in turn.

    Args:
        costs: the truth; only read.
        one_context: all lanes share one execution context, which switches profiles.
        draw: picks one of the kept samples for every launch; None for the median.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        costs: CostTable,
        *,
        one_context: bool = False,
        draw: random.Random | None = None,
    ) -> None:
        self._costs = costs
        self._draw = draw
        self._estimates = dict(costs.kinds())
        self._excess: dict[tuple[int, int, int], float] = {}
        if one_context:
            self._contexts = [_Context()] * len(lanes)
        else:
            self._contexts = [_Context() for _ in lanes]
        self._running: list[_Running] = []
        self._now_ns = 0
        self._next: _Running | None = None
        self.next_end_ns: int | None = None
        self.work_ns = 0
        self.busy = tuple(array("q") for _ in lanes)

    def start(self, work: Work, now_ns: int) -> None:
        """Give it a launch; it begins when the context is done with those before it.

        The device must have been advanced to `now_ns`.
        """
        self._progress(now_ns)
        context = self._contexts[work.lane_id]
        if context.running is None:
            self._begin(context, work, now_ns)
            self._plan()
        else:
            context.queue.append((work, now_ns))

    def advance(self, to_ns: int) -> list[Ended]:
        """Execute until `to_ns`; get what was over by then, in that order."""
        ended = []
        while self._next is not None and self.next_end_ns is not None:
            over, at_ns = self._next, self.next_end_ns
            if at_ns > to_ns:
                break
            self._progress(at_ns)
            self._end(over)
            ended.append(Ended(over.work.launch, at_ns))
        self._progress(to_ns)
        return ended

    def _begin(self, context: _Context, work: Work, given_ns: int) -> None:
        alone_ns = self._alone_ns(work, self._now_ns - given_ns)
        alone_ns += self._change_ns(work, context.last)
        self.work_ns += alone_ns
        new = _Running(work, self._now_ns, alone_ns)
        for other in self._running:
            other.slowdown += self._excess_of(other.work, work)
            new.slowdown += self._excess_of(work, other.work)
        context.running, context.last = new, work
        self._running.append(new)

    def _end(self, over: _Running) -> None:
        self._running.remove(over)
        context = self._contexts[over.work.lane_id]
        context.running = None
        self.busy[over.work.lane_id].extend((over.began_ns, self._now_ns))
        # Added up anew, and not subtracted, so that rounding errors do not pile up.
        for one in self._running:
            one.slowdown = 1 + sum(
                self._excess_of(one.work, other.work) for other in self._running if other is not one
            )
        if context.queue:
            self._begin(context, *context.queue.popleft())
        self._plan()

    def _progress(self, to_ns: int) -> None:
        passed_ns = to_ns - self._now_ns
        assert passed_ns >= 0, "the device's time went backwards"
        if passed_ns:
            for one in self._running:
                one.left_ns -= passed_ns / one.slowdown
            self._now_ns = to_ns

    def _plan(self) -> None:
        """Find out which launch ends next, and when."""
        if not self._running:
            self._next = self.next_end_ns = None
            return
        # Of those that end together, the one that began first.
        self._next = min(self._running, key=_lasts_ns)
        self.next_end_ns = self._now_ns + max(0, round(self._next.lasts_ns))

    def _excess_of(self, work: Work, other: Work) -> float:
        """Tell by how much of its time alone a launch takes longer beside another."""
        key = (work.profile, other.profile, other.rows)
        excess = self._excess.get(key)
        if excess is None:
            excess = self._excess[key] = self._costs.beside(*key) - 1
        return excess

    def _alone_ns(self, work: Work, waited_ns: int) -> int:
        """Tell how long a launch takes alone, having waited for the one before it."""
        kind = Kind(work.profile, work.rows, work.bucket)
        estimate = self._estimates.get(kind) if self._draw else None
        if self._draw and estimate:
            took_ns = self._draw.choice(estimate.samples_ns)
        else:
            took_ns = self._costs.typical_ns(*kind)
        if not waited_ns:
            return took_ns
        behind_ns = self._costs.behind_ns(*kind)
        if self._draw and estimate:
            if samples_ns := estimate.behind_samples_ns:
                behind_ns = self._draw.choice(samples_ns)
            else:
                behind_ns = behind_ns * took_ns // estimate.typical_ns
        return after_wait(took_ns, behind_ns, waited_ns)

    def _change_ns(self, work: Work, last: Work | None) -> int:
        """Tell what it costs that a context executed something else last."""
        if last is None or work.executes_like(last):
            return 0
        if last.profile != work.profile:
            return self._costs.switch_ns
        return self._costs.change_ns.get(work.profile, 0)
