"""Many requests on one stream: run concurrently, answered in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from lanewise.errors import ServingError

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

MAX_OUTSTANDING = 64
"""Requests of one stream that may run, or wait for earlier ones to be answered."""


async def answer_in_order(
    requests: AsyncIterator[RequestT],
    answer: Callable[[RequestT], Coroutine[Any, Any, ResponseT]],
    write: Callable[[ResponseT], Awaitable[None]],
    max_outstanding: int = MAX_OUTSTANDING,
) -> None:
    """Answer every request; return when the last answer has been written.

    Reading pauses while `max_outstanding` requests are unanswered. Cancelling this, or a
    CancelledError from `write`, cancels everything outstanding.

    Args:
        requests: read while fewer than `max_outstanding` are unanswered.
        answer: must not raise: a failure is an answer, too.
        write: called with one answer at a time, in the order of the requests.
        max_outstanding: requests that were read and whose answers are not yet written.

    Raises:
        ServingError: from `requests`, once the requests before it have been answered.
    """
    outstanding: asyncio.Queue[asyncio.Task[ResponseT] | None] = asyncio.Queue()
    room = asyncio.Semaphore(max_outstanding)
    unreadable: list[ServingError] = []

    async def read_all(tasks: asyncio.TaskGroup) -> None:
        try:
            await room.acquire()
            async for request in requests:
                outstanding.put_nowait(tasks.create_task(answer(request)))
                await room.acquire()
        except ServingError as error:
            unreadable.append(error)
        outstanding.put_nowait(None)

    # The body of the group writes, so that a CancelledError there cancels the tasks, too.
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read_all(tasks))
        while (task := await outstanding.get()) is not None:
            await write(await task)
            room.release()
    if unreadable:
        raise unreadable.pop()  # kept in the list, it would hold the message in a cycle
