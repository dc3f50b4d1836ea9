"""What the rpc layer tells whoever counts requests."""

from __future__ import annotations

import asyncio
from typing import Protocol

from lanewise.rpc.status import reason_of

CANCELLED = "Cancelled"


class RequestObserver(Protocol):
    """Is told of every inference request once, when it ends."""

    def request_finished(
        self, model: str, version: str, profile: str, error: str, latency_ns: int
    ) -> None:
        """Count a request. Called on the event loop; must not block or raise.

        Args:
            model: its name; empty if the server has no such model or version, so that
                clients cannot make up new values.
            version: the one that was asked for, or the default; empty as `model` is.
            profile: what served it, as in the response; empty if it failed.
            error: the class of the error, "Cancelled" or "InternalError"; empty on success.
            latency_ns: from its arrival in the rpc layer until its response was built.
        """
        ...


class IgnoreRequests:
    """The observer of a server that counts nothing."""

    def request_finished(
        self, model: str, version: str, profile: str, error: str, latency_ns: int
    ) -> None:
        pass


def error_name(error_class: type[BaseException]) -> str:
    """Name a class of errors for `RequestObserver.request_finished`."""
    return CANCELLED if issubclass(error_class, asyncio.CancelledError) else reason_of(error_class)
