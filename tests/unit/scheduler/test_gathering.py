"""Requests that come close together are launched together, and lone ones are not held up."""

from __future__ import annotations

import asyncio
import heapq
import itertools

import pytest

from lanewise.clock import NS_PER_MS
from lanewise.scheduler import gathering
from lanewise.scheduler.gathering import (
    FEW_CORES,
    LEAST_PATIENCE_NS,
    MOST_PATIENCE_NS,
    PATIENCE,
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


class Moments:
    """Requests come at times, and it is noted when launches are made."""

    def __init__(self, most_ns=MOST_NS):
        self.clock = MovedClock()
        self.launched_ms = []
        self.gathering = GatheringByTime(self._launch, self.clock, most_ns)

    def _launch(self):
        self.launched_ms.append(self.clock.ns / NS_PER_MS)

    async def arrivals(self, *at_ms):
        for each in at_ms:
            self.clock.move_to(round(each * NS_PER_MS))
            self.gathering.note_arrival()
            await asyncio.sleep(0)  # a turn of the loop

    async def lone_request(self):
        """Let one request come and be launched; get how long it waited."""
        began_ms = self.clock.ns / NS_PER_MS + 10
        await self.arrivals(began_ms)
        self.clock.move_to(round((began_ms + 10) * NS_PER_MS))
        return self.launched_ms[-1] - began_ms


def test_requests_that_come_close_together_are_launched_once_when_one_fails_to_come():
    async def scenario():
        moments = Moments()
        await moments.arrivals(1.0, 1.1, 1.2, 1.3)
        await moments.arrivals(50.0)
        return moments.launched_ms

    (launched_ms,) = asyncio.run(scenario())
    assert 1.3 + LEAST_PATIENCE_NS / NS_PER_MS <= launched_ms <= 1.3 + MOST_PATIENCE_NS / NS_PER_MS


def test_the_quicker_requests_follow_each_other_the_shorter_the_next_is_waited_for():
    async def scenario(gap_ms):
        moments = Moments()
        for burst in range(10):
            await moments.arrivals(*(10 * burst + 1 + i * gap_ms for i in range(4)))
        moments.clock.move_to(1000 * NS_PER_MS)
        return moments.launched_ms[-1] - (91 + 3 * gap_ms)

    assert asyncio.run(scenario(0.2)) == pytest.approx(PATIENCE * 0.2, abs=0.01)
    assert asyncio.run(scenario(0.1)) == pytest.approx(PATIENCE * 0.1, abs=0.01)


def test_requests_that_keep_coming_are_launched_when_the_time_is_over():
    async def scenario():
        moments = Moments()
        await moments.arrivals(*(1 + i * 0.1 for i in range(100)))
        return moments.launched_ms

    gaps = [after - before for before, after in itertools.pairwise(asyncio.run(scenario()))]
    assert gaps
    assert gaps == pytest.approx([MOST_NS / NS_PER_MS + 0.1] * len(gaps), abs=0.11)


def test_a_caller_that_is_alone_is_held_back_only_now_and_then():
    async def scenario():
        moments = Moments()
        return [await moments.lone_request() > 0 for _ in range(10 * PROBE_EVERY)]

    held = asyncio.run(scenario())
    assert held[0]
    assert sum(held[PROBE_EVERY:]) == 9


def test_patience_comes_back_when_trying_it_has_brought_requests():
    async def scenario():
        moments = Moments()
        for _ in range(PROBE_EVERY):
            await moments.lone_request()
        began_ms = moments.clock.ns / NS_PER_MS
        for pair in range(10 * PROBE_EVERY):
            await moments.arrivals(began_ms + 10 * pair, began_ms + 10 * pair + 0.1)
        moments.clock.move_to(moments.clock.ns + 10 * NS_PER_MS)
        return moments.launched_ms

    *_, one, other, another = asyncio.run(scenario())
    assert (other - one, another - other) == pytest.approx((10, 10))  # once for each pair


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


def test_turns_are_waited_out_no_more_when_nobody_follows():
    async def scenario():
        turns = Turns()
        return [await turns.lone_request() for _ in range(TRUST + 2)]

    waits = asyncio.run(scenario())
    assert waits[0] > waits[-1]
    assert waits[-1] == 1


def test_turns_are_tried_again_now_and_then_and_kept_where_that_pays():
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
