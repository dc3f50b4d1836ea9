"""Lines about refused requests, at a bounded rate."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

WINDOW_S: Final = 1.0
MAX_LINES: Final = 20
"""Refusals that are logged in a window; the others are counted, in one line at its end."""

_log = structlog.get_logger("lanewise.rpc")


class RefusalLog:
    """Logs refusals of the calls of one event loop.

    A window opens with a refusal. Outside an event loop, where no window can close, every
    refusal is logged.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lines = 0
        self._left_out = 0

    def add(self, facts: dict[str, str]) -> None:
        """Log a refusal, or count it if the window has had its lines."""
        loop = _running_loop()
        if loop is not self._loop:  # a loop that has ended does not close its window
            self._close()
            if loop is not None:
                loop.call_later(WINDOW_S, self._close_of, loop)
            self._loop = loop
        if loop is not None and self._lines >= MAX_LINES:
            self._left_out += 1
            return
        self._lines += 1
        _log.info("request refused", **facts)

    def _close_of(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:
            self._close()

    def _close(self) -> None:
        if self._left_out:
            _log.info("refusals left out of the log", count=self._left_out, within_s=WINDOW_S)
        self._loop, self._lines, self._left_out = None, 0, 0


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
