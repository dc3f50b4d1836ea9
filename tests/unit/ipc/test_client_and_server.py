"""A front end and an engine, linked: every request ends exactly once, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from collections import Counter

import numpy as np
import pytest
from structlog.testing import capture_logs

from helpers.linked import Engine, front_end_of, linked, until
from helpers.rpc import ECHO, EchoLanes, registry_of
from lanewise import errors
from lanewise.errors import EngineLost, ExecutionFailed, Overloaded, QueueFull, ServingError
from lanewise.ipc.arena import Arena
from lanewise.ipc.client import EngineError
from lanewise.ipc.connection import Connection, shake_hands
from lanewise.ipc.messages import Count, Listening, Message, Models
from lanewise.rpc.engine_calls import engine_calls
from lanewise.scheduler.registry import ModelState, ServedModel
from lanewise.scheduler.request import RequestOptions
from lanewise_client.protos import inference_pb2, lanes_pb2

SMALL, LARGE = 1, 10_000
"""Rows of a request that travels in a message, and of one that takes a block."""


def rows(count: int, value: float = 1.0) -> dict[str, np.ndarray]:
    return {"X": np.full((count, 3), value, np.float32)}


class Gate:
    """Holds requests in the engine until the test lets them go."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, _) -> None:
        await self.opened.wait()
        if self.error is not None:
            raise self.error


async def no_blocks(front_end, engine) -> None:
    def none() -> bool:
        gc.collect()
        return front_end.blocks == engine.blocks == 0

    await until(none)


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_a_request_comes_back_as_the_lanes_answered_it(count):
    async def scenario():
        lanes = EchoLanes()
        async with linked(registry_of(lanes)) as (front_end, engine):
            sent = rows(count)
            result = await front_end.lanes.submit(
                sent, RequestOptions(deadline_ns=5, profile="wide", priority=3, target_ns=7)
            )
            here = await lanes.submit(sent)
            np.testing.assert_array_equal(result.outputs["out.X"], sent["X"])
            assert (result.launches, result.was_cold) == (here.launches, here.was_cold)
            got = lanes.submissions[0]
            assert (got.deadline_ns, got.profile, got.priority, got.target_ns) == (5, "wide", 3, 7)
            lanes.forget()
            del result, here, got
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ListLanes", lanes_pb2.ListLanesRequest(name="echo")),
        ("ListCosts", lanes_pb2.ListCostsRequest(name="echo")),
        (
            "ExplainRoute",
            lanes_pb2.ExplainRouteRequest(
                name="echo", inputs=[{"name": "X", "shape": [4, 3]}], profile="wide"
            ),
        ),
        ("SystemSharedMemoryStatus", inference_pb2.SystemSharedMemoryStatusRequest()),
    ],
)
def test_calls_are_answered_as_by_the_engine_itself(method, request_):
    async def scenario():
        lanes = EchoLanes()
        registry = registry_of(lanes)
        async with linked(registry) as (front_end, engine):
            assert front_end.lanes.spec == lanes.spec
            data = request_.SerializeToString()
            here = await engine_calls(registry, engine.regions)(method, data)
            assert await front_end.link.ask(method, data) == here

    asyncio.run(scenario())


def test_a_call_that_the_engine_refuses_fails_with_its_error():
    async def scenario():
        async with linked(registry_of(EchoLanes())) as (front_end, _):
            request = lanes_pb2.ExplainRouteRequest(
                name="echo", inputs=[{"name": "Z", "shape": [1]}]
            )
            with pytest.raises(errors.UnknownTensor, match="the model has 'X'"):
                await front_end.link.ask("ExplainRoute", request.SerializeToString())

    asyncio.run(scenario())


def subclasses_of(error_class):
    for subclass in error_class.__subclasses__():
        yield subclass
        yield from subclasses_of(subclass)


EVERY_ERROR = [
    each for each in subclasses_of(ServingError) if each.__module__.startswith("lanewise.")
]


@pytest.mark.parametrize("error_class", EVERY_ERROR)
def test_an_error_of_the_lanes_arrives_as_itself(error_class):
    async def fail(_):
        raise error_class("what came, what is allowed")

    async def scenario():
        lanes = EchoLanes(before_answer=fail)
        async with linked(registry_of(lanes)) as (front_end, engine):
            with pytest.raises(ServingError) as caught:
                await front_end.lanes.submit(rows(LARGE))
            assert type(caught.value) is error_class
            assert caught.value.message == "what came, what is allowed"
            lanes.forget()
            del caught
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


