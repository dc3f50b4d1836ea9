"""The asyncio client. The blocking one is generated from this file by `client/generate.py`."""

from __future__ import annotations

import contextlib
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Self, cast

from google.protobuf.message import Message

from lanewise_client import lanes, messages, metadata
from lanewise_client.calls import CLIENT_TIMEOUT, Options, Timeout
from lanewise_client.connection import AsyncConnection, Credentials
from lanewise_client.datatypes import Array
from lanewise_client.errors import DeadlineExpired, ServingError, Unavailable
from lanewise_client.messages import InferRequest, Outputs
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos import lanes_pb2
from lanewise_client.results import (
    InferResult,
    ModelCosts,
    ModelLanes,
    ModelMetadata,
    ModelStatus,
    Route,
    ServerMetadata,
)
from lanewise_client.shared_calls import CLOSING_TIMEOUT_S, Segments, Steps
from lanewise_client.shared_memory import SharedMemory


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
        credentials: Credentials = None,
        options: Options = (),
    ) -> None:
        """Make a client of the running event loop without connecting yet.

        Args:
            address: HOST:PORT, or any other target that gRPC knows.
            timeout_s: seconds that a call may take; None: forever.
            credentials: for TLS; without them the connection is in the clear.
            options: gRPC channel options to add. By default message sizes are unlimited.

        Raises:
            ValueError: `timeout_s` is not a positive number.
            RuntimeError: no event loop is running.
        """
        self._connection = AsyncConnection(address, timeout_s, credentials, options)
        self._segments = Segments()

    async def close(self) -> None:
        """Close the connection; calls in flight fail. A second call does nothing."""
        with contextlib.suppress(ServingError):  # it forgets removed segments by itself, too
            for step in self._segments.close():
                await self._connection.call(step.method, step.message, CLOSING_TIMEOUT_S)
        await self._connection.close()

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
        """Run `model` on `inputs` and get its outputs.

        Args:
            model: its name.
            inputs: by name, each of the model's datatype, in any memory layout; only read.
            version: empty: the version served by default, the highest number.
            outputs: names of the outputs wanted; None: all. With a `SharedMemory`, a mapping from
                names to arrays in it, which are written to, or None.
            profile: name or index of the only profile allowed; None: any.
            request_id: comes back in the result.
            priority: 1 for the most important; None, 0, or one the model does not have: the
                model's default.
            latency_target_s: seconds the request should take if it has no timeout; it orders
                the requests that wait, and none is refused for it. None: the model's.
            shared_memory: for a server on this host: inputs do not travel in the message. True
                copies them into memory of the client's own; a `SharedMemory` saves that copy
                for inputs that lie in it.
            timeout_s: seconds until the answer must be here; the server drops the request
                when they have passed. None: wait forever.

        Raises:
            TypeError: an input is no array or of a dtype that cannot be sent, or the priority
                is no integer.
            ValueError: a negative priority, or a target that is not positive.
            ServingError: one of its subclasses tells why there are no outputs.
            OSError: there is too little shared memory.
        """
        request = InferRequest(
            inputs,
            outputs,
            profile,
            request_id,
            priority=priority,
            latency_target_s=latency_target_s,
        )
        if shared_memory is not False:
            steps = self._segments.infer(model, version, request, shared_memory)
            return await self._carry_out(steps, timeout_s)
        message = messages.build_infer(model, version, request)
        return messages.parse_infer(await self._connection.call("ModelInfer", message, timeout_s))

    def shared_memory(self, nbytes: int) -> SharedMemory:
        """Make shared memory for inputs and outputs of this client's requests.

        Raises:
            ValueError: `nbytes` is not positive.
            OSError: there is too little shared memory.
        """
        return self._segments.make(nbytes)

    def stream(
        self,
        model: str,
        requests: AsyncIterable[InferRequest] | Iterable[InferRequest],
        *,
        timeout_s: float | None,
        version: str = "",
    ) -> AsyncIterator[InferResult | ServingError]:
        """Send many requests without waiting in between; iterate over their results.

        Results come in the order of the requests. A request that fails yields its
        ServingError in its place and the stream goes on; an error that ends the stream is
        raised. `requests` is iterated in a task of the event loop, which a source that is not
        asynchronous must not block, ahead of the results, as far as the connection takes them;
        what it raises is raised after the results of the requests before it. Nothing is sent
        before the first result is asked for; closing the iterator early
        (`contextlib.aclosing`) cancels what is in flight.

        Args:
            model: the name of the model that all of them are for.
            requests: as many as you like, even without end.
            timeout_s: seconds for the whole stream; None: forever. Has no default, since
                only the caller knows how long the stream is.
            version: empty: the version served by default, the highest number.

        Raises:
            ServingError: the stream ended before every request had its result.
        """
        return self._connection.stream(model, version, requests, timeout_s)

    async def is_live(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> bool:
        """Tell whether the server answers at all; False if it cannot be reached in time."""
        return await self._is("ServerLive", pb.ServerLiveRequest(), "live", timeout_s)

    async def is_ready(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> bool:
        """Tell whether every model is ready; False if the server cannot be reached in time."""
        return await self._is("ServerReady", pb.ServerReadyRequest(), "ready", timeout_s)

    async def is_model_ready(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> bool:
        """Tell whether `model` can serve; False if the server cannot be reached in time.

        Lanewise and Triton answer False for a model or version that they do not have.

        Raises:
            ModelNotFound: another server refuses to tell of one that it does not have.
        """
        request = pb.ModelReadyRequest(name=model, version=version)
        return await self._is("ModelReady", request, "ready", timeout_s)

    async def server_metadata(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> ServerMetadata:
        """Get the server's name, version and extensions."""
        return metadata.parse_server_metadata(
            await self._connection.call("ServerMetadata", pb.ServerMetadataRequest(), timeout_s)
        )

    async def models(self, *, timeout_s: Timeout = CLIENT_TIMEOUT) -> tuple[ModelStatus, ...]:
        """List every version of every model the server knows of, ready or not."""
        return metadata.parse_models(
            await self._connection.call("RepositoryIndex", pb.RepositoryIndexRequest(), timeout_s)
        )

    async def model_metadata(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> ModelMetadata:
        """Get the inputs, outputs and profiles of `model`."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        return metadata.parse_model_metadata(
            await self._connection.call("ModelMetadata", request, timeout_s)
        )

    async def lanes(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> ModelLanes:
        """Get the lanes of `model`: profile, state and counters of each."""
        request = lanes_pb2.ListLanesRequest(name=model, version=version)
        return lanes.parse_lanes(await self._connection.call("ListLanes", request, timeout_s))

    async def costs(
        self, model: str, version: str = "", *, timeout_s: Timeout = CLIENT_TIMEOUT
    ) -> ModelCosts:
        """Get what the launches of `model` cost, as the server has measured."""
        request = lanes_pb2.ListCostsRequest(name=model, version=version)
        return lanes.parse_costs(await self._connection.call("ListCosts", request, timeout_s))

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
        return lanes.parse_route(await self._connection.call("ExplainRoute", request, timeout_s))

    async def _carry_out(self, steps: Steps, timeout_s: Timeout) -> InferResult:
        """Make one call after the other; all of them have `timeout_s` together."""
        budget = self._connection.rules.budget(timeout_s)
        try:
            step = next(steps)
            while True:
                try:
                    left_s = budget.left_s()
                    answer = await self._connection.call(step.method, step.message, left_s)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return cast(InferResult, end.value)
        finally:
            steps.close()

    async def _is(self, method: str, request: Message, field: str, timeout_s: Timeout) -> bool:
        try:
            return bool(getattr(await self._connection.call(method, request, timeout_s), field))
        except (Unavailable, DeadlineExpired):
            return False
