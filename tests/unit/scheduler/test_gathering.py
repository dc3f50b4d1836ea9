"""Requests that come close together are launched together, and lone ones are not held up."""

from __future__ import annotations

import asyncio
import heapq
import itertools

import pytest

from lanewise.clock import NS_PER_MS
from lanewise.scheduler import gathering
from lanewise.scheduler.gathering import (
    CLOSE_NS,
    FEW_CORES,
    GAPS,
    PROBE_EVERY,
    TRUST,
    TURNS,
    GatheringByTime,
    GatheringByTurns,
    gathering_for,
)

MOST_NS = 2 * NS_PER_MS


class MovedClock:
    """A clock that a test moves, and whose timers go off meanwhile."""

    def __init__(self):
        self.ns = 0
        self._numbers = itertools.count()
        self._timers = []

    def now_ns(self):
        return self.ns

    def call_at(self, when_ns, callback):
        heapq.heappush(self._timers, (when_ns, next(self._numbers), callback))

    def move_to(self, to_ns):
        while self._timers and self._timers[0][0] <= to_ns:
            when_ns, _, callback = heapq.heappop(self._timers)
            self.ns = max(self.ns, when_ns)
            callback()
        self.ns = to_ns


def launches_ms(arrivals_ms, until_ms, most_ns=MOST_NS):
    """When requests that come at these times are launched, by their time."""

    async def scenario():
        clock, launched = MovedClock(), []
        held = GatheringByTime(lambda: launched.append(clock.ns / NS_PER_MS), clock, most_ns)
        for at_ms in arrivals_ms:
            clock.move_to(round(at_ms * NS_PER_MS))
            held.note_arrival()
            await asyncio.sleep(0)  # a turn of the loop
        clock.move_to(round(until_ms * NS_PER_MS))
        return launched

    return asyncio.run(scenario())


def test_nobody_is_waited_for_until_requests_have_come_close_together():
    assert launches_ms([10, 20, 30], until_ms=40) == [10, 20, 30]


def test_requests_that_come_close_together_are_launched_once_when_one_fails_to_come():
    burst = [i * 0.1 for i in range(1, 4 * GAPS)]

    *_, last = launches_ms([*burst, 50, 50.1, 50.2, 50.3], until_ms=60)

    assert 50.3 < last < 50.3 + 2 * CLOSE_NS / NS_PER_MS


def test_a_pause_does_not_end_the_patience_that_requests_before_it_have_earned():
    burst = [i * 0.1 for i in range(1, 4 * GAPS)]

    launched = launches_ms([*burst, 50, 50.1, 50.2, 50.3], until_ms=60)

    assert sum(at_ms >= 50 for at_ms in launched) == 1


def test_requests_that_keep_coming_are_launched_when_the_time_is_over():
    launched = launches_ms([i * 0.1 for i in range(1, 200)], until_ms=30)

    gaps = [after - before for before, after in itertools.pairwise(launched[-6:-1])]
    assert gaps == pytest.approx([MOST_NS / NS_PER_MS + 0.1] * 4, abs=0.11)


def test_requests_that_come_far_apart_stop_being_held_back():
    burst = [i * 0.1 for i in range(1, 4 * GAPS)]
    apart = [50 + i for i in range(GAPS)]

    assert launches_ms([*burst, *apart], until_ms=60)[-2:] == apart[-2:]


class Turns:
    """Counts the turns of the loop, and notes in which of them something was launched."""

    def __init__(self, most_ns=MOST_NS):
        self.clock = MovedClock()
        self.turn = 0
        self.launched = []
        self.gathering = GatheringByTurns(
            lambda: self.launched.append(self.turn), self.clock, most_ns
        )

    async def pass_turns(self, turns, *, arrivals=()):
        for _ in range(turns):
            self.turn += 1
            if self.turn in arrivals:
                self.gathering.note_arrival()
            await asyncio.sleep(0)

    async def lone_request(self):
        """Let one request come and be launched; get how many turns it waited."""
        began, launched = self.turn, len(self.launched)
        self.gathering.note_arrival()
        while len(self.launched) == launched:
            await self.pass_turns(1)
        return self.turn - began


def test_requests_of_turns_next_to_each_other_are_launched_once():
    async def scenario():
        turns = Turns()
        await turns.pass_turns(20, arrivals=(1, 1 + TURNS, 1 + 2 * TURNS))
        return turns.launched

    assert len(asyncio.run(scenario())) == 1


def test_a_request_that_nobody_follows_stops_being_held_back():
    async def scenario():
        turns = Turns()
        return [await turns.lone_request() for _ in range(TRUST + 2)]

    waits = asyncio.run(scenario())
    assert waits[0] > waits[-1]
    assert waits[-1] == 1


def test_patience_is_tried_again_now_and_then_and_kept_where_it_pays():
    async def scenario():
        turns = Turns()
        for _ in range(TRUST):
            await turns.lone_request()
        waits = [await turns.lone_request() for _ in range(2 * PROBE_EVERY)]
        assert sum(wait > 1 for wait in waits) == 2
        turns.gathering._in_vain = TRUST + PROBE_EVERY - 1  # the next one is a try
        turn = turns.turn
        await turns.pass_turns(10, arrivals=(turn + 1, turn + 2))
        return await turns.lone_request()

    assert asyncio.run(scenario()) > TURNS


def test_turns_that_all_bring_requests_end_when_the_time_is_over():
    async def scenario():
        turns = Turns(most_ns=NS_PER_MS)
        for turn in range(1, 13):
            turns.clock.ns = turn * NS_PER_MS // 10
            await turns.pass_turns(1, arrivals=(turn,))
        return turns.launched

    launched = asyncio.run(scenario())
    assert launched
    assert launched[0] >= 10


@pytest.mark.parametrize(
    ("cores", "kind"), [(FEW_CORES, GatheringByTime), (FEW_CORES + 1, GatheringByTurns)]
)
def test_the_way_to_gather_follows_the_cores(monkeypatch, cores, kind):
    monkeypatch.setattr(gathering.os, "sched_getaffinity", lambda _: set(range(cores)))

    async def scenario():
        return gathering_for(lambda: None, MovedClock(), MOST_NS)

    assert isinstance(asyncio.run(scenario()), kind)
