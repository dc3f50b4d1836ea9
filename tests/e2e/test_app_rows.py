"""Rows find their owners, whatever the traffic: the whole path from submit to outputs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.models import InstantClock
from helpers.serving import SIMULATED, address_of, running_app, server_process
from lanewise.backends.repository import find_models, load_model
from lanewise.clock import NS_PER_S, SystemClock
from lanewise.errors import ExecutionFailed, RunnerLost
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.settings.model import ModelSettings
from lanewise_client import AsyncClient, InferRequest, Unavailable

SIMULATION = """
inputs = [{ name = "X", datatype = "INT32", shape = [-1, -1] }]
outputs = [{ name = "Y", datatype = "INT32", shape = [-1, -1], copy_of = "X" }]
[[profiles]]
name = "one"
tensors.X = { min = [1, 1], opt = [1, 4], max = [1, 8] }
[[profiles]]
name = "few"
tensors.X = { min = [2, 1], opt = [3, 4], max = [5, 8] }
[[profiles]]
name = "wide"
tensors.X = { min = [8, 4], opt = [8, 16], max = [8, 16] }
[latency]
default = { rows = [1], ms = [0.1] }
"""

requests = st.tuples(st.integers(1, 20), st.sampled_from([2, 4, 8, 16]), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(requests, min_size=1, max_size=25), st.sets(st.integers(0, 10), max_size=3))
def test_rows_come_back_to_their_owners_bit_for_bit_whatever_is_cancelled_or_fails(
    tmp_path_factory, traffic, failing
):
    file = tmp_path_factory.getbasetemp() / "rows.sim.toml"
    file.write_text(SIMULATION)
    (source,) = find_models(file)
    loaded = load_model(source, ModelSettings(), clock=InstantClock())
    launches = iter(range(10**6))
    for runner in loaded.runners:

        def run(batch, run=runner.run):
            if next(launches) in failing:
                raise ExecutionFailed("this one fails")
            return run(batch)

        runner.run = run

    async def scenario():
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=1000)
        sent = [
            np.full((rows, item), 1000 * number, np.int32)
            + np.arange(rows, dtype=np.int32)[:, None]
            for number, (rows, item, _) in enumerate(traffic)
        ]
        tasks = [asyncio.create_task(dispatcher.submit({"X": x})) for x in sent]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, traffic, strict=True):
            if cancelled:
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await dispatcher.drain(NS_PER_S)
        await dispatcher.close()
        for x, outcome, (_, _, cancelled) in zip(sent, outcomes, traffic, strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                assert cancelled
            elif isinstance(outcome, ExecutionFailed):
                assert failing
            else:
                np.testing.assert_array_equal(outcome.outputs["Y"], x)

    asyncio.run(scenario())


def simulated(tmp_path, profiles: str, ms: float):
    file = tmp_path / "m.sim.toml"
    head = SIMULATION.partition("[[profiles]]")[0]
    file.write_text(f"{head}{profiles}\n[latency]\ndefault = {{ rows = [1], ms = [{ms}] }}\n")
    return file


@pytest.fixture(scope="module")
def rows_server(each_combination_of_module, tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.sim.toml"
    file.write_text(SIMULATION)
    with server_process(file) as server:
        yield server


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(requests, st.integers(0, 5)), min_size=1, max_size=40), st.integers(0, 200)
)
def test_rows_come_back_over_the_wire_bit_for_bit_whatever_is_cancelled(
    rows_server, traffic, wait_turns
):
    async def infer(client: AsyncClient, x: np.ndarray) -> np.ndarray:
        return (await client.infer("rows", {"X": x}))["Y"]

    async def stream(client: AsyncClient, xs: list[np.ndarray]) -> list[np.ndarray]:
        sent = (InferRequest({"X": x}) for x in xs)
        return [result["Y"] async for result in client.stream("rows", sent, timeout_s=30)]

    async def scenario():
        sent = [
            np.full((rows, item), 1000 * number, np.int32)
            + np.arange(rows, dtype=np.int32)[:, None]
            for number, ((rows, item, _), _) in enumerate(traffic)
        ]
        async with AsyncExitStack() as stack:
            # With a connection each, so that front ends share them.
            own = [("grpc.use_local_subchannel_pool", 1)]
            clients = [
                await stack.enter_async_context(
                    AsyncClient(rows_server.address, timeout_s=30, options=own)
                )
                for _ in range(6)
            ]
            tasks = [
                asyncio.create_task(infer(clients[client], x))
                for x, (_, client) in zip(sent, traffic, strict=True)
            ]
            streamed = asyncio.create_task(stream(clients[0], sent))
            for _ in range(wait_turns):
                await asyncio.sleep(0)
            for task, ((_, _, cancelled), _) in zip(tasks, traffic, strict=True):
                if cancelled:
                    task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            in_order = await streamed
        for x, outcome, ((_, _, cancelled), _) in zip(sent, outcomes, traffic, strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                assert cancelled
            else:
                np.testing.assert_array_equal(outcome, x)
        for x, y in zip(sent, in_order, strict=True):
            np.testing.assert_array_equal(y, x)

    asyncio.run(scenario())


@pytest.mark.usefixtures("each_transport")
def test_sixteen_requests_that_one_profile_alone_admits_all_succeed(tmp_path):
    profiles = """
        [[profiles]]
        name = "A"
        tensors.X = { min = [1, 1], opt = [16, 64], max = [64, 128] }
        [[profiles]]
        name = "B"
        tensors.X = { min = [1, 1], opt = [4, 256], max = [8, 512] }
    """

    async def scenario():
        async with (
            running_app(simulated(tmp_path, profiles, 1.0)) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            sent = [np.full((1, 512), i, np.int32) for i in range(16)]
            results = await asyncio.gather(*(client.infer("m", {"X": x}) for x in sent))
            for x, result in zip(sent, results, strict=True):
                assert result.profile == "B"
                np.testing.assert_array_equal(result["Y"], x)

    asyncio.run(scenario())


@pytest.mark.usefixtures("each_transport")
def test_eight_shapes_interleaved_on_a_busy_server_still_batch(tmp_path):
    profiles = """
        [[profiles]]
        name = "any"
        tensors.X = { min = [1, 1], opt = [8, 64], max = [32, 512] }
    """

    async def scenario():
        async with (
            running_app(simulated(tmp_path, profiles, 20.0)) as app,
            AsyncClient(address_of(app), timeout_s=60) as client,
        ):

            async def user(number: int) -> None:
                for turn in range(4):
                    tokens = 16 * (1 + (number + turn) % 8)
                    await client.infer("m", {"X": np.zeros((1, tokens), np.int32)})

            await asyncio.gather(*(user(number) for number in range(80)))
            (lane,) = (await client.lanes("m")).lanes
        assert lane.counters.requests == 320
        assert lane.counters.requests / lane.counters.launches >= 4

    asyncio.run(scenario())


@pytest.mark.usefixtures("each_transport")
def test_a_server_that_loses_a_lane_says_so_and_serves_what_it_can():
    async def scenario():
        async with (
            running_app(SIMULATED) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            lanes = app.registry.resolve("encoder").require_lanes()
            lanes._launcher.runners[0].close()  # a closed runner is out of service
            tokens = np.zeros((1, 8), np.int32)
            first = await client.infer("encoder", {"token_ids": tokens}, profile="dynamic-32")
            assert first.profile == "dynamic-32"
            assert await client.is_ready()
            outcome = await asyncio.gather(
                client.infer("encoder", {"token_ids": tokens}, profile="online-short"),
                return_exceptions=True,
            )
            assert "out of service" in str(outcome[0]) or "closed" in str(outcome[0])
            assert not await client.is_ready()
            assert not await client.is_model_ready("encoder")
            again = await client.infer("encoder", {"token_ids": tokens})
            assert again.profile in {"dynamic-32", "offline-32"}, "whichever costs less"
            (entry,) = await client.models()
            assert (entry.state, entry.reason) == ("unavailable", "lost the lanes of online-short")

    asyncio.run(scenario())


@pytest.mark.usefixtures("each_transport")
def test_a_server_that_has_lost_every_lane_of_a_model_stops_for_its_supervisor():
    async def scenario():
        async with (
            running_app(SIMULATED) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            lanes = app.registry.resolve("encoder").require_lanes()
            for runner in lanes._launcher.runners:
                runner.close()
            shapes = {p.name: p.ranges["token_ids"].opt for p in lanes.spec.profiles}
            for name, shape in shapes.items():
                tokens = {"token_ids": np.zeros(shape, np.int32)}
                with pytest.raises(Unavailable):
                    await client.infer("encoder", tokens, profile=name)
            await asyncio.wait_for(app._stop.wait(), 10)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(RunnerLost, match="encoder 1 has lost every lane")
