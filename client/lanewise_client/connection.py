"""What the two clients do differently: their channels, and how a call is made on them.

Everything else is written once, in `aio`; see `client/generate.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from lanewise_client.calls import CallRules, Options, Timeout, channel_options
from lanewise_client.errors import ServingError
from lanewise_client.final_status import FinalStatus
from lanewise_client.messages import InferRequest
from lanewise_client.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from lanewise_client.protos.lanes_pb2_grpc import LaneServiceStub
from lanewise_client.results import InferResult
from lanewise_client.streaming import Exchange

Credentials = grpc.ChannelCredentials | None


def _methods_on(channel: grpc.Channel | grpc.aio.Channel) -> dict[str, Any]:
    """Map the methods of both services, whose names all differ, to what calls them."""
    inference: Any = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    lanes: Any = LaneServiceStub(channel)  # type: ignore[no-untyped-call]
    return {**vars(inference), **vars(lanes)}


class Connection:
    """The channel of a blocking client. Thread-safe.

    Attributes:
        rules: of every call.
    """

    def __init__(
        self, address: str, timeout_s: float | None, credentials: Credentials, options: Options
    ) -> None:
        self.rules = CallRules(address, timeout_s)
        options = channel_options(options)
        self._channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self._methods = _methods_on(self._channel)

    def close(self) -> None:
        self.rules.is_closed = True
        self._channel.close()

    def call(self, method: str, request: Message, timeout_s: Timeout) -> Any:  # noqa: ANN401
        """Make one unary call, by the name of its method, and get the response."""
        seconds = self.rules.seconds(timeout_s)
        with self.rules.applied(seconds):
            answer = self._methods[method](request, timeout=seconds)
            return self.rules.require_answer(answer, seconds)

    def stream(
        self, model: str, version: str, requests: Iterable[InferRequest], timeout_s: float | None
    ) -> Iterator[InferResult | ServingError]:
        """Iterate over the results of many requests; see `Client.stream`."""
        seconds = self.rules.seconds(timeout_s)
        exchange = Exchange(model, version)
        with self.rules.applied(seconds):
            call = self._methods["ModelStreamInfer"](exchange.encode(requests), timeout=seconds)
            try:
                for response in call:
                    yield exchange.decode(response)
            finally:
                call.cancel()
        exchange.finish()


class AsyncConnection:
    """The channel of an asyncio client, and the event loop it belongs to; see `Connection`."""

    def __init__(
        self, address: str, timeout_s: float | None, credentials: Credentials, options: Options
    ) -> None:
        self.rules = CallRules(address, timeout_s)
        self._loop = asyncio.get_running_loop()
        options = channel_options(options)
        self._channel = (
            grpc.aio.insecure_channel(address, options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options)
        )
        self._methods = _methods_on(self._channel)

    async def close(self) -> None:
        self.rules.is_closed = True
        await self._channel.close()

    async def call(self, method: str, request: Message, timeout_s: Timeout) -> Any:  # noqa: ANN401
        """Make one unary call, by the name of its method, and get the response."""
        seconds = self.rules.seconds(timeout_s)
        with self._applied(seconds):
            answer = await self._methods[method](request, timeout=seconds)
            return self.rules.require_answer(answer, seconds)

    async def stream(
        self,
        model: str,
        version: str,
        requests: AsyncIterable[InferRequest] | Iterable[InferRequest],
        timeout_s: float | None,
    ) -> AsyncIterator[InferResult | ServingError]:
        """Iterate over the results of many requests; see `AsyncClient.stream`."""
        seconds = self.rules.seconds(timeout_s)
        exchange = Exchange(model, version)
        with self._applied(seconds):
            messages = exchange.encode_async(requests)
            call = self._methods["ModelStreamInfer"](messages, timeout=seconds)
            status = FinalStatus(call)
            try:
                async for response in call:
                    yield exchange.decode(response)
            except grpc.aio.AioRpcError as error:
                final = await status.of(error)
                if final.code() is not grpc.StatusCode.OK:
                    raise final from error
            finally:
                call.cancel()
        exchange.finish()

    @contextmanager
    def _applied(self, seconds: float | None) -> Iterator[None]:
        """Apply the rules to one call, in the right event loop only."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this AsyncClient belongs to another event loop; make one here")
        try:
            with self.rules.applied(seconds):
                yield
        except asyncio.CancelledError:
            # Closing the channel cancels the calls in flight, and gRPC raises that in tasks
            # which nobody has cancelled.
            task = asyncio.current_task()
            if self.rules.is_closed and task is not None and not task.cancelling():
                raise self.rules.closed_in_flight() from None
            raise
