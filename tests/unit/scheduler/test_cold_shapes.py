"""Requests of shapes that no lane has been compiled for yet."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from helpers.gated import GatedRunner
from helpers.sim import model, profile
from lanewise.backends.runner import LoadedModel
from lanewise.clock import NS_PER_S, SystemClock
from lanewise.errors import DeadlineExpired, Draining, ExecutionFailed
from lanewise.model.spec import Padding
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.request import RequestOptions


class ColdRunner(GatedRunner):
    """Warm for the lengths in `warm`; `prepare` waits until the test lets it go on."""

    def __init__(self, profile, warm=()):
        super().__init__(profile)
        self.warm = set(warm)
        self.asked = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.error = None

    def is_warm(self, shapes):
        return shapes["X"][1] in self.warm

    def prepare(self, shapes):
        self.asked.release()
        assert self.let_go.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        self.warm.add(shapes["X"][1])


def of_length(length):
    return {"X": np.zeros((1, length), np.float32)}


def dispatch(*runners):
    spec = model(*(runner.profile for runner in runners))
    loaded = LoadedModel(spec, runners)
    return Dispatcher(loaded, SystemClock(), max_queue_requests=10, costs=CostTable())


def two_profiles():
    return [profile(i, (1, 4, 8), [(1, 16, 64)]) for i in range(2)]


async def asked(runner):
    assert await asyncio.to_thread(runner.asked.acquire, timeout=30)


async def end(dispatcher, *runners):
    for runner in runners:
        runner.release(10)
        for _ in range(10):
            runner.let_go.release()
    await dispatcher.drain(NS_PER_S)
    await dispatcher.close()
    assert dispatcher.waiting_requests == dispatcher.open_requests == 0


def test_a_request_of_a_new_shape_waits_until_a_lane_is_prepared_and_says_so():
    async def scenario():
        runner = ColdRunner(two_profiles()[0])
        dispatcher = dispatch(runner)
        running = asyncio.ensure_future(dispatcher.submit(of_length(24)))
        await asked(runner)
        assert dispatcher.waiting_requests == 1
        assert not runner.batches
        runner.let_go.release()
        runner.release(2)
        assert (await running).was_cold
        assert not (await dispatcher.submit(of_length(24))).was_cold
        await end(dispatcher, runner)

    asyncio.run(scenario())


def test_while_one_lane_is_warm_it_serves_and_the_other_is_prepared_meanwhile():
    async def scenario():
        first, second = (
            ColdRunner(p, warm) for p, warm in zip(two_profiles(), ({24}, ()), strict=True)
        )
        dispatcher = dispatch(first, second)
        first.release()
        result = await dispatcher.submit(of_length(24))
        assert not result.was_cold
        assert result.launches[0].profile is first.profile
        await asked(second)
        await end(dispatcher, first, second)

    asyncio.run(scenario())


def test_a_profile_that_is_cold_does_not_own_the_requests_that_wait_for_another():
    async def scenario():
        first, second = (
            ColdRunner(p, warm) for p, warm in zip(two_profiles(), ({24}, ()), strict=True)
        )
        dispatcher = dispatch(first, second)
        running = [asyncio.ensure_future(dispatcher.submit(of_length(24)))]
        await asyncio.to_thread(first.started.get, timeout=30)
        running.append(asyncio.ensure_future(dispatcher.submit(of_length(24))))
        await asyncio.sleep(0)
        assert dispatcher.waiting_requests == 1
        dispatcher._scheduler.check_invariants()
        await end(dispatcher, first, second)
        await asyncio.gather(*running)

    asyncio.run(scenario())


def test_a_shape_is_prepared_once_for_all_who_wait_for_it():
    async def scenario():
        runner = ColdRunner(two_profiles()[0])
        dispatcher = dispatch(runner)
        running = [asyncio.ensure_future(dispatcher.submit(of_length(24))) for _ in range(3)]
        await asked(runner)
        runner.let_go.release()
        runner.release(3)
        await asyncio.gather(*running)
        assert not runner.asked.acquire(blocking=False)
        await end(dispatcher, runner)

    asyncio.run(scenario())


def test_the_deadline_counts_while_a_shape_is_prepared():
    async def scenario():
        runner = ColdRunner(two_profiles()[0])
        dispatcher = dispatch(runner)
        soon_ns = SystemClock().now_ns() + NS_PER_S // 50
        with pytest.raises(DeadlineExpired, match="compiled"):
            await dispatcher.submit(of_length(24), RequestOptions(deadline_ns=soon_ns))
        assert not runner.batches
        await end(dispatcher, runner)

    asyncio.run(scenario())


def test_draining_ends_requests_that_wait_for_a_shape():
    async def scenario():
        runner = ColdRunner(two_profiles()[0])
        dispatcher = dispatch(runner)
        running = asyncio.ensure_future(dispatcher.submit(of_length(24)))
        await asked(runner)
        await dispatcher.drain(0)
        with pytest.raises(Draining):
            await running
        await end(dispatcher, runner)

    asyncio.run(scenario())


def test_a_shape_that_cannot_be_prepared_fails_its_requests_and_no_others():
    async def scenario():
        runner = ColdRunner(two_profiles()[0], warm={16})
        runner.error = ExecutionFailed("no kernel")
        dispatcher = dispatch(runner)
        running = asyncio.ensure_future(dispatcher.submit(of_length(24)))
        await asked(runner)
        runner.let_go.release()
        with pytest.raises(ExecutionFailed, match="no kernel"):
            await running
        runner.release()
        await dispatcher.submit(of_length(16))
        await end(dispatcher, runner)

    asyncio.run(scenario())


def test_a_request_given_up_while_its_shape_is_prepared_leaves_nothing_behind():
    async def scenario():
        runner = ColdRunner(two_profiles()[0])
        dispatcher = dispatch(runner)
        running = asyncio.ensure_future(dispatcher.submit(of_length(24)))
        await asked(runner)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert dispatcher.waiting_requests == 0
        await end(dispatcher, runner)

    asyncio.run(scenario())


def test_with_padding_the_lengths_that_are_executed_are_what_is_warm_or_cold():
    async def scenario():
        only = replace(profile(0, (1, 4, 8), [(1, 16, 64)]), lengths=(16, 64))
        runner = ColdRunner(only, warm={16})
        spec = replace(model(only), padding=Padding("tokens", {"X": 1}, {"X": 0}))
        dispatcher = Dispatcher(
            LoadedModel(spec, (runner,)), SystemClock(), max_queue_requests=10, costs=CostTable()
        )
        runner.release(2)
        short = await dispatcher.submit(of_length(5))
        task = asyncio.create_task(dispatcher.submit(of_length(20)))
        await asked(runner)
        runner.let_go.release()
        longer = await task
        await end(dispatcher, runner)
        return short.was_cold, longer.was_cold, runner.warm

    assert asyncio.run(scenario()) == (False, True, {16, 64})
