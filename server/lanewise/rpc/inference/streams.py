"""Many requests on one stream: run side by side, answered in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from lanewise.errors import ServingError

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

MAX_OUTSTANDING = 64
"""Requests of one stream that may run or wait for their turn to be answered."""


async def answer_in_order(
    requests: AsyncIterator[RequestT],
    answer: Callable[[RequestT], Coroutine[Any, Any, ResponseT]],
    write: Callable[[ResponseT], Awaitable[None]],
    max_outstanding: int = MAX_OUTSTANDING,
) -> None:
    """Answer every request; return when the last answer has been written.

    Reading pauses while `max_outstanding` requests are not answered. Cancelling this
    cancels everything outstanding, and so does a CancelledError that `write` raises.

    Args:
        requests: read as room allows.
        answer: must not raise: one request's failure is an answer too.
        write: called with one answer at a time, in the order of the requests.
        max_outstanding: requests read whose answers are not yet written.

    Raises:
        ServingError: `requests` raised it; what came before it has been answered.
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

    # Writing is the body of the group, so that its end by CancelledError ends the rest too.
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read_all(tasks))
        while (task := await outstanding.get()) is not None:
            await write(await task)
            room.release()
    if unreadable:
        raise unreadable[0]
