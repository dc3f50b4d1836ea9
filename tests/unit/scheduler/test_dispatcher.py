"""The shell around the core: real threads and a real event loop, runners that a test holds."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from structlog.testing import capture_logs

from helpers.gated import gated_model
from helpers.sim import mission_model, model, profile
from lanewise.clock import NS_PER_MS, NS_PER_S, SystemClock
from lanewise.errors import (
    DeadlineExpired,
    Draining,
    ExecutionFailed,
    MalformedContents,
    NoProfileAdmits,
    QueueFull,
    RunnerLost,
)
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DYNAMIC, DType, TensorSpec
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.policy.cost_aware import CostAwarePolicy
from lanewise.scheduler.policy.interface import Policy
from lanewise.scheduler.registry import ModelState, ServedModel
from lanewise.scheduler.request import End, RequestOptions
from lanewise.scheduler.results import LaneState
from lanewise.scheduler.watchdog import HANGS_AFTER_NS, PATIENCE_NS

LONG_NS = 60 * NS_PER_S


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"X": np.array(values, np.float32)}


class StandingClock(SystemClock):
    """Whose time does not go by."""

    def now_ns(self) -> int:
        return NS_PER_S


@asynccontextmanager
async def dispatching(
    spec,
    *,
    max_queue_requests: int = 100,
    costs: CostTable | None = None,
    clock: SystemClock | None = None,
    policy: Callable[[CostTable], Policy] = CostAwarePolicy,
):
    loaded, runners = gated_model(spec)
    dispatcher = Dispatcher(
        loaded,
        clock or SystemClock(),
        max_queue_requests=max_queue_requests,
        policy=policy,
        costs=costs or CostTable(),
    )
    await dispatcher.warm_up()
    try:
        yield dispatcher, runners
    finally:
        for runner in runners.values():
            runner.release(1000)
        await dispatcher.drain(LONG_NS)
        await dispatcher.close()
    assert not dispatcher._flow._requests
    assert not dispatcher._launcher._in_flight
    assert dispatcher.waiting_requests == 0
    assert all(runner.is_closed for runner in runners.values())
    assert all(len(runner.threads) == 1 for runner in runners.values()), "a thread of its own each"


async def started(runner):
    """Wait until the runner has begun its next batch."""
    return await asyncio.to_thread(runner.started.get, timeout=30)


def test_rows_come_back_to_their_owners_without_the_padding():
    async def scenario():
        spec = model(profile(0, (8, 8, 8)))
        async with dispatching(spec) as (dispatcher, runners):
            first = asyncio.create_task(dispatcher.submit(rows(1)))
            await started(runners["p0"])
            others = [
                asyncio.create_task(dispatcher.submit(rows(*values)))
                for values in ([2, 3], [4], [5, 6, 7])
            ]
            await asyncio.sleep(0)
            runners["p0"].release(2)
            results = await asyncio.gather(first, *others)
        assert [list(result.outputs["Y"]) for result in results] == [[1], [2, 3], [4], [5, 6, 7]]
        (report,) = results[3].launches
        assert (report.rows, report.batch_rows, report.padded_rows) == (3, 6, 8)

    asyncio.run(scenario())


def test_a_launch_that_ends_does_not_launch_requests_that_are_still_being_gathered():
    async def scenario():
        spec = model(profile(0, (1, 64, 64)))
        async with dispatching(spec, max_queue_requests=10**6, clock=StandingClock()) as (
            dispatcher,
            runners,
        ):
            first = asyncio.create_task(dispatcher.submit(rows(1)))
            await started(runners["p0"])
            runners["p0"].release()
            others = []
            while not first.done():  # one more comes with every turn of the loop
                others.append(asyncio.create_task(dispatcher.submit(rows(2))))
                await asyncio.sleep(0)
            assert [lane.counters.launches for lane in dispatcher.status()] == [1]
            runners["p0"].release(10**6)
            await asyncio.gather(*others)

    asyncio.run(scenario())


class GivesUpTheRest(CostAwarePolicy):
    """Gives up a request as soon as a part of it has been launched."""

    def choose(self, backlog, now_ns):
        for waiting in backlog:
            if waiting.launches:
                return End(waiting, needed_ns=NS_PER_S)
        return super().choose(backlog, now_ns)


def test_a_part_is_run_though_the_rest_of_its_request_is_given_up_at_the_same_moment():
    async def scenario():
        spec = model(profile(0, (1, 2, 2)))
        async with dispatching(spec, policy=GivesUpTheRest) as (dispatcher, runners):
            runners["p0"].release()
            with capture_logs() as logs, pytest.raises(DeadlineExpired):
                await dispatcher.submit(rows(1, 2, 3))
            batch = await started(runners["p0"])
            assert batch.pieces["X"][0].tolist() == [1, 2]
            while dispatcher._launcher._in_flight:
                await asyncio.sleep(0.001)
            (lane,) = dispatcher.status()
            assert (lane.counters.orphaned_rows, lane.counters.failed_launches) == (2, 0)
            assert not logs

    asyncio.run(scenario())


def test_a_split_request_is_joined_in_the_order_of_its_rows():
    async def scenario():
        spec = model(profile(0, (1, 2, 2)), profile(1, (1, 2, 2)))
        async with dispatching(spec) as (dispatcher, runners):
            task = asyncio.create_task(dispatcher.submit(rows(*range(5))))
            await started(runners["p0"])
            await started(runners["p1"])
            runners["p1"].release()  # rows 2 and 3 are back before rows 0 and 1
            await started(runners["p1"])
            runners["p1"].release()
            runners["p0"].release()
            result = await task
        assert list(result.outputs["Y"]) == [0, 1, 2, 3, 4]
        assert [report.rows for report in result.launches] == [2, 2, 1]

    asyncio.run(scenario())


def test_a_request_cancelled_while_it_waits_never_runs():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec) as (dispatcher, runners):
            running = asyncio.create_task(dispatcher.submit(rows(1)))
            await started(runners["p0"])
            waiting = asyncio.create_task(dispatcher.submit(rows(2)))
            await asyncio.sleep(0)
            assert dispatcher.waiting_requests == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert dispatcher.waiting_requests == 0
            runners["p0"].release()
            await running
        assert len(runners["p0"].batches) == 1

    asyncio.run(scenario())


def test_a_request_cancelled_in_flight_leaves_its_neighbours_alone_and_counts_as_orphaned():
    async def scenario():
        spec = model(profile(0, (1, 2, 2)))
        async with dispatching(spec) as (dispatcher, runners):
            blocker = asyncio.create_task(dispatcher.submit(rows(0)))
            await started(runners["p0"])
            gone = asyncio.create_task(dispatcher.submit(rows(1)))
            stays = asyncio.create_task(dispatcher.submit(rows(2)))
            await asyncio.sleep(0)
            runners["p0"].release()
            await started(runners["p0"])
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            runners["p0"].release()
            result = await stays
            await blocker
            (lane,) = dispatcher.status()
        assert list(result.outputs["Y"]) == [2]
        assert lane.counters.orphaned_rows == 1

    asyncio.run(scenario())


class LeapingClock(SystemClock):
    """The time of the system, and what a test has added to it."""

    def __init__(self):
        super().__init__()
        self.leapt_ns = 0

    def now_ns(self):
        return super().now_ns() + self.leapt_ns


def test_a_launch_that_hangs_and_cannot_be_ended_is_told_until_it_ends():
    clock = LeapingClock()

    async def scenario():
        spec = model(profile(0, (1, 1, 1)), profile(1, (2, 2, 2)))
        async with dispatching(spec, clock=clock) as (dispatcher, runners):
            served = ServedModel("m", "1", ModelState.READY, "", dispatcher)
            gone = asyncio.create_task(dispatcher.submit(rows(1)))
            await started(runners["p0"])
            gone.cancel()
            await asyncio.sleep(0)
            clock.leapt_ns += PATIENCE_NS
            assert not dispatcher.watch()
            assert served.is_ready
            clock.leapt_ns += HANGS_AFTER_NS
            assert dispatcher.watch()
            assert not served.is_ready
            assert served.condition == "launches hang in the lanes of p0"
            assert [lane.hangs for lane in dispatcher.status()] == [True, False]
            runners["p0"].release()
            await dispatcher._launcher.wait_for_all()
            assert dispatcher.watch()
            assert served.is_ready

    with capture_logs() as logs:
        asyncio.run(scenario())
    (line,) = [line for line in logs if line["event"] == "launch hangs"]
    assert (line["profile"], line["rows"], line["lane"]) == ("p0", 1, 0)


def test_a_deadline_that_passes_in_the_queue_is_told_and_the_request_never_runs():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec) as (dispatcher, runners):
            running = asyncio.create_task(dispatcher.submit(rows(1)))
            await started(runners["p0"])
            deadline_ns = SystemClock().now_ns() + 20 * NS_PER_MS
            with pytest.raises(DeadlineExpired, match="in the queue"):
                await dispatcher.submit(rows(2), RequestOptions(deadline_ns=deadline_ns))
            runners["p0"].release()
            await running
        assert len(runners["p0"].batches) == 1

    asyncio.run(scenario())


def test_a_deadline_that_has_passed_at_arrival_is_told_at_once():
    async def scenario():
        async with dispatching(mission_model()) as (dispatcher, _):
            with pytest.raises(DeadlineExpired):
                await dispatcher.submit(
                    rows(1), RequestOptions(deadline_ns=SystemClock().now_ns() - 1)
                )

    asyncio.run(scenario())


def test_a_full_queue_rejects_and_names_the_setting():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec, max_queue_requests=1) as (dispatcher, runners):
            tasks = [asyncio.create_task(dispatcher.submit(rows(1)))]
            await started(runners["p0"])
            tasks.append(asyncio.create_task(dispatcher.submit(rows(2))))
            await asyncio.sleep(0)
            with pytest.raises(QueueFull, match="--max-queue-requests"):
                await dispatcher.submit(rows(3))
            runners["p0"].release(2)
            await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_failed_batch_is_run_again_one_by_one_and_each_request_has_an_outcome_of_its_own():
    async def scenario():
        spec = model(profile(0, (1, 2, 2)))
        async with dispatching(spec) as (dispatcher, runners):
            blocker = asyncio.create_task(dispatcher.submit(rows(0)))
            await started(runners["p0"])
            pair = [asyncio.create_task(dispatcher.submit(rows(i))) for i in (1, 2)]
            await asyncio.sleep(0)
            runners["p0"].release()
            runners["p0"].fail(ExecutionFailed("one of them"))
            runners["p0"].release()
            runners["p0"].fail(ExecutionFailed("no luck"))
            sound, bad = await asyncio.gather(*pair, return_exceptions=True)
            await blocker
            (lane,) = dispatcher.status()
        assert list(sound.outputs["Y"]) == [1]
        assert str(bad) == "no luck"
        assert (lane.counters.failed_launches, lane.counters.repeated_launches) == (2, 2)

    asyncio.run(scenario())


def test_an_unforeseen_exception_of_a_runner_fails_the_batch_and_names_its_class():
    async def scenario():
        async with dispatching(mission_model()) as (dispatcher, runners):
            runners["online"].fail(ZeroDivisionError("oops"))
            with pytest.raises(ExecutionFailed, match="ZeroDivisionError") as caught:
                await dispatcher.submit(rows(1))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    asyncio.run(scenario())


def test_a_lost_runner_retires_its_lane_and_others_take_over():
    async def scenario():
        async with dispatching(mission_model()) as (dispatcher, runners):
            runners["online"].fail(RunnerLost("the device is gone"))
            with pytest.raises(RunnerLost, match="the device is gone"):
                await dispatcher.submit(rows(1))
            assert dispatcher.status()[0].state is LaneState.RETIRED
            runners["dynamic"].release()
            result = await dispatcher.submit(rows(1))
            assert result.launches[0].profile.name == "dynamic"
            with pytest.raises(RunnerLost, match="'online'"):
                await dispatcher.submit(rows(1), RequestOptions(profile="online"))

    asyncio.run(scenario())


def test_drain_runs_what_waits_and_refuses_the_rest():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec) as (dispatcher, runners):
            tasks = [asyncio.create_task(dispatcher.submit(rows(i))) for i in (1, 2)]
            await started(runners["p0"])
            draining = asyncio.create_task(dispatcher.drain(LONG_NS))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await dispatcher.submit(rows(3))
            runners["p0"].release(2)
            await draining
            assert [list(task.result().outputs["Y"]) for task in tasks] == [[1], [2]]

    asyncio.run(scenario())


def test_drain_rejects_what_still_waits_after_the_grace_period():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec) as (dispatcher, runners):
            running = asyncio.create_task(dispatcher.submit(rows(1)))
            await started(runners["p0"])
            waiting = asyncio.create_task(dispatcher.submit(rows(2)))
            await asyncio.sleep(0)
            draining = asyncio.create_task(dispatcher.drain(10 * NS_PER_MS))
            with pytest.raises(Draining):
                await waiting
            runners["p0"].release()
            await draining
            assert list((await running).outputs["Y"]) == [1]

    asyncio.run(scenario())


def test_text_that_is_not_utf8_fails_its_own_request_before_it_meets_others():
    async def scenario():
        spec = replace(
            model(profile(0, (1, 1, 4))),
            inputs=(TensorSpec("X", DType.BYTES, (DYNAMIC,)),),
            text_inputs=frozenset({"X"}),
        )
        async with dispatching(spec) as (dispatcher, runners):
            with pytest.raises(MalformedContents, match="element 1 is not"):
                await dispatcher.submit({"X": np.array([b"ok", b"\xff"], object)})
            assert not runners["p0"].batches

    asyncio.run(scenario())


def test_requests_are_stacked_only_if_the_inputs_they_share_are_equal():
    async def scenario():
        x = model(profile(0, (1, 4, 4))).inputs[0]
        limits = ShapeRange((), (), ())
        one = profile(0, (1, 4, 4))
        spec = replace(
            model(replace(one, ranges={**one.ranges, "T": limits})),
            inputs=(x, TensorSpec("T", DType.FP32, ())),
        )
        async with dispatching(spec) as (dispatcher, runners):

            def submit(value, threshold):
                inputs = {**rows(value), "T": np.float32(threshold).reshape(())}
                return asyncio.create_task(dispatcher.submit(inputs))

            tasks = [submit(0, 0)]
            await started(runners["p0"])
            tasks += [submit(1, 0.5), submit(2, 0.7), submit(3, 0.5)]
            runners["p0"].release(3)
            results = await asyncio.gather(*tasks)
        assert [list(result.outputs["Y"]) for result in results] == [[0], [1], [2], [3]]
        thresholds = [(b.rows, float(b.pieces["T"][0])) for b in runners["p0"].batches]
        assert thresholds == [(1, 0.0), (2, 0.5), (1, pytest.approx(0.7))]

    asyncio.run(scenario())


def test_drain_gives_up_a_launch_that_does_not_return_and_what_still_waits(debug_log):
    async def scenario():
        loaded, runners = gated_model(model(profile(0, (1, 1, 1))))
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=10, costs=CostTable())
        running = asyncio.create_task(dispatcher.submit(rows(1)))
        await started(runners["p0"])
        waiting = asyncio.create_task(dispatcher.submit(rows(2, 3)))
        await asyncio.sleep(0)
        assert await dispatcher.drain(0) == 2
        for task in (running, waiting):
            with pytest.raises(Draining):
                await task
        assert not await dispatcher.close()
        runners["p0"].release()

    asyncio.run(scenario())

    assert lines_of(debug_log, "request not run", "reason", "rows") == [
        {"reason": "Draining", "rows": 2}
    ], "the one that was in flight has been run"


def test_a_launch_that_cannot_be_built_fails_its_requests_and_frees_the_lane():
    async def scenario():
        async with dispatching(mission_model()) as (dispatcher, runners):
            launcher = dispatcher._launcher
            launcher._build, build = None, launcher._build  # calling it is a TypeError
            with pytest.raises(ExecutionFailed, match="TypeError"):
                await dispatcher.submit(rows(1), RequestOptions(profile="online"))
            launcher._build = build
            runners["online"].release()
            result = await dispatcher.submit(rows(1), RequestOptions(profile="online"))
            assert list(result.outputs["Y"]) == [1]

    asyncio.run(scenario())


def test_a_shape_no_profile_admits_is_refused_before_it_is_queued():
    async def scenario():
        spec = model(profile(0, (1, 1, 4), [(4, 4, 8)], name="small"))
        async with dispatching(spec) as (dispatcher, _):
            with pytest.raises(NoProfileAdmits, match=r"dimension 1 of 'X' is 9, it admits 4 to 8"):
                await dispatcher.submit({"X": np.zeros((1, 9), np.float32)})

    asyncio.run(scenario())


@pytest.fixture
def debug_log():
    """Every line that is logged meanwhile, those of level debug included."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    with capture_logs() as lines:
        yield lines
    root.setLevel(level)


