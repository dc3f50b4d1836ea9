"""How the rpc layer reports requests that have ended, for metrics."""

from __future__ import annotations

import asyncio

from lanewise.rpc.status import reason_of

CANCELLED = "Cancelled"


def ignore_finished(*_: object) -> None:
    """Be the `WhenFinished` of a server that counts nothing."""


def error_name(error_class: type[BaseException]) -> str:
    """Name a class of errors for `WhenFinished`."""
    return CANCELLED if issubclass(error_class, asyncio.CancelledError) else reason_of(error_class)
