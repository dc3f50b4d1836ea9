"""What the rpc layer tells whoever counts requests, and the one place that tells it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

from lanewise.clock import Clock
from lanewise.rpc.status import reason_of

CANCELLED = "Cancelled"


class RequestObserver(Protocol):
    """Is told of every inference request once, when it ends."""

    def request_finished(
        self, model: str, version: str, profile: str, error: str, latency_ns: int
    ) -> None:
        """Take note of a request. Called on the event loop; must not block or raise.

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


class Observation:
    """A context around one request; leaving it tells the observer.

    `model` and `version` are set as soon as they are known to exist, `profile` when the
    request was served.
    """

    __slots__ = ("_clock", "_observer", "model", "profile", "started_ns", "version")

    def __init__(self, observer: RequestObserver, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self.started_ns = clock.now_ns()
        self.model = ""
        self.version = ""
        self.profile = ""

    def __enter__(self) -> Observation:
        return self

    def __exit__(
        self,
        error_class: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        latency_ns = self._clock.now_ns() - self.started_ns
        self._observer.request_finished(
            self.model, self.version, self.profile, _error_name(error_class), latency_ns
        )


def _error_name(error_class: type[BaseException] | None) -> str:
    if error_class is None:
        return ""
    return CANCELLED if issubclass(error_class, asyncio.CancelledError) else reason_of(error_class)
