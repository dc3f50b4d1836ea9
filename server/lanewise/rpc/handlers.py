"""Method handlers built from service descriptors, with one fence around every method.

The fence is here and not in an interceptor because an interceptor costs every request
another coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from lanewise.errors import InvalidRequest, MessageTooLarge, ServingError, Unsupported
from lanewise.rpc.status import settle

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

Method = Callable[[Any, Context], Awaitable[Any]]
"""Answers a call, given its context and its request, or an iterator over its requests.

Returns the response; if responses are streamed, passes them to `write` instead.
"""

MAX_PENDING_CALLS = 100_000

_MAX_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands in for a request that could not be read.

    grpc.aio turns an exception in a deserializer into UNKNOWN (seen in 1.72.2 and 1.85.1),
    so deserializers return the error and the fence raises it.
    """

    error: ServingError


def server_options() -> list[tuple[str, int]]:
    """Get the options of a server.

    The core's own limit is as high as it goes: its refusal names no setting to raise, and
    here the limit is enforced by the handlers, once a message has arrived.
    """
    return [
        ("grpc.max_receive_message_length", _MAX_INT32),
        ("grpc.max_send_message_length", -1),
        # Otherwise two servers could share a port without knowing it.
        ("grpc.so_reuseport", 0),
        # Above its own bound grpcio 1.85 cancels calls that Python has not yet taken over:
        # 204 of a burst of 2000 (see benchmarks/transport). Our queues have bounds that
        # tell the caller; these only stop what is far beyond them.
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
    ]


def service_handler(
    service: ServiceDescriptor,
    methods: Mapping[str, Method],
    max_message_bytes: int,
) -> grpc.GenericRpcHandler:
    """Build the handler of a service; its calls without a method answer UNIMPLEMENTED.

    Args:
        service: its calls are handled under its full name.
        methods: by the name of the call.
        max_message_bytes: the largest request accepted.

    Raises:
        ValueError: `methods` names a call the service does not have.
    """
    unknown = methods.keys() - service.methods_by_name.keys()
    if unknown:
        raise ValueError(f"service {service.full_name} has no calls {sorted(unknown)}")
    handlers = {}
    for name, descriptor in service.methods_by_name.items():
        method = methods.get(name) or _not_offered(service, name, sorted(methods))
        handlers[name] = _method_handler(descriptor, method, max_message_bytes)
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _method_handler(
    descriptor: MethodDescriptor, method: Method, max_message_bytes: int
) -> grpc.RpcMethodHandler[Any, Any]:
    read = _reader(GetMessageClass(descriptor.input_type), max_message_bytes)
    match descriptor.client_streaming, descriptor.server_streaming:
        case False, False:
            call = _fenced(descriptor.name, method, _readable, _serialized)
            return grpc.unary_unary_rpc_method_handler(call, read)
        case False, True:
            call = _fenced(descriptor.name, method, _readable, _nothing)
            return grpc.unary_stream_rpc_method_handler(call, read, _serialized)
        case True, True:
            call = _fenced(descriptor.name, method, _ReadableStream, _nothing)
            return grpc.stream_stream_rpc_method_handler(call, read, _serialized)
    raise ValueError(f"{descriptor.full_name}: requests are streamed and the response is not")


def _reader(message_class: type[Message], max_bytes: int) -> Callable[[bytes], Any]:
    """Get a deserializer that never raises."""
    parse = message_class.FromString

    def read(data: bytes) -> Message | _Unreadable:
        if len(data) > max_bytes:
            return _Unreadable(
                MessageTooLarge(
                    f"message of {len(data)} bytes, but the limit is {max_bytes}; send fewer "
                    "rows in a request or raise the server's --max-message-mb"
                )
            )
        try:
            return parse(data)
        except DecodeError:
            name = message_class.DESCRIPTOR.full_name
            return _Unreadable(
                InvalidRequest(f"the {len(data)} bytes received are not an encoded {name}")
            )

    return read


def _fenced(
    name: str,
    method: Method,
    accept: Callable[[Any], object],
    finish: Callable[[Any], bytes | None],
) -> Callable[[Any, Context], Awaitable[Any]]:
    """Build what gRPC calls: whatever goes wrong inside ends the call with a proper status.

    A single response is serialized in here too: gRPC would turn a failure into UNKNOWN.
    """

    async def call(request: object, context: Context) -> bytes | None:
        try:
            return finish(await method(accept(request), context))
        except Exception as error:
            await _abort(context, name, error, request)

    return call


def _readable(request: object) -> object:
    if isinstance(request, _Unreadable):
        raise request.error
    return request


def _serialized(response: Message) -> bytes:
    return response.SerializeToString()


def _nothing(response: None) -> None:
    """Finish a call whose responses have all been written."""


async def write(context: Context, response: Message) -> None:
    """Write a response of a stream.

    Raises:
        CancelledError: nobody reads it any more. gRPC cancels the call for that, too, but
            may first let a write fail (seen in 1.85.1).
    """
    try:
        await context.write(response)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


class _ReadableStream:
    """The requests of a stream; raises the ServingError of one that could not be read."""

    def __init__(self, requests: AsyncIterable[object]) -> None:
        self._requests = aiter(requests)

    def __aiter__(self) -> _ReadableStream:
        return self

    async def __anext__(self) -> object:
        return _readable(await anext(self._requests))


async def _abort(context: Context, rpc: str, error: Exception, request: object) -> NoReturn:
    """End the call with the status of `error`; raises what gRPC ends a call with."""
    model = getattr(request, "model_name", "") or getattr(request, "name", "")
    status = settle(error, rpc=rpc, model=model)
    await context.abort(status.code, status.text, status.trailers)


def _not_offered(service: ServiceDescriptor, name: str, offered: list[str]) -> Method:
    text = (
        f"{service.full_name} does not offer {name} on this server; it offers {', '.join(offered)}"
    )

    async def refuse(request: object, context: Context) -> Message:
        raise Unsupported(text)

    return refuse
