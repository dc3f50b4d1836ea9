"""A source of time that can be replaced: real in the server, virtual in simulations."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from lanewise.fine_timers import FineTimers

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Timer(Protocol):
    """A call that has been arranged and has not happened yet."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Monotonic time in integer nanoseconds, and the two ways to wait for it."""

    def now_ns(self) -> int:
        """Tell the time; never goes backwards."""
        ...

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, at `when_ns` or soon after, on the caller's event loop."""
        ...

    def block_for(self, duration_ns: int) -> None:
        """Return after `duration_ns`; blocks the calling thread."""
        ...


class SystemClock:
    """The clock of the operating system and of the running event loop."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        loop = asyncio.get_running_loop()
        timers = _timers_of(loop)
        if timers is not None:
            return timers.call_at(when_ns, callback)
        delay_s = max(0, when_ns - time.monotonic_ns()) / NS_PER_S
        return loop.call_later(delay_s, callback)

    def block_for(self, duration_ns: int) -> None:
        time.sleep(duration_ns / NS_PER_S)


_fine: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, FineTimers | None] = (
    weakref.WeakKeyDictionary()
)


def _timers_of(loop: asyncio.AbstractEventLoop) -> FineTimers | None:
    """Get the loop's timers that are not late; None where there are none."""
    if loop not in _fine:
        try:
            _fine[loop] = FineTimers(loop)
        except (OSError, NotImplementedError):
            _fine[loop] = None
    return _fine[loop]