def lines_of(log, event, *keys):
    return [
        {key: line[key] for key in keys if key in line} for line in log if line["event"] == event
    ]


def costs_of(row_ms: float):
    """The cost table of a model whose profile 0 takes this long for a row."""
    costs = CostTable()
    costs.record(0, 1, 0, round(row_ms * NS_PER_MS))
    return costs


def test_a_launch_is_logged_with_its_reason_and_what_it_was_expected_to_take_and_took(debug_log):
    async def scenario():
        spec = model(profile(0, (4, 4, 4)))
        async with dispatching(spec) as (dispatcher, runners):
            runners["p0"].release()
            await dispatcher.submit(rows(1, 2, 3))
            (lane,) = dispatcher.status()
            return lane.counters

    counters = asyncio.run(scenario())

    (line,) = [line for line in debug_log if line["event"] == "launch finished"]
    expected = {
        "profile": "p0",
        "lane": 0,
        "reason": "idle",
        "requests": 1,
        "rows": 3,
        "padded_rows": 4,
        "predicted_ms": counters.predicted_ns / NS_PER_MS,
        "slowdown": 1.0,
    }
    assert {key: line[key] for key in expected} == expected
    assert line["predicted_ms"] > 0
    assert 0 < line["execution_ms"] <= counters.execution_ns / NS_PER_MS


