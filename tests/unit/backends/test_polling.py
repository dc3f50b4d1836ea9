"""Who is told of a started batch, when, and what the event loop does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from lanewise.backends.polling import Poller
from lanewise.backends.threads import RunnerThreads


class SetClock:
    """A clock that shows what the test sets."""

    def __init__(self):
        self.time_ns = 0

    def now_ns(self):
        return self.time_ns

    def call_at(self, when_ns, callback):
        raise NotImplementedError

    def block_for(self, duration_ns):
        raise NotImplementedError


class SetBatch:
    """A batch that is done, and gives what it gives, when the test says so."""

    def __init__(self, outputs=None, *, is_done=False, error=None):
        self.outputs = outputs
        self.is_over = threading.Event()
        self.error = error
        self.polls = 0
        self.results = 0
        self.ended_on = None
        if is_done:
            self.is_over.set()

    def is_done(self):
        self.polls += 1
        return self.is_over.is_set()

    def result(self):
        self.results += 1
        self.ended_on = threading.get_ident()
        assert self.is_over.wait(timeout=30)
        if self.error is not None:
            raise self.error
        return self.outputs


@contextlib.contextmanager
def polling():
    clock = SetClock()
    threads = RunnerThreads(1, "test")
    try:
        yield Poller(clock), threads, clock
    finally:
        threads.stop()


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_a_batch_gives_is_told_once_and_in_a_later_turn():
    async def scenario():
        told = []
        with polling() as (poller, threads, _):
            batch = SetBatch({"Y": 1}, is_done=True)
            poller.add(batch, 100, threads, lambda *end: told.append(end))
            assert told == []
            await turns(3)
        assert told == [({"Y": 1}, None)]
        assert batch.results == 1
        assert batch.ended_on == threading.get_ident()

    asyncio.run(scenario())


def test_what_a_batch_raises_is_told():
    async def scenario():
        told, error = [], ValueError("no")
        with polling() as (poller, threads, _):
            batch = SetBatch(is_done=True, error=error)
            poller.add(batch, 100, threads, lambda *end: told.append(end))
            await turns(3)
        assert told == [(None, error)]

    asyncio.run(scenario())


def test_a_batch_is_polled_once_in_each_turn_and_not_when_it_is_over():
    async def scenario():
        with polling() as (poller, threads, _):
            batch = SetBatch()
            poller.add(batch, 100, threads, lambda *_: None)
            await turns(20)
            assert 19 <= batch.polls <= 21
            batch.is_over.set()
            await turns(3)
            polls = batch.polls
            await turns(10)
            assert batch.polls == polls

    asyncio.run(scenario())


def test_the_loop_is_at_rest_when_every_batch_is_over():
    async def scenario():
        loop = asyncio.get_running_loop()
        with polling() as (poller, threads, _):
            for _ in range(2):
                poller.add(SetBatch(is_done=True), 100, threads, lambda *_: None)
            await turns(5)
            assert not loop._ready

    asyncio.run(scenario())


def test_batches_end_in_any_order():
    async def scenario():
        told = []
        with polling() as (poller, threads, _):
            batches = [SetBatch(number) for number in range(3)]
            for batch in batches:
                poller.add(batch, 100, threads, lambda result, _: told.append(result))
            for number in (1, 2, 0):
                batches[number].is_over.set()
                await turns(3)
        assert told == [1, 2, 0]

    asyncio.run(scenario())


def test_another_batch_may_be_added_when_one_ends():
    async def scenario():
        told = []
        with polling() as (poller, threads, _):

            def add_next(result, _):
                told.append(result)
                if result < 3:
                    next_one = SetBatch(result + 1, is_done=True)
                    poller.add(next_one, 100, threads, add_next)

            poller.add(SetBatch(0, is_done=True), 100, threads, add_next)
            await turns(10)
        assert told == [0, 1, 2, 3]

    asyncio.run(scenario())


def test_a_batch_that_takes_too_long_is_waited_for_on_a_thread():
    async def scenario():
        done = asyncio.get_running_loop().create_future()
        with polling() as (poller, threads, clock):
            batch = SetBatch({"Y": 1})
            poller.add(batch, 100, threads, lambda *end: done.set_result(end))
            clock.time_ns = 99
            await turns(5)
            assert batch.results == 0
            clock.time_ns = 100
            await turns(3)
            polls = batch.polls
            batch.is_over.set()
            assert await done == ({"Y": 1}, None)
        assert batch.results == 1
        assert batch.polls == polls
        assert batch.ended_on != threading.get_ident()

    asyncio.run(scenario())


def test_a_batch_that_is_done_is_told_on_the_loop_however_late_it_is():
    async def scenario():
        with polling() as (poller, threads, clock):
            batch = SetBatch(is_done=True)
            clock.time_ns = 1000
            poller.add(batch, 100, threads, lambda *_: None)
            await turns(3)
        assert batch.ended_on == threading.get_ident()

    asyncio.run(scenario())


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_whoever_fails_to_be_told_leaves_the_other_batches_alone(failing):
    async def scenario():
        told, problems = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, it: problems.append(it))

        def tell(result, _):
            if result == failing:
                raise ValueError(result)
            told.append(result)

        with polling() as (poller, threads, _):
            for number in range(3):
                poller.add(SetBatch(number, is_done=True), 100, threads, tell)
            await turns(10)
        assert told == [number for number in range(3) if number != failing]
        assert len(problems) == 1

    asyncio.run(scenario())
