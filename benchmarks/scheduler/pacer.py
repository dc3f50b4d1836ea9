"""A process that signals when requests are due: one byte through a pipe for each.

An event loop's own timers will not do: epoll counts whole milliseconds and rounds up (CPython 3.12,
selectors.py), and a thread that sleeps would have to get the interpreter lock first.
"""

from __future__ import annotations

import array
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

NS_PER_S = 1_000_000_000
READY, AT_ONCE = 1, 1 << 16

HEAD_START_NS = 50_000_000
"""From when the process is ready until the first request."""


async def pace(times_ns: Sequence[int], when_due: Callable[[int, int], None]) -> int:
    """Call `when_due(index, base_ns)` on the event loop at `base_ns` plus each of `times_ns`.

    Returns the base, on the clock of `time.monotonic_ns`, when all were called.

    Args:
        times_ns: ascending.
        when_due: as close to the time as the loop's other work lets it.
    """
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else waits for the loop yet
        [sys.executable, __file__, str(writing)], stdin=subprocess.PIPE, pass_fds=[writing]
    )
    os.close(writing)
    try:
        assert process.stdin is not None
        await loop.run_in_executor(None, os.read, reading, READY)
        base_ns = time.monotonic_ns() + HEAD_START_NS
        process.stdin.write(array.array("q", [base_ns, *times_ns]).tobytes())
        process.stdin.close()
        done, calls = loop.create_future(), iter(range(len(times_ns)))

        def read() -> None:
            due = os.read(reading, AT_ONCE)
            for _ in due:
                when_due(next(calls), base_ns)
            if not due and not done.done():
                done.set_result(None)

        os.set_blocking(reading, False)
        loop.add_reader(reading, read)
        try:
            await done
        finally:
            loop.remove_reader(reading)
        return base_ns
    finally:
        os.close(reading)
        process.kill()
        process.wait()


def _main() -> None:
    writing = int(sys.argv[1])
    os.write(writing, b"r")
    times = array.array("q")
    times.frombytes(sys.stdin.buffer.read())
    base_ns = times[0]
    for at_ns in times[1:]:
        wait_ns = base_ns + at_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / NS_PER_S)
        os.write(writing, b".")


if __name__ == "__main__":
    _main()
