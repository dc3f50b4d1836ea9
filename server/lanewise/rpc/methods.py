"""What a call means: bytes in, bytes or a status out, over any transport.

Methods are built from service descriptors. The `except` around each of them is the only place
where an error becomes a status.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from lanewise.errors import InvalidRequest, MessageTooLarge, Unsupported
from lanewise.rpc.status import Status, status_for


class Call(Protocol):
    """One call of a transport: its peer, its deadline, and where streamed responses go.

    A transport cancels the task that answers a call when its caller has gone.
    """

    def peer(self) -> str:
        """Get the caller's address, as gRPC writes it: "ipv4:127.0.0.1:50123", "unix:"."""
        ...

    def time_remaining(self) -> float | None:
        """Get the seconds until the caller's deadline; None if it has none."""
        ...

    async def write(self, data: bytes) -> None:
        """Send one message of a streamed response; waits while the caller does not read.

        Raises:
            CancelledError: the caller has gone.
        """
        ...


Servicer = Callable[[Any, Call], Awaitable[Any]]
"""Answers a call, given its request, or an iterator over its requests.

Returns the response; if responses are streamed, passes them to `write` instead.
"""


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """A method with one request and one response.

    Attributes:
        path: "/package.Service/Name".
        answer: takes the serialized request; returns the serialized response, or the status
            that ends the call instead. Raises nothing but CancelledError.
    """

    path: str
    answer: Callable[[bytes, Call], Awaitable[bytes | Status]]


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """A method that streams its responses; its requests come as a stream, even a lone one.

    Attributes:
        path: "/package.Service/Name".
        answer: takes the serialized requests and writes the responses to the call; returns the
            status that ends the call, None for success. Raises nothing but CancelledError.
    """

    path: str
    answer: Callable[[AsyncIterator[bytes], Call], Awaitable[Status | None]]


RpcMethod = UnaryMethod | StreamMethod


def methods_of(
    service: ServiceDescriptor, servicers: Mapping[str, Servicer], max_message_bytes: int
) -> Iterator[RpcMethod]:
    """Build every method of a service; those without a servicer answer UNIMPLEMENTED.

    Args:
        service: its full name is part of each path.
        servicers: by method.
        max_message_bytes: the largest request accepted.

    Raises:
        ValueError: `servicers` names a method the service does not have.
    """
    unknown = servicers.keys() - service.methods_by_name.keys()
    if unknown:
        raise ValueError(f"service {service.full_name} has no methods {sorted(unknown)}")
    for name, descriptor in service.methods_by_name.items():
        servicer = servicers.get(name) or _not_offered(service, name, sorted(servicers))
        yield _method(descriptor, servicer, max_message_bytes)


async def write(call: Call, response: Message) -> None:
    """Send one response of a stream, see `Call.write`."""
    await call.write(response.SerializeToString())


def message_too_large(
    message_bytes: int, max_bytes: int, *, at_least: bool = False
) -> MessageTooLarge:
    """Make the error of a message above the limit; `at_least` if it was not read to its end."""
    more = "at least " if at_least else ""
    return MessageTooLarge(
        f"message of {more}{message_bytes} bytes, but the limit is {max_bytes}; send fewer "
        "rows in a request or raise the server's --max-message-mb"
    )


def _method(descriptor: MethodDescriptor, servicer: Servicer, max_message_bytes: int) -> RpcMethod:
    path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
    read = _reader(GetMessageClass(descriptor.input_type), max_message_bytes)
    if descriptor.server_streaming:
        is_lone = not descriptor.client_streaming
        return StreamMethod(path, _stream(descriptor.name, read, servicer, is_lone=is_lone))
    if descriptor.client_streaming:
        raise ValueError(f"{descriptor.full_name}: requests are streamed and the response is not")
    return UnaryMethod(path, _unary(descriptor.name, read, servicer))


def _unary(
    name: str, read: Callable[[bytes], Message], servicer: Servicer
) -> Callable[[bytes, Call], Awaitable[bytes | Status]]:
    async def answer(data: bytes, call: Call) -> bytes | Status:
        request = None
        try:
            request = read(data)
            response: Message = await servicer(request, call)
            return response.SerializeToString()
        except Exception as error:
            model = getattr(request, "model_name", "") or getattr(request, "name", "")
            return status_for(error, rpc=name, model=model)

    return answer


def _stream(
    name: str, read: Callable[[bytes], Message], servicer: Servicer, *, is_lone: bool
) -> Callable[[AsyncIterator[bytes], Call], Awaitable[Status | None]]:
    async def answer(requests: AsyncIterator[bytes], call: Call) -> Status | None:
        try:
            if is_lone:
                await servicer(read(await _first(requests)), call)
            else:
                await servicer((read(data) async for data in requests), call)
        except Exception as error:
            return status_for(error, rpc=name)
        return None

    return answer


async def _first(requests: AsyncIterator[bytes]) -> bytes:
    data = await anext(requests, None)
    if data is None:
        raise InvalidRequest("the call ended without a request; send one")
    return data


def _reader(message_class: type[Message], max_bytes: int) -> Callable[[bytes], Message]:
    parse = message_class.FromString
    name = message_class.DESCRIPTOR.full_name

    def read(data: bytes) -> Message:
        if len(data) > max_bytes:
            raise message_too_large(len(data), max_bytes)
        try:
            return parse(data)
        except DecodeError as error:
            raise InvalidRequest(
                f"the {len(data)} bytes received are not an encoded {name}"
            ) from error

    return read


def _not_offered(service: ServiceDescriptor, name: str, offered: list[str]) -> Servicer:
    text = (
        f"{service.full_name} does not offer {name} on this server; it offers {', '.join(offered)}"
    )

    async def refuse(request: object, call: Call) -> Message:
        raise Unsupported(text)

    return refuse