def test_a_full_queue_is_logged_with_what_was_refused(debug_log):
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec, max_queue_requests=1) as (dispatcher, runners):
            tasks = [asyncio.create_task(dispatcher.submit(rows(1)))]
            await started(runners["p0"])
            tasks.append(asyncio.create_task(dispatcher.submit(rows(2))))
            await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                await dispatcher.submit(rows(3, 4), RequestOptions(priority=1))
            runners["p0"].release(2)
            await asyncio.gather(*tasks)

    asyncio.run(scenario())

    assert lines_of(debug_log, "request not run", "reason", "rows", "priority", "waited_ms") == [
        {"reason": "QueueFull", "rows": 2, "priority": 1, "waited_ms": 0}
    ]


def test_a_deadline_that_cannot_be_met_is_refused_at_arrival_with_what_was_needed_and_left(
    debug_log,
):
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec, costs=costs_of(5000.0)) as (dispatcher, runners):
            running = asyncio.create_task(dispatcher.submit(rows(1)))  # not idle, or it would try
            await started(runners["p0"])
            deadline_ns = SystemClock().now_ns() + NS_PER_S
            with pytest.raises(
                DeadlineExpired, match=r"at arrival the request needs \d+\.\d ms, and"
            ):
                await dispatcher.submit(rows(1), RequestOptions(deadline_ns=deadline_ns))
            assert len(runners["p0"].batches) == 1
            runners["p0"].release()
            await running

    asyncio.run(scenario())

    (line,) = lines_of(debug_log, "request not run", "reason", "waited_ms", "needed_ms", "left_ms")
    assert (line["reason"], line["waited_ms"]) == ("DeadlineExpired", 0)
    assert line["needed_ms"] >= 5000
    assert 0 < line["left_ms"] <= 1000


