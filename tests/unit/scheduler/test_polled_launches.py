"""Launches that a runner starts and the event loop polls: nothing else may be different."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from helpers.gated import gated_model
from helpers.measured import SCALAR_BUCKET
from helpers.sim import model, profile
from lanewise.backends.polling import POLL_NS
from lanewise.clock import NS_PER_MS, NS_PER_S, SystemClock
from lanewise.errors import ExecutionFailed, RunnerLost
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher

SHORT_NS = NS_PER_MS
LONG_NS = 20 * NS_PER_MS


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"X": np.array(values, np.float32)}


@asynccontextmanager
async def dispatching(spec, *, takes_ns=SHORT_NS, depth=1, can_start=True):
    """A dispatcher whose launches are predicted to take `takes_ns`; `threads` starts empty."""
    loaded, runners = gated_model(spec, depth)
    costs = CostTable()
    for each in spec.profiles:
        for count in (each.rows.min, each.rows.max):
            costs.record(each.index, count, SCALAR_BUCKET, takes_ns)
    dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=100, costs=costs)
    await dispatcher.warm_up()
    for runner in runners.values():
        runner.can_start = can_start
        runner.threads.clear()
    try:
        yield dispatcher, runners
    finally:
        for runner in runners.values():
            runner.release(1000)
        assert await dispatcher.drain(60 * NS_PER_S) == 0
        assert await dispatcher.close()
    assert not dispatcher._flow._requests
    assert not dispatcher._launcher._in_flight
    assert dispatcher.waiting_requests == 0


async def polled(runner):
    """Return once the runner's batch has been polled again."""
    polls = runner.polls
    while runner.polls == polls:
        await asyncio.sleep(0)


def test_a_short_launch_is_run_on_the_event_loop():
    async def scenario():
        async with dispatching(model(profile(0, (1, 2, 2)))) as (dispatcher, runners):
            runners["p0"].release()
            result = await dispatcher.submit(rows(1, 2))
            assert runners["p0"].threads == {threading.get_ident()}
        assert list(result.outputs["Y"]) == [1, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("takes_ns", "can_start"),
    [(LONG_NS, True), (POLL_NS + 1, True), (SHORT_NS, False)],
    ids=["long", "just too long", "not started"],
)
def test_other_launches_are_run_on_a_thread(takes_ns, can_start):
    async def scenario():
        spec = model(profile(0, (1, 2, 2)))
        async with dispatching(spec, takes_ns=takes_ns, can_start=can_start) as (
            dispatcher,
            runners,
        ):
            runners["p0"].release()
            result = await dispatcher.submit(rows(1, 2))
            assert threading.get_ident() not in runners["p0"].threads
        assert list(result.outputs["Y"]) == [1, 2]

    asyncio.run(scenario())


def test_the_event_loop_goes_on_while_launches_are_polled():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)), profile(1, (2, 2, 2)))
        async with dispatching(spec) as (dispatcher, runners):
            tasks = [asyncio.create_task(dispatcher.submit(rows(*x))) for x in ([1], [2, 3])]
            await polled(runners["p0"])
            await polled(runners["p1"])
            runners["p1"].release()
            assert list((await tasks[1]).outputs["Y"]) == [2, 3]
            assert not tasks[0].done()
            runners["p0"].release()
            assert list((await tasks[0]).outputs["Y"]) == [1]

    asyncio.run(scenario())


def test_a_launch_that_fails_while_it_is_polled_ends_its_request_and_the_lane_serves_on():
    async def scenario():
        async with dispatching(model(profile(0, (1, 1, 1)))) as (dispatcher, runners):
            runners["p0"].fail(ExecutionFailed("not this one"))
            with pytest.raises(ExecutionFailed, match="not this one"):
                await dispatcher.submit(rows(1))
            runners["p0"].release()
            assert list((await dispatcher.submit(rows(2))).outputs["Y"]) == [2]
            (lane,) = dispatcher.status()
            assert (lane.counters.launches, lane.counters.failed_launches) == (2, 1)

    asyncio.run(scenario())


def test_a_launch_that_cannot_be_started_ends_its_request_and_the_lane_serves_on():
    async def scenario():
        async with dispatching(model(profile(0, (1, 1, 1)))) as (dispatcher, runners):
            runners["p0"].start_error = ExecutionFailed("not this one")
            with pytest.raises(ExecutionFailed, match="not this one"):
                await dispatcher.submit(rows(1))
            runners["p0"].start_error = None
            runners["p0"].release()
            assert list((await dispatcher.submit(rows(2))).outputs["Y"]) == [2]

    asyncio.run(scenario())


def test_a_runner_lost_while_it_is_polled_retires_its_lane():
    async def scenario():
        async with dispatching(model(profile(0, (1, 1, 1)))) as (dispatcher, runners):
            runners["p0"].fail(RunnerLost("the device is gone"))
            with pytest.raises(RunnerLost, match="the device is gone"):
                await dispatcher.submit(rows(1))
            assert dispatcher.lost_profiles == ("p0",)

    asyncio.run(scenario())


def test_a_request_cancelled_while_it_is_polled_counts_as_orphaned():
    async def scenario():
        async with dispatching(model(profile(0, (1, 1, 1)))) as (dispatcher, runners):
            gone = asyncio.create_task(dispatcher.submit(rows(1)))
            await polled(runners["p0"])
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            runners["p0"].release(2)
            assert list((await dispatcher.submit(rows(2))).outputs["Y"]) == [2]
            (lane,) = dispatcher.status()
            assert lane.counters.orphaned_rows == 1

    asyncio.run(scenario())


def test_a_launch_that_takes_much_longer_than_predicted_is_waited_for_on_a_thread():
    async def scenario():
        async with dispatching(model(profile(0, (1, 1, 1)))) as (dispatcher, runners):
            task = asyncio.create_task(dispatcher.submit(rows(1)))
            while not runners["p0"].threads:  # somebody waits for it
                await asyncio.sleep(0)
            assert threading.get_ident() not in runners["p0"].threads
            runners["p0"].release()
            assert list((await task).outputs["Y"]) == [1]

    asyncio.run(scenario())


def test_draining_waits_for_polled_launches():
    async def scenario():
        async with dispatching(model(profile(0, (1, 1, 1))), depth=2) as (dispatcher, runners):
            tasks = [asyncio.create_task(dispatcher.submit(rows(x))) for x in (1, 2)]
            await polled(runners["p0"])
            draining = asyncio.create_task(dispatcher.drain(60 * NS_PER_S))
            await polled(runners["p0"])
            assert not draining.done()
            runners["p0"].release(2)
            assert await draining == 0
            results = await asyncio.gather(*tasks)
        assert [list(result.outputs["Y"]) for result in results] == [[1], [2]]

    asyncio.run(scenario())
