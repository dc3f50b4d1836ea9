"""How the rpc layer reports requests that have ended, for metrics."""

from __future__ import annotations

import asyncio
from typing import Protocol

from lanewise.rpc.status import reason_of

CANCELLED = "Cancelled"


class RequestObserver(Protocol):
    """Counts inference requests, each once, when it ends."""

    def request_finished(
        self, model: str, version: str, profile: str, error: str, latency_ns: int
    ) -> None:
        """Count a request. Called on the event loop; must not block or raise.

        Args:
            model: its name; empty if the server has no such model or version: clients must
                not be able to make up label values.
            version: the one requested, or the default; empty if `model` is.
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
