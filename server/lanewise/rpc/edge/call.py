"""One call of the edge transport: its request pieces, its deadline, its response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, NoReturn, TypeAlias

import grpc

from lanewise.errors import DeadlineExpired, InvalidRequest
from lanewise.rpc.edge.wire import (
    PREFIX_BYTES,
    Headers,
    MessageReader,
    framed,
    response_headers,
    status_headers,
    timeout_s,
)
from lanewise.rpc.status import Status, reason_of

Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": response_headers(),
    "trailers": True,
}
_SUCCESS: Final = {"type": "http.response.trailers", "headers": status_headers(None)}
_NO_MORE_BODY: Final = {"type": "http.response.body", "body": b"", "more_body": False}

_EXPIRED: Final = Status(
    grpc.StatusCode.DEADLINE_EXCEEDED,
    "the deadline of the call passed before it was answered",
    reason_of(DeadlineExpired),
)


class EdgeCall:
    """A `Call` over ASGI.

    It is answered by one task, which `cut_short` cancels when the caller's deadline has
    passed, when the caller has gone, or when the server stops.
    """

    __slots__ = (
        "_deadline_s",
        "_encoding",
        "_max_message_bytes",
        "_peer",
        "_poll",
        "_receive",
        "_request_ended",
        "_response_started",
        "_send",
        "_task",
        "_was_checked",
        "final_status",
        "is_over",
    )

    def __init__(self, receive: Receive, send: Send, max_message_bytes: int, peer: str) -> None:
        """Begin the call that the running task answers."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._receive = receive
        self._send = send
        self._max_message_bytes = max_message_bytes
        self._peer = peer
        self._encoding = b"identity"
        self._deadline_s: float | None = None
        self._request_ended = False
        self._response_started = False
        self._poll: asyncio.Future[Event] | None = None
        self._was_checked = False
        self.is_over = False
        """Whether its end is decided; nothing can cut it short any more."""
        self.final_status: Status | None = None
        """How to end it when it was cut short; None if nobody would read that."""

    def read_headers(self, headers: Headers) -> None:
        """Take over what the caller says of the call.

        Raises:
            InvalidRequest: its timeout cannot be read.
        """
        for name, value in headers:
            if name == b"grpc-timeout":
                self._deadline_s = time.monotonic() + timeout_s(value)
            elif name == b"grpc-encoding":
                self._encoding = value

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - time.monotonic())

    async def request(self) -> bytes:
        """Read the one message of a unary call.

        Raises:
            ServingError: there is not exactly one, or it cannot be read.
        """
        event = await self._next_event()
        body: bytes = event["body"]
        if self._request_ended and self._is_plain_message(body):
            return body[PREFIX_BYTES:]
        reader = MessageReader(self._encoding, self._max_message_bytes)
        messages = list(reader.feed(body))
        while not self._request_ended:
            messages += reader.feed((await self._next_event())["body"])
            if len(messages) > 1:
                break
        else:
            reader.finish()
        if not messages:
            raise InvalidRequest("the call ended without a request; send one")
        if len(messages) > 1:
            raise InvalidRequest("more than one request in a call that takes one; send one")
        return messages[0]

    async def requests(self) -> AsyncIterator[bytes]:
        """Iterate over the messages of a stream, as they come.

        Raises:
            ServingError: one cannot be read; those before it have been given.
        """
        reader = MessageReader(self._encoding, self._max_message_bytes)
        while not self._request_ended:
            for message in reader.feed((await self._next_event())["body"]):
                yield message
        reader.finish()

    async def write(self, data: bytes) -> None:
        try:
            if not self._response_started:
                self._response_started = True
                await self._tell(_START)
            await self._tell(
                {"type": "http.response.body", "body": framed(data), "more_body": True}
            )
        except OSError:
            await self._leave()

    async def end(self, response: bytes | Status | None) -> None:
        """End the call with the response of a unary call, an error, or None for success.

        Raises:
            OSError: the caller has gone.
        """
        if isinstance(response, bytes):
            await self._tell(_START)
            await self._tell({"type": "http.response.body", "body": framed(response)})
            await self._tell(_SUCCESS)
        elif self._response_started:
            ending = status_headers(response)
            await self._tell(_NO_MORE_BODY)
            await self._tell({"type": "http.response.trailers", "headers": ending})
        else:
            headers = response_headers() + status_headers(response)
            await self._tell({"type": "http.response.start", "status": 200, "headers": headers})
            await self._tell(_NO_MORE_BODY)

    async def _tell(self, event: Event) -> None:
        """Send an event; a cut short that comes meanwhile leaves alone what pyvoy waits with.

        pyvoy 1.3 ends its future whether or not that was cancelled, which the event loop
        logs as an error. For most events it has none, but an awaitable that is over.
        """
        sent = self._send(event)
        if not asyncio.isfuture(sent):
            await sent
            return
        try:
            await asyncio.wait([sent])
        except asyncio.CancelledError:
            sent.add_done_callback(_ignore)
            raise
        sent.result()

    def check(self) -> None:
        """Cut the call short if its deadline has passed or its caller has gone.

        To be called now and then. Once a request has been read to its end, nothing tells
        that the caller has gone but asking: `receive` of pyvoy 1.3 then answers at once,
        with an empty piece or with a disconnect, where ASGI has it wait for the latter.
        """
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            self.cut_short(_EXPIRED)
        elif self._request_ended and self._was_checked and self._poll is None:
            self._poll = asyncio.ensure_future(self._receive())
            self._poll.add_done_callback(self._polled)
        self._was_checked = True

    def cut_short(self, status: Status | None) -> None:
        """End the call with `status`, or without any for a caller that has gone."""
        if not self.is_over:
            self.is_over = True
            self.final_status = status
            self._task.cancel()

    @property
    def task(self) -> asyncio.Task[Any]:
        return self._task

    def _polled(self, poll: asyncio.Future[Event]) -> None:
        self._poll = None
        if poll.cancelled() or poll.exception() is not None:
            return
        if poll.result()["type"] == "http.disconnect":
            self.cut_short(None)

    def _is_plain_message(self, body: bytes) -> bool:
        return (
            body[:1] == b"\0"
            and int.from_bytes(body[1:PREFIX_BYTES], "big") == len(body) - PREFIX_BYTES
            and len(body) - PREFIX_BYTES <= self._max_message_bytes
        )

    async def _next_event(self) -> Event:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            await self._leave()
        self._request_ended = not event.get("more_body", False)
        return event

    async def _leave(self) -> NoReturn:
        """Cancel the task that answers the call, which need not be the one that finds out."""
        self.cut_short(None)
        await asyncio.Event().wait()
        raise AssertionError


def _ignore(sent: asyncio.Future[None]) -> None:
    """Retrieve the exception, so that asyncio does not log it as never retrieved."""
    if not sent.cancelled():
        sent.exception()
