"""The methods of this server over grpc.aio, the default transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

from lanewise.errors import ConfigError
from lanewise.rpc.methods import RpcMethod, StreamMethod, UnaryMethod
from lanewise.rpc.services import Services
from lanewise.rpc.status import Status
from lanewise.settings.ports import require_free_port

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

MAX_PENDING_CALLS = 100_000

NEAR_MISS_BYTES = 1 << 20
"""How far above the limit a message may be to reach the methods, and refused with our own text."""

_MAX_INT32 = 2**31 - 1


class AioServer:
    """The `Transport` over grpc.aio; see there for the methods."""

    def __init__(
        self,
        services: Services,
        tls: tuple[bytes, bytes] | None = None,
        *,
        shares_port: bool = False,
    ) -> None:
        """Make one that is not started.

        Args:
            services: what it carries.
            tls: a certificate chain and its key, in PEM; None for no TLS.
            shares_port: whether other processes of this server listen on the same port.
        """
        self._server = aio_server(
            services.methods, services.max_message_bytes, shares_port=shares_port
        )
        self._shares_port = shares_port
        self._credentials = None if tls is None else grpc.ssl_server_credentials([tls[::-1]])

    def listen(self, host: str, port: int) -> int:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not self._shares_port:
            require_free_port("--grpc-port", host, port)
        try:
            if self._credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:  # taken since it was probed, or no certificate
            hint = "" if self._credentials is None else ", or --tls-cert and --tls-key do not fit"
            raise ConfigError(
                f"--grpc-port {port}: cannot listen on {host}; choose another port, 0 for any{hint}"
            ) from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s)


def aio_server(
    methods: Iterable[RpcMethod], max_message_bytes: int, *, shares_port: bool = False
) -> grpc.aio.Server:
    """Build a server, not started and without ports; must be called on its event loop."""
    return grpc.aio.server(
        handlers=[_Handlers(methods)],
        options=server_options(max_message_bytes, shares_port=shares_port),
    )


def server_options(max_message_bytes: int, *, shares_port: bool = False) -> list[tuple[str, int]]:
    """Get the options of a server.

    The methods refuse a message above `max_message_bytes` with a text that names the setting to
    raise. The core's own limit, whose refusal does not, is `NEAR_MISS_BYTES` higher: what is
    above that never becomes an object of Python. The core still gathers such a message, and
    decompresses it, before it looks at the length (seen in 1.72.2 and 1.78.2).
    """
    return [
        (
            "grpc.max_receive_message_length",
            min(max_message_bytes + NEAR_MISS_BYTES, _MAX_INT32),
        ),
        ("grpc.max_send_message_length", -1),
        # On by default, it would let two servers share a port by accident.
        ("grpc.so_reuseport", int(shares_port)),
        # Above its own bound grpcio 1.85 cancels calls that Python has not yet taken over:
        # 204 of a burst of 2000 (see benchmarks/transport). Our own queues refuse with a reason
        # long before these bounds.
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
    ]


class _Handlers(grpc.GenericRpcHandler):
    """Handlers by path.

    Messages stay bytes up to the methods: an exception in a deserializer or a serializer
    would end the call with UNKNOWN (seen in 1.72.2 and 1.85.1).
    """

    def __init__(self, methods: Iterable[RpcMethod]) -> None:
        self._handlers = {method.path: _handler(method) for method in methods}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


def _handler(method: RpcMethod) -> grpc.RpcMethodHandler[Any, Any]:
    match method:
        case UnaryMethod():
            return grpc.unary_unary_rpc_method_handler(_unary(method))
        case StreamMethod():
            return grpc.stream_stream_rpc_method_handler(_stream(method))


def _unary(method: UnaryMethod) -> Callable[[bytes, Context], Awaitable[bytes]]:
    answer = method.answer

    async def call(data: bytes, context: Context) -> bytes:
        response = await answer(data, context)
        if isinstance(response, Status):
            # An abort raises, and its traceback keeps this frame until garbage is collected.
            del data
            await context.abort(response.code, response.text, response.trailers)
        return response

    return call


def _stream(method: StreamMethod) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
    async def call(requests: AsyncIterator[bytes], context: Context) -> None:
        # gRPC's is a generator, which holds the message that it gave last.
        messages = cast(AsyncGenerator[bytes, None], aiter(requests))
        status = await method.answer(messages, _StreamCall(context))
        if status is not None:
            await messages.aclose()
            await context.abort(status.code, status.text, status.trailers)

    return call


class _StreamCall:
    """A `Call` whose responses are streamed: a context, but for how its writes fail."""

    def __init__(self, context: Context) -> None:
        self.peer = context.peer
        self.time_remaining = context.time_remaining
        self._write = context.write

    async def write(self, data: bytes) -> None:
        # gRPC cancels a call that nobody reads, but a write may fail first (seen in 1.85.1).
        try:
            await self._write(data)
        except grpc.aio.InternalError as error:
            raise asyncio.CancelledError from error