def test_a_bug_in_the_engine_is_logged_there_and_is_no_serving_error_here():
    async def fail(_):
        raise ZeroDivisionError("a bug")

    async def scenario():
        lanes = EchoLanes(before_answer=fail)
        async with linked(registry_of(lanes)) as (front_end, _):
            with pytest.raises(EngineError, match="ZeroDivisionError: a bug"):
                await front_end.lanes.submit(rows(SMALL))

    with capture_logs() as log:
        asyncio.run(scenario())
    assert [entry["event"] for entry in log if entry["log_level"] == "error"] == ["internal error"]


def test_a_request_refused_as_it_begins_is_told_why_and_frees_its_block():
    class Full(EchoLanes):
        def begin(self, inputs, when_ended, options):
            raise QueueFull("too many")

    async def scenario():
        async with linked(registry_of(Full())) as (front_end, engine):
            with pytest.raises(QueueFull, match="too many"):
                await front_end.lanes.submit(rows(LARGE))
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


def test_a_request_that_ends_as_it_begins_ends_once():
    class AtOnce(EchoLanes):
        def begin(self, inputs, when_ended, options):
            when_ended(None, ExecutionFailed("at once"))
            return lambda: pytest.fail("cancelled after its end")

    async def scenario():
        async with linked(registry_of(AtOnce())) as (front_end, engine):
            with pytest.raises(ExecutionFailed, match="at once"):
                await front_end.lanes.submit(rows(LARGE))
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


def test_a_request_to_a_model_that_takes_none_any_more_is_refused_by_the_engine():
    async def scenario():
        registry = registry_of(EchoLanes())
        async with linked(registry) as (front_end, engine):
            lanes = front_end.lanes
            registry.drain()  # not published yet
            with pytest.raises(errors.Draining):
                await lanes.submit(rows(LARGE))
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_cancelling_reaches_the_lanes_and_frees_the_block(count):
    async def scenario():
        gate = Gate()
        lanes = EchoLanes(before_answer=gate)
        async with linked(registry_of(lanes)) as (front_end, engine):
            task = asyncio.create_task(front_end.lanes.submit(rows(count)))
            await lanes.arrivals.get()
            task.cancel()
            await lanes.cancellations.get()
            assert task.cancelled()
            lanes.forget()
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


def test_a_request_cancelled_before_it_was_sent_frees_its_block():
    async def scenario():
        lanes = EchoLanes()
        async with linked(registry_of(lanes)) as (front_end, engine):
            task = asyncio.create_task(front_end.lanes.submit(rows(LARGE)))
            await asyncio.sleep(0)  # its message waits for the end of the turn
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            lanes.forget()
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


def test_a_result_that_comes_while_its_caller_goes_frees_its_block():
    async def scenario():
        lanes = EchoLanes()
        async with linked(registry_of(lanes)) as (front_end, engine):
            connection = front_end.link._session.connection
            receive = connection._when_received

            def receive_and_cancel(messages):
                receive(messages)
                task.cancel()

            connection._when_received = receive_and_cancel
            task = asyncio.create_task(front_end.lanes.submit(rows(LARGE)))
            await asyncio.wait([task])
            assert task.cancelled()
            lanes.forget()
            await no_blocks(front_end, engine)

    asyncio.run(scenario())


def test_inputs_that_find_no_room_are_an_overload():
    async def scenario():
        lanes = EchoLanes()
        async with linked(registry_of(lanes)) as (front_end, _):
            front_end.link._session._writer._arena = Arena(8192)
            with pytest.raises(Overloaded, match="find no room"):
                await front_end.lanes.submit(rows(LARGE))
            await front_end.lanes.submit(rows(SMALL))

    asyncio.run(scenario())


def test_outputs_that_find_no_room_are_an_overload():
    async def scenario():
        lanes = EchoLanes()
        async with linked(registry_of(lanes)) as (front_end, engine):
            (session,) = engine.front_ends._sessions
            session._writer._arena = Arena(8192)
            with pytest.raises(Overloaded, match="find no room"):
                await front_end.lanes.submit(rows(LARGE))
            await front_end.lanes.submit(rows(SMALL))

    asyncio.run(scenario())


def test_counts_reach_the_engine_in_order():
    async def scenario():
        async with linked(registry_of(EchoLanes())) as (front_end, engine):
            counts = [Count("echo", "1", "wide", "", latency_ns) for latency_ns in range(3)]
            for count in counts:
                front_end.link.count(*count)
            await until(lambda: len(engine.counts.finished) == 3)
            assert engine.counts.finished == counts

    asyncio.run(scenario())


