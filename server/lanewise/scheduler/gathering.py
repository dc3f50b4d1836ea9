"""When requests that have come are to be launched: not before those right behind them are in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from lanewise.clock import NS_PER_MS, Clock
from lanewise.cores import usable_cores

TURNS_ON_FEW_CORES = 8
"""Turns of the loop without a new request that are waited out, some 5 us each: as many as a call
takes to come in through the threads of gRPC (1.85, one core: with 5 half of what there is to
gain is gained, with 8 to 20 all of it)."""

FEW_CORES = 2
TURNS = 2
"""The same where whoever brings requests has a core of its own. There a turn takes longer, since it
asks the device for its progress, and more of them made requests wait that came 0.5 ms apart."""

MAX_NS = 2 * NS_PER_MS
"""How long requests are gathered at most while they keep coming."""

TRUST = 8
"""So many times in a row patience may bring nothing before it is given up. With fewer it was given
up on a server that needed it, at 32 in flight, whenever requests happened to come apart."""

PROBE_EVERY = 16
"""Where it was given up it is tried again this often: a caller that is alone pays for it once in
so many requests."""


class Gathering:
    """Has requests that come close together launched together. Used on one event loop.

    A server that is short of processor time reads its requests one by one, and launches of one
    row each cost it more than to read them all first: on one core, 32 requests in flight, it
    answers 2 000 a second without patience and 3 500 with it. Where nobody else comes it would be
    time lost, so patience is only kept while it pays.

    Args:
        launch: has what was admitted launched.
        most_ns: how long requests may be held back for this.

    Attributes:
        is_gathering: whether `launch` is about to be called, so that whoever finds a lane free
            need not launch what has come so far.
    """

    def __init__(self, launch: Callable[[], None], clock: Clock, most_ns: int) -> None:
        self._launch = launch
        self._clock = clock
        self._most_ns = min(most_ns, MAX_NS)
        self._loop = asyncio.get_running_loop()
        self._most_turns = TURNS if usable_cores() > FEW_CORES else TURNS_ON_FEW_CORES
        self._in_vain = 0
        self.is_gathering = False
        self._began_ns = 0
        self._has_news = False
        self._has_paid = False
        self._turns_left = 0

    def note_arrival(self) -> None:
        self._has_news = True
        if not self.is_gathering:
            self.is_gathering = True
            self._has_paid = False
            self._began_ns = self._clock.now_ns()
            in_vain = self._in_vain
            is_tried = in_vain < TRUST or (in_vain - TRUST) % PROBE_EVERY == PROBE_EVERY - 1
            self._turns_left = self._most_turns if is_tried else 0
            self._loop.call_soon(self._first_look)

    def _first_look(self) -> None:
        """End the turn in which the first request came; others of the same turn are in, too."""
        self._has_news = False
        self._wait_or_launch()

    def _look(self) -> None:
        if self._has_news:
            self._has_news = False
            self._has_paid = True
            self._turns_left = self._most_turns
        self._wait_or_launch()

    def _wait_or_launch(self) -> None:
        if self._turns_left and self._clock.now_ns() - self._began_ns < self._most_ns:
            self._turns_left -= 1
            os.sched_yield()  # to the thread that brings requests, if it has no core of its own
            self._loop.call_soon(self._look)
            return
        self._in_vain = 0 if self._has_paid else self._in_vain + 1
        self.is_gathering = False
        self._launch()
