"""The two directions of a stream, kept in step. Both clients use this."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from lanewise_client import messages
from lanewise_client.errors import ServingError
from lanewise_client.messages import InferRequest
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.results import InferResult


class Exchange:
    """One stream: encodes its requests, decodes its answers, and checks that none is missing.

    If the caller's source of requests raises, the requests end there as if it were
    exhausted, so that what was sent still gets its answers; `finish` then raises it. Left
    to itself, gRPC would log the exception and end the stream with a status of its own.
    """

    def __init__(self, model: str, version: str) -> None:
        self._model = model
        self._version = version
        # Counted apart: requests are encoded in one thread and answers decoded in another.
        self._sent = 0
        self._answered = 0
        self._source_error: Exception | None = None

    def encode(self, requests: Iterable[InferRequest]) -> Iterator[pb.ModelInferRequest]:
        """Iterate over the messages to send. Raises nothing."""
        try:
            for request in requests:
                yield self._encode_one(request)
        except Exception as error:
            self._source_error = error

    async def encode_async(
        self, requests: AsyncIterable[InferRequest] | Iterable[InferRequest]
    ) -> AsyncIterator[pb.ModelInferRequest]:
        """Iterate over the messages to send. Raises nothing but CancelledError."""
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    yield self._encode_one(request)
            else:
                for request in requests:
                    yield self._encode_one(request)
        except Exception as error:
            self._source_error = error

    def decode(self, response: pb.ModelStreamInferResponse) -> InferResult | ServingError:
        """Read the answer to the oldest request that had none."""
        self._answered += 1
        return messages.parse_stream(response)

    def finish(self) -> None:
        """Raise what the stream's regular end left open.

        Raises:
            Exception: what the source of requests raised.
            ServingError: the server ended the stream before it had answered every request.
        """
        if self._source_error is not None:
            raise self._source_error
        if self._answered < self._sent:
            raise ServingError(
                f"the server ended the stream after {self._answered} answers to {self._sent} "
                "requests; send the others again"
            )

    def _encode_one(self, request: InferRequest) -> pb.ModelInferRequest:
        message = messages.build_infer(self._model, self._version, request)
        self._sent += 1
        return message
