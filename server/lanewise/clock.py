"""A source of time that can be replaced: real in the server, virtual in simulations."""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import time
import weakref
from collections.abc import Callable
from typing import Protocol

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Monotonic time in integer nanoseconds, and the two ways to wait for it."""

    def now_ns(self) -> int: ...

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, at `when_ns` or soon after, on the caller's event loop."""
        ...

    def block_for(self, duration_ns: int) -> None: ...


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


_ABSOLUTE = 1
"""TFD_TIMER_ABSTIME of timerfd_settime(2)."""

_COUNT_BYTES = 8
"""What has to be read of a timer that went off."""

LEAST_SWEPT = 64
"""Timers, cancelled ones too, that are kept before those are looked for."""


class _TimerSpec(ctypes.Structure):
    """struct itimerspec; without an interval it goes off once."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class FineTimer:
    """A `Timer` of `FineTimers`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FineTimers:
    """The timers of one event loop, on one timer of the kernel, which is closed with the loop.

    asyncio's own are up to 1 ms late: it waits with epoll, which counts whole milliseconds, and
    rounds up (CPython 3.11, selectors.py). Of a launch that is held for 2 ms at most that is half.

    Raises:
        OSError: the system has no such timers.
        NotImplementedError: the event loop cannot wait for files.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            create, self._set = libc.timerfd_create, libc.timerfd_settime
        except (OSError, TypeError, AttributeError) as error:
            raise OSError("timerfd_create(2) is not there") from error
        self._file = create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._heap: list[tuple[int, int, FineTimer]] = []
        self._numbers = itertools.count()
        self._sweep_at = LEAST_SWEPT
        self._close = weakref.finalize(loop, os.close, self._file)
        try:
            loop.add_reader(self._file, self._go_off)
        except BaseException:
            self._close()
            raise

    def __len__(self) -> int:
        """Count the timers that are kept; cancelled ones may be among them."""
        return len(self._heap)

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> FineTimer:
        """Call `callback` on the event loop at `when_ns` of the monotonic clock, or soon after."""
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        timer = FineTimer(callback)
        heapq.heappush(self._heap, (when_ns, next(self._numbers), timer))
        if self._heap[0][2] is timer:
            self._arm()
        return timer

    def _sweep(self) -> None:
        """Forget cancelled timers, so that those of far-off times do not pile up."""
        self._heap = [entry for entry in self._heap if entry[2].callback is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(LEAST_SWEPT, 2 * len(self._heap))

    def _arm(self) -> None:
        """Have the kernel tell when the earliest is due. A time that is past is told at once."""
        at_s, at_ns = divmod(max(1, self._heap[0][0]), NS_PER_S)  # 0 would disarm it
        spec = _TimerSpec(0, 0, at_s, at_ns)
        if self._set(self._file, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _go_off(self) -> None:
        """Call the earliest if it is due, and only it: its exceptions are nobody else's."""
        try:
            os.read(self._file, _COUNT_BYTES)
        except BlockingIOError:
            return  # it was set to a later time meanwhile
        heap = self._heap
        due: FineTimer | None = None
        while heap and (heap[0][2].callback is None or heap[0][0] <= time.monotonic_ns()):
            due = heapq.heappop(heap)[2]
            if due.callback is not None:
                break
        if heap:
            self._arm()
        if due is not None and due.callback is not None:
            due.callback()
