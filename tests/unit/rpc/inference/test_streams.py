from __future__ import annotations

import asyncio

import pytest

from helpers.rpc import in_event_loop
from lanewise.errors import InvalidRequest
from lanewise.rpc.inference.streams import answer_in_order


class Source:
    """Requests 0, 1, ... `count` - 1; then, if given, an error. Remembers how many were read."""

    def __init__(self, count, error=None):
        self.read = 0
        self._count = count
        self._error = error

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.read < self._count:
            self.read += 1
            return self.read - 1
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration


async def let_everything_run():
    for _ in range(500):
        await asyncio.sleep(0)


@in_event_loop
async def test_answers_are_written_in_the_order_of_the_requests():
    gates = [asyncio.Event() for _ in range(3)]
    begun, written = [], []

    async def answer(number):
        begun.append(number)
        await gates[number].wait()
        return number

    async def write(number):
        written.append(number)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer_in_order(Source(3), answer, write))
        await let_everything_run()
        assert begun == [0, 1, 2]
        gates[2].set()
        await let_everything_run()
        assert written == []
        gates[0].set()
        await let_everything_run()
        assert written == [0]
        gates[1].set()

    assert written == [0, 1, 2]


@in_event_loop
async def test_reading_pauses_while_too_many_requests_are_outstanding():
    source = Source(10)
    gate = asyncio.Event()
    written = []

    async def answer(number):
        await gate.wait()
        return number

    async def write(number):
        written.append(number)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer_in_order(source, answer, write, max_outstanding=4))
        await let_everything_run()
        assert source.read == 4
        gate.set()

    assert written == list(range(10))


@in_event_loop
async def test_what_came_before_an_unreadable_request_is_answered():
    written = []

    async def answer(number):
        await asyncio.sleep(0)
        return number

    async def write(number):
        written.append(number)

    with pytest.raises(InvalidRequest, match="garbage"):
        await answer_in_order(Source(2, InvalidRequest("garbage")), answer, write)

    assert written == [0, 1]


@in_event_loop
async def test_a_write_that_nobody_reads_cancels_everything_outstanding():
    cancelled = []

    async def answer(number):
        try:
            if number > 0:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def write(number):
        await let_everything_run()
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await answer_in_order(Source(3), answer, write)

    assert sorted(cancelled) == [1, 2]


@in_event_loop
async def test_cancelling_cancels_everything_outstanding():
    cancelled = []

    async def answer(number):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(number)

    async def write(number):
        raise AssertionError("nothing was answered")

    stream = asyncio.ensure_future(answer_in_order(Source(3), answer, write))
    await let_everything_run()
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream

    assert sorted(cancelled) == [0, 1, 2]