def test_an_engine_that_is_lost_fails_everything_open_and_readinessturns():
    async def scenario():
        lanes = EchoLanes(before_answer=Gate())
        async with linked(registry_of(lanes)) as (front_end, engine):
            remote = front_end.lanes
            tasks = [asyncio.create_task(remote.submit(rows(c))) for c in (SMALL, LARGE)]
            for _ in tasks:
                await lanes.arrivals.get()
            assert front_end.registry.is_ready

            await engine.die()

            for task in tasks:
                with pytest.raises(EngineLost, match="send it again"):
                    await task
            await front_end.link.changed.wait()
            assert not front_end.registry.is_ready
            with pytest.raises(errors.ModelLoading):
                front_end.registry.resolve("echo").require_ready()
            asked_again = front_end.link.ask("ListLanes", b"")
            for asked in (remote.submit(rows(LARGE)), asked_again):  # of old lanes
                with pytest.raises(EngineLost):
                    await asked
            await until(lambda: lanes.cancellations.qsize() == 2)

    asyncio.run(scenario())


def test_a_new_engine_takes_the_place_of_one_that_was_lost():
    async def scenario():
        first, second = EchoLanes(), EchoLanes()
        async with linked(registry_of(first)) as (front_end, engine):
            await front_end.lanes.submit(rows(SMALL))
            await engine.die()
            await until(lambda: not front_end.registry.is_ready)
            await engine.start(registry_of(second))
            await until(lambda: front_end.registry.is_ready)
            await front_end.lanes.submit(rows(LARGE))
        assert (len(first.submissions), len(second.submissions)) == (1, 1)

    asyncio.run(scenario())


def test_what_an_engine_said_is_forgotten_with_it():
    async def scenario():
        old = registry_of(EchoLanes())
        old.add(ServedModel("gone", "1", ModelState.FAILED, "a reason"))
        async with linked(old) as (front_end, engine):
            old.drain()
            await engine.front_ends.publish()
            await until(lambda: front_end.registry.is_draining)
            await engine.die()
            await engine.start(registry_of(EchoLanes()))
            await until(lambda: front_end.registry.is_ready)
            assert [model.name for model in front_end.registry] == ["echo"]

    asyncio.run(scenario())


def test_a_front_end_that_is_lost_has_its_requests_cancelled():
    async def scenario():
        lanes = EchoLanes(before_answer=Gate())
        engine = Engine()
        with engine.listener:
            await engine.start(registry_of(lanes))
            async with front_end_of(engine) as front_end:
                waiting = asyncio.create_task(front_end.lanes.submit(rows(LARGE)))
                await lanes.arrivals.get()
                front_end.link._session.connection._transport.abort()
                await lanes.cancellations.get()
                with pytest.raises(EngineLost):
                    await waiting
            await engine.die()

    asyncio.run(scenario())


def test_states_of_models_are_told_when_they_are_published():
    async def scenario():
        registry = registry_of(EchoLanes())
        (model,) = registry
        lanes, model.lanes, model.state = model.lanes, None, ModelState.LOADING
        async with linked(registry) as (front_end, engine):
            assert not front_end.registry.is_ready
            for state, reason in ((ModelState.FAILED, "why"), (ModelState.READY, "")):
                model.state, model.reason, model.lanes = state, reason, lanes
                await engine.front_ends.publish()
                await front_end.link.changed.wait()
                front_end.link.changed.clear()
                (told,) = front_end.registry
                assert (told.state, told.reason, told.lanes.spec) == (state, reason, ECHO)

            lanes.lost_profiles = ("wide",)
            await engine.front_ends.publish()
            await front_end.link.changed.wait()
            assert not front_end.registry.is_ready

    asyncio.run(scenario())


def test_closing_has_front_ends_stop_and_waits_until_they_have():
    async def scenario():
        registry = registry_of(EchoLanes())
        async with linked(registry) as (front_end, engine):
            closing = asyncio.create_task(engine.front_ends.close())
            await front_end.link.must_stop.wait()
            await asyncio.sleep(0)
            assert not closing.done()
            front_end.link.close()
            await closing

    asyncio.run(scenario())


