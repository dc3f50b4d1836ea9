"""How a process hears that it is to stop, and how it ends if it cannot wait for its threads."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

OnSignal: TypeAlias = Callable[[signal.Signals], None]
SignalWatch: TypeAlias = Callable[[OnSignal], None]
"""Has its argument called on the running event loop for each stop signal from now on."""


def watch_on_main_thread(on_signal: OnSignal) -> None:
    """Watch by handlers of the event loop, which has to run on the main thread."""
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)


def watch_on_own_thread(on_signal: OnSignal) -> None:
    """Watch by a thread, in a process that was started with the stop signals blocked."""
    loop = asyncio.get_running_loop()

    def watch() -> None:
        while True:
            loop.call_soon_threadsafe(on_signal, signal.Signals(signal.sigwait(STOP_SIGNALS)))

    threading.Thread(target=watch, name="stop-signals", daemon=True).start()


def block_stop_signals() -> None:
    """Block them in this thread, and in what it starts or becomes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def leave_at_once(status: int) -> NoReturn:
    """End the process whatever its threads are doing; nothing of the log is lost.

    The ordinary ways out wait for every thread, and one that is inside a foreign library
    may take minutes to come back.
    """
    logging.shutdown()
    os._exit(status)
