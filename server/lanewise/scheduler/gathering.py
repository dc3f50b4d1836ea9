"""When requests that have come are to be launched: not before those right behind them are in.

A server that is short of processor time reads its requests one by one, and launches of one row
each cost it more than to read them all first. Where nobody else comes it would be time lost, so
requests are only held back while others are to be expected.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from lanewise.clock import NS_PER_MS, Clock

FEW_CORES = 2
"""With no more, whoever brings requests shares a core with the loop."""

MOST_NS = 2 * NS_PER_MS
"""How long requests are gathered at most while they keep coming."""


class Gathering(Protocol):
    """Has requests that come close together launched together. Used on one event loop.

    Attributes:
        is_gathering: whether a launch is about to be made, so that whoever finds a lane free
            need not launch what has come so far.
    """

    is_gathering: bool

    def note_arrival(self) -> None:
        """Take note that a request was admitted."""
        ...


def gathering_for(launch: Callable[[], None], clock: Clock, most_ns: int) -> Gathering:
    """Get the way to gather that suits the cores of this process.

    Args:
        launch: has what was admitted launched.
        clock: of the scheduler.
        most_ns: how long requests may be held back for this.
    """
    most_ns = min(most_ns, MOST_NS)
    if _cores() <= FEW_CORES:
        return GatheringByTime(launch, clock, most_ns)
    return GatheringByTurns(launch, clock, most_ns)


LEAST_PATIENCE_NS, MOST_PATIENCE_NS = NS_PER_MS // 10, NS_PER_MS // 2
"""Bounds of how long the next request is waited for."""

PATIENCE = 2.0
"""How many times the usual gap between requests that are waiting to be read is waited."""

WORTH = 0.4
"""The share of waits that must bring a request for waiting to go on."""

LEARNING = 0.25
"""What the latest gap, or wait, counts for against all before."""

PROBE_EVERY = 17
"""Where patience is given up it is tried again this often: a caller that is alone pays for it once
in so many requests. A prime: of requests that come in pairs it must not always try the second."""


class GatheringByTime:
    """Waits for the next request a bit longer than it takes to read one.

    Of clients in closed loops the next requests are on their way when their last responses are:
    on one core with 32 in flight a launch then takes 5 rows instead of 2, and the server
    spends 330 us of processor time on a request instead of 500 (grpcio 1.85, a busy machine).
    """

    def __init__(self, launch: Callable[[], None], clock: Clock, most_ns: int) -> None:
        self._launch = launch
        self._clock = clock
        self._most_ns = most_ns
        self._loop = asyncio.get_running_loop()
        self.is_gathering = False
        self._gap_ns = MOST_PATIENCE_NS / PATIENCE
        self._success = 1.0
        self._untried = 0
        self._began_ns = self._last_ns = self._patience_ns = 0

    def note_arrival(self) -> None:
        """See `Gathering`."""
        now_ns = self._clock.now_ns()
        if self.is_gathering:
            self._gap_ns += (now_ns - self._last_ns - self._gap_ns) * LEARNING
            self._last_ns = now_ns
            return
        self.is_gathering = True
        self._began_ns = self._last_ns = now_ns
        self._patience_ns = self._patience_now()
        if self._patience_ns:
            self._clock.call_at(now_ns + self._patience_ns, self._look)
        else:
            self._loop.call_soon(self._look)  # those of the same turn are in then, too

    def _patience_now(self) -> int:
        self._untried += 1
        if self._success < WORTH and self._untried < PROBE_EVERY:
            return 0
        self._untried = 0
        return round(min(MOST_PATIENCE_NS, max(LEAST_PATIENCE_NS, PATIENCE * self._gap_ns)))

    def _look(self) -> None:
        if self._patience_ns:
            due_ns = min(self._last_ns + self._patience_ns, self._began_ns + self._most_ns)
            if self._clock.now_ns() < due_ns:
                self._clock.call_at(due_ns, self._look)
                return
            self._success += ((self._last_ns > self._began_ns) - self._success) * LEARNING
        self.is_gathering = False
        self._launch()


TURNS = 2
"""Turns of the loop without a new request that are waited out. A turn asks the device for its
progress, and more of them made requests wait that came 0.5 ms apart (H200, 16 cores)."""

TRUST = 8
"""So many times in a row patience may bring nothing before it is given up."""


class GatheringByTurns:
    """Waits until the loop has gone round without a new request.

    Where requests are brought by threads and processes with cores of their own, those that come
    together are in within a turn or two, and any longer wait is seen in their latency.
    """

    def __init__(self, launch: Callable[[], None], clock: Clock, most_ns: int) -> None:
        self._launch = launch
        self._clock = clock
        self._most_ns = most_ns
        self._loop = asyncio.get_running_loop()
        self._in_vain = 0
        self.is_gathering = False
        self._began_ns = 0
        self._has_news = False
        self._has_paid = False
        self._turns_left = 0

    def note_arrival(self) -> None:
        """See `Gathering`."""
        self._has_news = True
        if not self.is_gathering:
            self.is_gathering = True
            self._has_paid = False
            self._began_ns = self._clock.now_ns()
            self._turns_left = self._patience_now()
            self._loop.call_soon(self._first_look)

    def _patience_now(self) -> int:
        is_tried = self._in_vain < TRUST or (self._in_vain - TRUST) % PROBE_EVERY == PROBE_EVERY - 1
        return TURNS if is_tried else 0

    def _first_look(self) -> None:
        """End the turn in which the first request came; others of the same turn are in, too."""
        self._has_news = False
        self._wait_or_launch()

    def _look(self) -> None:
        if self._has_news:
            self._has_news = False
            self._has_paid = True
            self._turns_left = TURNS
        self._wait_or_launch()

    def _wait_or_launch(self) -> None:
        if self._turns_left and self._clock.now_ns() - self._began_ns < self._most_ns:
            self._turns_left -= 1
            os.sched_yield()  # to the thread that brings requests
            self._loop.call_soon(self._look)
            return
        self._in_vain = 0 if self._has_paid else self._in_vain + 1
        self.is_gathering = False
        self._launch()


def _cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0))
