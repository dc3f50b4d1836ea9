"""Clients that never stop asking, on a thread of their own, and what became of each request."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np

from helpers.front_ends import wait_for
from lanewise_client import AsyncClient, InferRequest, ServingError, Unavailable

CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
CLIENTS, CALLERS = 4, 3
"""Connections, and requests that are under way on each; one connection has a stream besides."""
ROWS = (1, 7, 200, 1000)
"""Of three FP32 each: in a message and in shared memory."""
PAUSE_S = 0.01
"""Before a caller asks again: some of two cores is left to processes that start."""
TIMEOUT_S = 30.0
STREAM_ROUND = 25
"""Requests of one stream, before the next begins."""


class SteadyLoad:
    """Asks a model that echoes `x` as `echo_x`, until it is stopped.

    Attributes:
        sent: requests begun.
        ended: what became of them: "answered", or the class of an error that is allowed.
        wrong: every other ending; one request is in `ended` or here, once.
    """

    def __init__(self, address: str, model: str) -> None:
        self._address = address
        self._model = model
        self._values = itertools.count(1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.sent = 0
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []

    def __enter__(self) -> SteadyLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(2 * TIMEOUT_S)
        assert not self._thread.is_alive(), "a request has not ended"
        # A stream that ended with an error is kept by the error's own traceback, and keeps its
        # connection, though the client is closed.
        gc.collect()

    @property
    def answered(self) -> int:
        return self.ended["answered"]

    def wait_for_answers(self, count: int) -> None:
        """Return once as many more requests have been answered."""
        wanted = self.answered + count
        wait_for(lambda: self.answered >= wanted)

    async def _run(self) -> None:
        clients = [
            AsyncClient(self._address, timeout_s=TIMEOUT_S, options=CHANNEL) for _ in range(CLIENTS)
        ]
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                for _ in range(CALLERS):
                    tasks.create_task(self._call(client))
            tasks.create_task(self._stream(clients[0]))
        for client in clients:
            await client.close()

    def _next(self) -> np.ndarray:
        value = next(self._values)
        self.sent += 1
        return np.full((ROWS[value % len(ROWS)], 3), value, np.float32)

    async def _call(self, client: AsyncClient) -> None:
        while not self._stopping.is_set():
            x = self._next()
            try:
                result = await client.infer(self._model, {"x": x})
            except Exception as error:
                await self._note(error)
            else:
                self._check(x, result)
                await asyncio.sleep(PAUSE_S)

    async def _stream(self, client: AsyncClient) -> None:
        while not self._stopping.is_set():
            waiting: list[np.ndarray] = []

            async def requests(waiting=waiting) -> AsyncIterator[InferRequest]:
                for _ in range(STREAM_ROUND):
                    waiting.append(self._next())
                    yield InferRequest({"x": waiting[-1]})
                    await asyncio.sleep(0.002)

            try:
                async with aclosing(
                    client.stream(self._model, requests(), timeout_s=TIMEOUT_S)
                ) as answers:
                    async for answer in answers:
                        x = waiting.pop(0)
                        if isinstance(answer, ServingError):
                            await self._note(answer)
                        else:
                            self._check(x, answer)
            except Exception as error:
                for _ in waiting:  # the end of the stream is the end of what it owed
                    await self._note(error)

    def _check(self, x: np.ndarray, result) -> None:
        if np.array_equal(result["echo_x"], x):
            self.ended["answered"] += 1
        else:
            self.wrong.append(f"sent {x.shape} {x[0, 0]}, got {result['echo_x']}")

    async def _note(self, error: Exception) -> None:
        if isinstance(error, Unavailable):
            self.ended[type(error).__name__] += 1
        else:
            self.wrong.append(f"{type(error).__name__} {error}")
        await asyncio.sleep(0.01)
