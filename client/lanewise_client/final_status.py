"""The status a stream of gRPC's asyncio ended with, though a failed write may hide it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from typing import Any

import grpc

# What gRPC notes for a write that failed; it says nothing of the reason.
_FAILED_WRITE = "Internal error from Core"
_STEP_S = 0.005
_STEPS = 100


class FinalStatus:
    """Keeps the status that the server ended a stream with.

    When the server ends a stream while a request is on its way, grpcio (seen in 1.72 and
    1.85) notes the failed write as the status of the call: before the server's status,
    which then takes its place, or after it, which then is gone. So it is copied in the
    callback that gRPC makes as it sets a status.
    """

    def __init__(self, call: Any) -> None:  # noqa: ANN401
        """Watch `call`, which has just been started; the caller keeps it for as long as this."""
        self._call = weakref.proxy(call)
        self._noted: grpc.aio.AioRpcError | None = None
        # Through the proxy: a call keeps its callbacks, and gRPC keeps with each what it was
        # added to. A call that referred to itself would hold its connection open, also of a
        # client that is closed, until the garbage collector comes.
        type(call).add_done_callback(self._call, lambda _: self._note())

    async def of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Get the server's status, be it OK, where `error` may be a failed write's.

        Waits for it half a second at most, and gives `error` back if it does not come.
        """
        if error.details() != _FAILED_WRITE:
            return error
        for _ in range(_STEPS):
            self._note()
            if self._noted is not None:
                return self._noted
            await asyncio.sleep(_STEP_S)
        return error

    def _note(self) -> None:
        details = _result_of(self._call.details())
        if self._noted is None and details != _FAILED_WRITE:
            self._noted = grpc.aio.AioRpcError(
                _result_of(self._call.code()),
                grpc.aio.Metadata(),
                _result_of(self._call.trailing_metadata()),
                details,
            )


def _result_of(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401
    """Run a coroutine that has nothing to wait for; those of a call with a status have not."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        return returned.value
    coroutine.close()
    raise RuntimeError("the call has no status yet")
