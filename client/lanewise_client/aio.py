"""The asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message

from lanewise_client import lanes, messages, metadata
from lanewise_client.calls import CLIENT_TIMEOUT, CallRules, Options, Timeout, channel_options
from lanewise_client.datatypes import Array
from lanewise_client.errors import DeadlineExpired, ServingError, Unavailable
from lanewise_client.final_status import FinalStatus
from lanewise_client.messages import InferRequest, Outputs
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos import lanes_pb2
from lanewise_client.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from lanewise_client.protos.lanes_pb2_grpc import LaneServiceStub
from lanewise_client.results import (
    InferResult,
    ModelCosts,
    ModelLanes,
    ModelMetadata,
    ModelStatus,
    Route,
    ServerMetadata,
)
from lanewise_client.shared_calls import CLOSING_TIMEOUT_S, SharedCalls, Step, Steps
from lanewise_client.shared_memory import SharedMemory
from lanewise_client.streaming import Exchange

_ResponseT = TypeVar("_ResponseT")


class AsyncClient:
    """A connection to one server for asyncio. Any number of tasks of one event loop may share it.

    Connecting happens with the first call. Every call has a timeout: the client's, unless
    the call is given its own. Every call raises a ServingError if it gets no answer, and
    RuntimeError once the client is closed or in another event loop. Cancelling a task
    cancels its call on the server, too.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float | None,
        credentials: grpc.ChannelCredentials | None = None,
        options: Options = (),
    ) -> None:
        """Make a client of the running event loop without connecting yet.

        Args:
            address: HOST:PORT, or any other target that gRPC knows.
            timeout_s: seconds that a call may take; None: for ever.
            credentials: for TLS; without them the connection is in the clear.
            options: gRPC channel options to add. By default message sizes are unlimited.

        Raises:
            ValueError: `timeout_s` is not a positive number.
            RuntimeError: no event loop is running.
        """
        self._rules = CallRules(address, timeout_s)
        self._loop = asyncio.get_running_loop()
        self._channel = (
            grpc.aio.insecure_channel(address, channel_options(options))
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, channel_options(options))
        )
        self._shared = SharedCalls()
        self._inference: Any = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._lane_service: Any = LaneServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the connection; calls in flight fail. A second call does nothing."""
        with contextlib.suppress(ServingError):  # it forgets removed segments by itself, too
            for step in self._shared.close():
                await self._step(step, CLOSING_TIMEOUT_S)
        self._rules.is_closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        outputs: Outputs = None,
        profile: str | int | None = None,
        request_id: str = "",
        priority: int | None = None,
        latency_target_s: float | None = None,
        shared_memory: SharedMemory | bool = False,
        timeout_s: Timeout = CLIENT_TIMEOUT,
    ) -> InferResult:
        """Run `model` on `inputs` and get its outputs. See `Client.infer`."""
        request = InferRequest(
            inputs,
            outputs,
            profile,
            request_id,
            priority=priority,
            latency_target_s=latency_target_s,
        )
        if shared_memory is not False:
            steps = self._shared.infer(model, version, request, shared_memory)
            return await self._carry_out(steps, timeout_s)
        message = messages.build_infer(model, version, request)
        return messages.parse_infer(
            await self._call(self._inference.ModelInfer, message, timeout_s)
        )

    def shared_memory(self, nbytes: int) -> SharedMemory:
        """Make shared memory for this client's requests. See `Client.shared_memory`."""
        return self._shared.make(nbytes)

    async def stream(
        self,
        model: str,
        requests: AsyncIterable[InferRequest] | Iterable[InferRequest],
        *,
        timeout_s: float | None,
        version: str = "",
    ) -> AsyncIterator[InferResult | ServingError]:
        """Send many requests without waiting in between; iterate over their results.

        As `Client.stream`, with these differences: `requests` may be asynchronous, and is
        iterated in a task of the event loop; one that is not must not block. Who leaves the
        iteration early closes the iterator (`contextlib.aclosing`) to cancel what is in flight.
        """
        seconds = self._rules.seconds(timeout_s)
        exchange = Exchange(model, version)
        with self._applied(seconds):
            call = self._inference.ModelStreamInfer(
                exchange.encode_async(requests), timeout=seconds
            )
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

    async def is_live(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> bool:
        """Tell whether the server answers at all; False if it cannot be reached in time."""
        return await self._is(self._inference.ServerLive, pb.ServerLiveRequest(), "live", timeout_s)

    async def is_ready(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> bool:
        """Tell whether every model is ready; False if the server cannot be reached in time."""
        return await self._is(
            self._inference.ServerReady, pb.ServerReadyRequest(), "ready", timeout_s
        )

    async def is_model_ready(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> bool:
        """Tell whether `model` can serve; False if the server cannot be reached in time.

        Raises:
            ModelNotFound: the server has no such model or version.
        """
        request = pb.ModelReadyRequest(name=model, version=version)
        return await self._is(self._inference.ModelReady, request, "ready", timeout_s)

    async def server_metadata(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> ServerMetadata:
        """Get the server's name, version and extensions."""
        return metadata.parse_server_metadata(
            await self._call(self._inference.ServerMetadata, pb.ServerMetadataRequest(), timeout_s)
        )

    async def models(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> tuple[ModelStatus, ...]:
        """List every version of every model the server knows of, ready or not."""
        return metadata.parse_models(
            await self._call(
                self._inference.RepositoryIndex, pb.RepositoryIndexRequest(), timeout_s
            )
        )

    async def model_metadata(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> ModelMetadata:
        """Get the inputs, outputs and profiles of `model`."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        return metadata.parse_model_metadata(
            await self._call(self._inference.ModelMetadata, request, timeout_s)
        )

    async def lanes(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> ModelLanes:
        """Get the lanes of `model`: profile, state and counters of each."""
        request = lanes_pb2.ListLanesRequest(name=model, version=version)
        return lanes.parse_lanes(await self._call(self._lane_service.ListLanes, request, timeout_s))

    async def costs(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> ModelCosts:
        """Get what the launches of `model` cost, as the server has measured."""
        request = lanes_pb2.ListCostsRequest(name=model, version=version)
        return lanes.parse_costs(await self._call(self._lane_service.ListCosts, request, timeout_s))

    async def explain(
        self,
        model: str,
        shapes: Mapping[str, Sequence[int]],
        *,
        version: str = "",
        profile: str | int | None = None,
        timeout_s: Timeout = CLIENT_TIMEOUT,
    ) -> Route:
        """Ask where a request of these input shapes would run, and why. Runs nothing."""
        request = lanes.build_explain(model, version, shapes, profile)
        return lanes.parse_route(
            await self._call(self._lane_service.ExplainRoute, request, timeout_s)
        )

    async def _carry_out(self, steps: Steps, timeout_s: Timeout) -> InferResult:
        """Make one call after the other; all of them have `timeout_s` together."""
        budget = self._rules.budget(timeout_s)
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._step(step, budget.left_s())
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return cast(InferResult, end.value)
        finally:
            steps.close()

    async def _step(self, step: Step, timeout_s: Timeout) -> object:
        return await self._call(getattr(self._inference, step.method), step.message, timeout_s)

    async def _call(
        self,
        method: Callable[..., Awaitable[_ResponseT | None]],
        request: Message,
        timeout_s: Timeout,
    ) -> _ResponseT:
        seconds = self._rules.seconds(timeout_s)
        with self._applied(seconds):
            return self._rules.require_answer(await method(request, timeout=seconds), seconds)

    async def _is(
        self, method: Callable[..., Any], request: Message, field: str, timeout_s: Timeout
    ) -> bool:
        try:
            return bool(getattr(await self._call(method, request, timeout_s), field))
        except (Unavailable, DeadlineExpired):
            return False

    @contextmanager
    def _applied(self, seconds: float | None) -> Iterator[None]:
        """Apply the rules to one call, in the right event loop only."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this AsyncClient belongs to another event loop; make one here")
        try:
            with self._rules.applied(seconds):
                yield
        except asyncio.CancelledError:
            # Closing the channel cancels the calls in flight, and gRPC raises that in tasks
            # which nobody has cancelled.
            task = asyncio.current_task()
            if self._rules.is_closed and task is not None and not task.cancelling():
                raise self._rules.closed_in_flight() from None
            raise