def test_a_request_that_is_given_up_later_is_logged_with_how_long_it_waited(debug_log):
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec) as (dispatcher, runners):
            running = asyncio.create_task(dispatcher.submit(rows(1)))
            await started(runners["p0"])
            deadline_ns = SystemClock().now_ns() + 20 * NS_PER_MS
            with pytest.raises(DeadlineExpired):
                await dispatcher.submit(rows(2), RequestOptions(deadline_ns=deadline_ns))
            runners["p0"].release()
            await running

    asyncio.run(scenario())

    (line,) = lines_of(debug_log, "request not run", "reason", "waited_ms", "left_ms")
    assert line["reason"] == "DeadlineExpired"
    assert line["waited_ms"] > 0
    assert line["left_ms"] < 20 - line["waited_ms"] + 1


def test_a_request_with_a_short_latency_target_goes_before_those_without():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec) as (dispatcher, runners):
            tasks = [asyncio.create_task(dispatcher.submit(rows(0)))]
            await started(runners["p0"])
            tasks.append(asyncio.create_task(dispatcher.submit(rows(1))))
            await asyncio.sleep(0)
            tasks.append(
                asyncio.create_task(dispatcher.submit(rows(2), RequestOptions(target_ns=NS_PER_MS)))
            )
            await asyncio.sleep(0)
            runners["p0"].release(3)
            await asyncio.gather(*tasks)
        return [float(batch.pieces["X"][0][0]) for batch in runners["p0"].batches]

    assert asyncio.run(scenario()) == [0, 2, 1]


