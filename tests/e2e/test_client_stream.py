import asyncio
import gc
import itertools
from contextlib import aclosing, closing

import grpc
import numpy as np
import pytest

from helpers.client_server import WORDS, serving
from helpers.client_shells import SHELLS
from lanewise_client import (
    AsyncClient,
    Client,
    DeadlineExpired,
    Draining,
    InferRequest,
    QueueFull,
    ServingError,
    Unavailable,
)


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(params=sorted(SHELLS))
def call(request, server):
    return SHELLS[request.param](server.address)


def numbered(number, verb=""):
    return InferRequest({"X": np.full(2, number)}, request_id=verb or str(number))


def numbers(results):
    return [int(result["X"][0]) for result in results]


def test_results_come_in_the_order_of_the_requests(call):
    results = list(call.stream("echo", map(numbered, range(200))))

    assert numbers(results) == list(range(200))
    assert [result.request_id for result in results] == [str(n) for n in range(200)]


def test_requests_may_come_from_an_asynchronous_source(server):
    async def source():
        for number in range(20):
            await asyncio.sleep(0)
            yield numbered(number)

    async def collect():
        async with AsyncClient(server.address, timeout_s=30) as client:
            return [result async for result in client.stream("echo", source(), timeout_s=30)]

    assert numbers(asyncio.run(collect())) == list(range(20))


def test_a_failed_request_yields_its_error_and_the_stream_goes_on(call):
    requests = [numbered(0), numbered(1, "fail:QueueFull"), numbered(2, "fail"), numbered(3)]

    first, refused, failed, last = call.stream("echo", requests)

    assert numbers([first, last]) == [0, 3]
    assert type(refused) is QueueFull
    assert (refused.message, refused.reason, refused.request_id) == (
        WORDS,
        "QueueFull",
        "fail:QueueFull",
    )
    assert type(failed) is ServingError
    assert (failed.message, failed.reason, failed.request_id) == (WORDS, "", "fail")


def test_an_error_that_ends_the_stream_is_raised(call):
    results = call.stream("echo", [numbered(0), numbered(1, "abort"), numbered(2)])

    assert numbers([next(results)]) == [0]
    with pytest.raises(Draining, match=WORDS):
        next(results)


def test_a_stream_that_ends_with_requests_unanswered_is_an_error(call):
    results = call.stream("echo", [numbered(0), numbered(1, "end")])

    assert numbers([next(results)]) == [0]
    with pytest.raises(ServingError, match="after 1 answers to 2 requests"):
        next(results)


def test_what_the_source_raises_comes_after_the_results_before_it(call):
    def source():
        yield numbered(0)
        yield numbered(1)
        raise ZeroDivisionError("of the source")

    results = call.stream("echo", source())

    assert numbers([next(results), next(results)]) == [0, 1]
    with pytest.raises(ZeroDivisionError, match="of the source"):
        next(results)


def test_a_request_that_cannot_be_encoded_raises_its_own_error(call):
    results = call.stream("echo", [numbered(0), InferRequest({"X": np.zeros(1, complex)})])

    assert numbers([next(results)]) == [0]
    with pytest.raises(TypeError, match="input 'X' has dtype complex128"):
        next(results)


def test_a_stream_has_a_timeout_of_its_own(call):
    with pytest.raises(DeadlineExpired, match=r"within 0\.2 s"):
        list(call.stream("silent", [numbered(0)], timeout_s=0.2))


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_a_stream_to_an_unreachable_server_is_unavailable(shell):
    with pytest.raises(Unavailable, match="cannot reach the server at localhost:1:"):
        list(SHELLS[shell]("localhost:1").stream("echo", [numbered(0)]))


def test_a_stream_without_requests_has_no_results(call):
    assert list(call.stream("echo", [])) == []


def test_leaving_a_stream_early_cancels_it_and_the_client_goes_on(server):
    with Client(server.address, timeout_s=30) as client:
        endless = map(numbered, itertools.count())
        with closing(client.stream("echo", endless, timeout_s=None)) as results:
            taken = list(itertools.islice(results, 3))

        assert numbers(taken) == [0, 1, 2]
        assert client.is_live()


def test_leaving_an_asyncio_stream_early_cancels_it_and_the_client_goes_on(server):
    async def leave():
        async with AsyncClient(server.address, timeout_s=30) as client:
            endless = map(numbered, itertools.count())
            async with aclosing(client.stream("echo", endless, timeout_s=None)) as results:
                taken = [await anext(results) for _ in range(3)]
            return taken, await client.is_live()

    taken, is_live = asyncio.run(leave())

    assert numbers(taken) == [0, 1, 2]
    assert is_live


def test_cancelling_the_task_of_a_stream_cancels_it_on_the_server():
    async def cancel(server):
        async def read():
            async for _ in client.stream("silent", [numbered(0)], timeout_s=None):
                pass

        async with AsyncClient(server.address, timeout_s=30) as client:
            task = asyncio.create_task(read())
            await asyncio.to_thread(server.inference.silent_call_began.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(server.inference.silent_call_ended.wait, 30)

    with serving() as server:
        assert asyncio.run(cancel(server))


@pytest.fixture
def no_garbage_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_stream_that_has_ended_leaves_no_call_and_so_no_connection(server):
    async def stream():
        async with AsyncClient(server.address, timeout_s=30) as client:
            async for _ in client.stream("echo", [numbered(0)], timeout_s=30):
                pass

    asyncio.run(stream())

    assert not any(isinstance(each, grpc.aio.StreamStreamCall) for each in gc.get_objects())


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_the_reason_a_stream_ended_survives_requests_still_on_their_way(server, shell):
    def reason():
        try:
            return list(SHELLS[shell](server.address).stream("echo", requests))
        except ServingError as error:
            return error.reason

    requests = [numbered(0), numbered(1, "abort"), *map(numbered, range(2, 7))]

    assert [reason() for _ in range(30)] == ["Draining"] * 30
