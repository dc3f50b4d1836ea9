"""The methods of this server as an ASGI application that speaks gRPC, for pyvoy to carry.

HTTP/2 is Envoy's affair, in C++ and on threads of its own; Python sees whole messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import grpc

from lanewise.errors import Draining, Unsupported
from lanewise.rpc.edge.call import EdgeCall, Event, Receive, Send
from lanewise.rpc.methods import RpcMethod, UnaryMethod
from lanewise.rpc.services import Services
from lanewise.rpc.status import Status, reason_of, status_for

CHECK_PERIOD_S: Final = 0.1
"""How often open calls are checked. Most are answered sooner and cost no check."""
PROBE_PERIOD_S: Final = 0.005
"""How often the port is tried until Envoy listens."""
FLUSH_S: Final = 0.1
"""How long Envoy's threads are left to write what they were handed before the process ends."""

FAREWELL_S: Final = 1.0
"""How long the callers of calls that are cut short may take to be told."""

_STOPPED: Final = Status(
    grpc.StatusCode.UNAVAILABLE,
    "the server stopped before the call was answered; try another one",
    reason_of(Draining),
)


class EdgeServer:
    """An ASGI application for HTTP, and a `Transport`; pyvoy calls it once for each call."""

    def __init__(self, services: Services) -> None:
        self._methods: dict[str, RpcMethod] = {each.path: each for each in services.methods}
        self._max_message_bytes = services.max_message_bytes
        self._open: set[EdgeCall] = set()
        self._checking: asyncio.TimerHandle | None = None
        self._address = ("", 0)
        self._stopping = False
        self._all_ended = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if not _is_grpc(scope):
            await _refuse_http(send)
            return
        with contextlib.suppress(OSError):  # the caller has gone
            await self._answer(scope, receive, send)

    def listen(self, host: str, port: int) -> int:
        """See `Transport.listen`: Envoy was told to listen there when it was started."""
        self._address = (host, port)
        return port

    async def start(self) -> None:
        """See `Transport.start`. Envoy ends the process if it cannot listen."""
        while True:
            try:
                _, writer = await asyncio.open_connection(*self._address)
            except OSError:
                await asyncio.sleep(PROBE_PERIOD_S)
            else:
                writer.close()
                return

    async def stop(self, grace_s: float) -> None:
        """See `Transport.stop`; the process may end when this returns."""
        self._stopping = True
        if self._open:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), grace_s)
        open_calls = list(self._open)
        for call in open_calls:
            call.cut_short(_STOPPED)
        if open_calls:
            # Not forever: telling a caller that is leaving at this moment may take that long.
            await asyncio.wait([call.task for call in open_calls], timeout=FAREWELL_S)
        await asyncio.sleep(FLUSH_S)

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        call = EdgeCall(receive, send, self._max_message_bytes, _peer(scope))
        self._open.add(call)
        if self._checking is None:
            self._check()
        response: bytes | Status | None
        try:
            call.read_headers(scope["headers"])
            response = await self._run(path, call)
        except asyncio.CancelledError:
            if not call.is_over:
                raise
            if call.final_status is None:
                return
            response = call.final_status
        except Exception as error:
            response = status_for(error, rpc=path.rpartition("/")[2])
        finally:
            call.is_over = True
            self._open.discard(call)
            if self._stopping and not self._open:
                self._all_ended.set()
        await call.end(response)

    async def _run(self, path: str, call: EdgeCall) -> bytes | Status | None:
        """Answer a call; get the one response of a unary call, or the status of the end."""
        method = self._methods.get(path)
        if method is None:
            raise Unsupported(f"there is no method {path}; reflection lists what there is")
        if self._stopping:
            return _STOPPED
        if isinstance(method, UnaryMethod):
            return await method.answer(await call.request(), call)
        return await method.answer(call.requests(), call)

    def _check(self) -> None:
        for call in self._open:
            call.check()
        loop = asyncio.get_running_loop()
        self._checking = loop.call_later(CHECK_PERIOD_S, self._check) if self._open else None


def _is_grpc(scope: dict[str, Any]) -> bool:
    return scope["method"] == "POST" and any(
        name == b"content-type" and value.startswith(b"application/grpc")
        for name, value in scope["headers"]
    )


def _peer(scope: dict[str, Any]) -> str:
    """Write where a call comes from as gRPC does; empty if it is not told."""
    host, port = scope.get("client") or ("", 0)
    if not host:
        return ""
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


async def _refuse_http(send: Send) -> None:
    """Answer as gRPC over HTTP/2 asks for: 415 to what is not gRPC."""
    headers = [(b"content-type", b"text/plain")]
    start: Event = {"type": "http.response.start", "status": 415, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": b"this port speaks gRPC alone\n"})