def test_costs_that_are_given_are_reported_and_not_measured_anew():
    async def scenario():
        spec = model(profile(0, (1, 1, 1)))
        async with dispatching(spec, costs=costs_of(5.0)) as (dispatcher, runners):
            assert not runners["p0"].batches
            return list(dispatcher.costs.kinds())

    ((kind, estimate),) = asyncio.run(scenario())

    assert kind == (0, 1, 0)
    assert estimate.typical_ns == estimate.safe_ns == 5 * NS_PER_MS
    assert (len(estimate.samples_ns), estimate.behind_ns) == (1, None)


def test_the_tensors_of_a_request_are_let_go_at_its_end_and_not_at_its_deadline():
    async def scenario():
        async with dispatching(mission_model()) as (dispatcher, runners):
            inputs = rows(1)
            tensor = weakref.ref(inputs["X"])
            far = RequestOptions(deadline_ns=SystemClock().now_ns() + 3600 * NS_PER_S)
            task = asyncio.create_task(dispatcher.submit(inputs, far))
            await started(runners["online"])
            runners["online"].release()
            await task
            del inputs, task
            runners["online"].batches.clear()
            await asyncio.sleep(0.05)  # for the lane's thread to let go of its batch
            gc.collect()
            return tensor()

    assert asyncio.run(scenario()) is None
