from __future__ import annotations

import asyncio

import pytest

from lanewise.clock import NS_PER_MS
from lanewise.cores import usable_cores
from lanewise.scheduler import gathering
from lanewise.scheduler.gathering import PROBE_EVERY, TRUST, TURNS_ON_FEW_CORES, Gathering

pytestmark = pytest.mark.skipif(
    usable_cores() > gathering.FEW_CORES, reason="the number of turns is that of few cores"
)


class TurnClock:
    """A clock that a test moves."""

    ns = 0

    def now_ns(self):
        return self.ns


class Scene:
    """Counts the turns of the loop, and notes in which of them something was launched."""

    def __init__(self, most_ns=2 * NS_PER_MS):
        self.clock = TurnClock()
        self.turn = 0
        self.launched = []
        self.gathering = Gathering(lambda: self.launched.append(self.turn), self.clock, most_ns)

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


def test_requests_that_come_close_together_are_launched_once():
    async def scenario():
        scene = Scene()
        await scene.pass_turns(40, arrivals=(1, 1 + TURNS_ON_FEW_CORES, 2 * TURNS_ON_FEW_CORES))
        return scene.launched

    assert len(asyncio.run(scenario())) == 1


def test_a_request_that_nobody_follows_stops_being_held_back():
    async def scenario():
        scene = Scene()
        return [await scene.lone_request() for _ in range(TRUST + 2)]

    waits = asyncio.run(scenario())
    assert waits[0] > waits[-1]
    assert waits[-1] == 1


def test_patience_is_tried_again_now_and_then_and_kept_where_it_pays():
    async def scenario():
        scene = Scene()
        for _ in range(TRUST):
            await scene.lone_request()
        waits = [await scene.lone_request() for _ in range(2 * PROBE_EVERY)]
        assert sum(wait > 1 for wait in waits) == 2
        scene.gathering._in_vain = TRUST + PROBE_EVERY - 1  # the next one is a try
        turn = scene.turn
        await scene.pass_turns(30, arrivals=(turn + 1, turn + 4))
        return await scene.lone_request()

    assert asyncio.run(scenario()) > TURNS_ON_FEW_CORES


def test_requests_that_keep_coming_are_launched_when_the_time_is_over():
    async def scenario():
        scene = Scene(most_ns=NS_PER_MS)
        for turn in range(1, 13):
            scene.clock.ns = turn * NS_PER_MS // 10
            await scene.pass_turns(1, arrivals=(turn,))
        return scene.launched

    launched = asyncio.run(scenario())
    assert launched
    assert launched[0] >= 10
