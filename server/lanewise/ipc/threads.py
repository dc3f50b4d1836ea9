"""Callbacks that come on any thread, called on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


def on_loop(callback: Callable[[int], None]) -> Callable[[int], None]:
    """Make a function for any thread of one for this thread's event loop, which is running."""
    loop = asyncio.get_running_loop()
    here = threading.get_ident()

    def call(argument: int) -> None:
        if loop.is_closed():  # nobody is left to tell
            return
        if threading.get_ident() == here:
            callback(argument)
            return
        with contextlib.suppress(RuntimeError):  # it has been closed since
            loop.call_soon_threadsafe(callback, argument)

    return call