def test_the_engine_is_reachable_once_a_front_end_listens_and_until_it_is_gone():
    async def scenario():
        engine = Engine()
        with engine.listener:
            await engine.start(registry_of(EchoLanes()))
            async with front_end_of(engine) as front_end:
                assert not engine.front_ends.is_reachable
                front_end.link.tell_of_listening()
                await until(lambda: engine.front_ends.is_reachable)
                await engine.die()
                again = await engine.start(registry_of(EchoLanes()))
                await until(lambda: again.is_reachable)
            await until(lambda: not again.is_reachable)
            await engine.die()

    asyncio.run(scenario())


def test_an_engine_hears_of_listening_front_ends_once_they_know_its_models():
    async def scenario():
        received: list[Message] = []
        engine = Engine()
        with engine.listener:
            await engine.start(registry_of(EchoLanes()))
            async with front_end_of(engine) as front_end:
                front_end.link.tell_of_listening()
                await until(lambda: engine.front_ends.is_reachable)
                await engine.die()
                accepted, _ = await asyncio.get_running_loop().sock_accept(engine.listener)
                await shake_hands(accepted, Arena())
                later = Connection(received.extend, lambda: None)
                await asyncio.get_running_loop().connect_accepted_socket(lambda: later, accepted)
                request = Count("echo", "1", "wide", "", 1)
                while not received:
                    front_end.link.count(*request)
                    await asyncio.sleep(0.001)
                assert set(received) == {request}
                later.send(Models((), is_draining=False))
                await until(lambda: Listening() in received)
                later.close()

    asyncio.run(scenario())


def test_a_peer_that_says_nothing_does_not_keep_front_ends_waiting():
    async def scenario():
        engine = Engine()
        with engine.listener, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
            silent.connect(engine.address)
            await engine.start(registry_of(EchoLanes()))
            async with asyncio.timeout(2), front_end_of(engine) as front_end:
                await front_end.lanes.submit(rows(SMALL))
            await engine.front_ends.close()
            await engine.die()

    asyncio.run(scenario())


def test_a_front_end_that_waits_for_its_first_engine_can_be_stopped():
    async def scenario():
        engine = Engine()  # which listens, and does not answer
        with engine.listener:
            async with asyncio.timeout(2), front_end_of(engine) as front_end:
                pytest.fail("there is no engine")
            assert front_end

    async def stopped():
        task = asyncio.create_task(scenario())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(stopped())


class Mix:
    """Requests at random, and how each of them ended."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.sent = 0
        self.endings: Counter[str] = Counter()
        self.lanes = EchoLanes(before_answer=self._answer_or_fail)

    async def _answer_or_fail(self, _) -> None:
        await self.turns(4)
        if self.draw.random() < 0.2:
            raise ExecutionFailed("by chance")

    async def turns(self, most: int) -> None:
        for _ in range(self.draw.randrange(most)):
            await asyncio.sleep(0)

    def send(self, front_end) -> asyncio.Task[None]:
        self.sent += 1
        task = asyncio.create_task(self._send(front_end, float(self.sent)))
        if self.draw.random() < 0.3:
            asyncio.get_running_loop().call_later(self.draw.random() / 200, task.cancel)
        return task

    async def _send(self, front_end, value: float) -> None:
        count = self.draw.choice([SMALL, 300, LARGE])
        ending = "cancelled before it began"
        try:
            lanes = front_end.registry.resolve("echo").require_ready()
            result = await lanes.submit(rows(count, value))
            await self.turns(6)
            assert (result.outputs["out.X"] == value).all()
            ending = "result"
        except (ServingError, asyncio.CancelledError) as error:
            ending = type(error).__name__
        finally:
            self.endings[ending] += 1


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_each_request_ends_once_and_no_block_is_lost(seed):
    async def scenario():
        mix = Mix(seed)
        async with linked(registry_of(mix.lanes)) as (front_end, engine):
            for _ in range(60):
                tasks = [mix.send(front_end) for _ in range(mix.draw.randrange(12))]
                if mix.draw.random() < 0.2:
                    await mix.turns(8)
                    await engine.die()
                    await engine.start(registry_of(mix.lanes))
                if mix.draw.random() < 0.5:
                    await asyncio.gather(*tasks, return_exceptions=True)
                    await until(lambda: front_end.registry.is_ready)
            await until(lambda: sum(mix.endings.values()) == mix.sent)
            del tasks
            mix.lanes.forget()
            await until(lambda: front_end.registry.is_ready)
            await no_blocks(front_end, engine)
        return mix

    mix = asyncio.run(scenario())
    assert sum(mix.endings.values()) == mix.sent  # also now that all is gone
    assert {"result", "ExecutionFailed", "EngineLost", "CancelledError"} <= mix.endings.keys()
