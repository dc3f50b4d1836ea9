"""Waits for started batches on the event loop, by asking whether they are done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lanewise.backends.runner import PendingBatch
from lanewise.backends.threads import RunnerThreads, WhenDone
from lanewise.clock import NS_PER_MS, Clock

POLL_NS = 2 * NS_PER_MS
"""Batches that take longer than this are better waited for on a thread: two hand-overs cost
them little, and a loop that polls takes a whole core."""

OVERTIME_NS = 5 * NS_PER_MS
"""How much longer than predicted a batch is polled before it is left to a thread."""


@dataclass(frozen=True, slots=True)
class _Polled:
    pending: PendingBatch
    until_ns: int
    threads: RunnerThreads
    when_done: WhenDone


class Poller:
    """Asks every added batch once in each turn of the event loop until it is done.

    Other work of the loop gets its share of every turn, but the loop does not sleep while
    there is a batch. Waking a thread, or a sleeping loop, takes about 100 us each on a core
    that is asleep, too (an H200's host): as long as executing a row.
    Used on one event loop.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._batches: list[_Polled] = []
        self._is_scheduled = False

    def add(
        self, pending: PendingBatch, until_ns: int, threads: RunnerThreads, when_done: WhenDone
    ) -> None:
        """Call `when_done(result, error)` on the event loop, once, in a later turn.

        Args:
            pending: belongs to the poller from now on.
            until_ns: a batch that is not done by then is waited for on a thread.
            threads: of its runner.
            when_done: `error` is whatever `result` raised; the other of the two is None.
        """
        self._batches.append(_Polled(pending, until_ns, threads, when_done))
        self._schedule()

    def _schedule(self) -> None:
        if self._batches and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """End one batch that need not be polled any more, after scheduling the next turn.

        Only one, so that an exception from its `when_done` does not affect the others.
        """
        self._is_scheduled = False
        now_ns = self._clock.now_ns()
        for index, batch in enumerate(self._batches):
            is_done = batch.pending.is_done()
            if is_done or now_ns >= batch.until_ns:
                del self._batches[index]
                self._schedule()
                _end(batch, is_done=is_done)
                return
        self._schedule()


def _end(batch: _Polled, *, is_done: bool) -> None:
    if not is_done:
        batch.threads.submit(batch.when_done, batch.pending.result)
        return
    result, error = None, None
    try:
        result = batch.pending.result()
    except BaseException as raised:
        error = raised
    batch.when_done(result, error)
