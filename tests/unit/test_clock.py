"""The system clock's timers, on a real event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path

import pytest

from lanewise.clock import LEAST_SWEPT, NS_PER_MS, FineTimers, SystemClock

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="timerfd is Linux's")


def test_timers_go_off_in_order_and_never_early():
    async def main() -> None:
        clock = SystemClock()
        began_ns = clock.now_ns()
        done = asyncio.get_running_loop().create_future()
        calls: list[tuple[int, int]] = []
        for ms in (3, 1, 2):
            when_ns = began_ns + ms * NS_PER_MS
            clock.call_at(when_ns, lambda ms=ms: calls.append((ms, clock.now_ns() - began_ns)))
        clock.call_at(began_ns + 4 * NS_PER_MS, lambda: done.set_result(None))
        await done
        assert [ms for ms, _ in calls] == [1, 2, 3]
        assert all(at_ns >= ms * NS_PER_MS for ms, at_ns in calls)

    asyncio.run(main())


def test_a_cancelled_timer_does_not_go_off_and_holds_up_no_other():
    async def main() -> None:
        clock = SystemClock()
        done = asyncio.get_running_loop().create_future()
        at_ns = clock.now_ns() + NS_PER_MS
        clock.call_at(
            at_ns, lambda: done.set_exception(AssertionError("it was cancelled"))
        ).cancel()
        clock.call_at(at_ns + 1, lambda: done.set_result(None))
        await done

    asyncio.run(main())


def test_a_time_that_is_past_is_told_at_once():
    async def main() -> None:
        clock = SystemClock()
        done = asyncio.get_running_loop().create_future()
        clock.call_at(0, lambda: done.set_result(None))
        await asyncio.wait_for(done, 10)

    asyncio.run(main())


def test_an_exception_of_one_timer_does_not_keep_another_from_going_off():
    async def main() -> None:
        clock, loop = SystemClock(), asyncio.get_running_loop()
        done, errors = loop.create_future(), []
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        clock.call_at(0, lambda: 1 // 0)
        clock.call_at(0, lambda: done.set_result(None))
        await asyncio.wait_for(done, 10)
        assert [type(error) for error in errors] == [ZeroDivisionError]

    asyncio.run(main())


def test_cancelled_timers_of_far_off_times_do_not_pile_up():
    async def main() -> None:
        timers = FineTimers(asyncio.get_running_loop())
        far_ns = time.monotonic_ns() + 3_600_000_000_000
        for _ in range(10 * LEAST_SWEPT):
            timers.call_at(far_ns, lambda: None).cancel()
        assert len(timers) <= LEAST_SWEPT

    asyncio.run(main())


def test_the_timer_of_a_loop_is_closed_with_it():
    def use_a_loop() -> None:
        async def use() -> None:
            SystemClock().call_at(0, lambda: None)
            await asyncio.sleep(0)

        asyncio.run(use())

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    use_a_loop()
    before = open_files()
    for _ in range(20):
        use_a_loop()
    gc.collect()
    assert open_files() <= before + 1
