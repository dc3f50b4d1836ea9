"""A source of time that can be replaced: real in the server, virtual in simulations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

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
        delay_s = max(0, when_ns - time.monotonic_ns()) / NS_PER_S
        return asyncio.get_running_loop().call_later(delay_s, callback)

    def block_for(self, duration_ns: int) -> None:
        time.sleep(duration_ns / NS_PER_S)
