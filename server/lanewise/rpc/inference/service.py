"""The KServe v2 service: each inference is resolve, decode, submit, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial

from lanewise import __version__
from lanewise.clock import NS_PER_S, Clock
from lanewise.errors import ModelNotFound
from lanewise.model.regions import RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.rpc.inference.codec import Codec, profile_names
from lanewise.rpc.inference.metadata import describe_model
from lanewise.rpc.inference.parameters import FINAL_RESPONSE, read_parameters
from lanewise.rpc.inference.region_access import RegionAccess
from lanewise.rpc.inference.streams import answer_in_order
from lanewise.rpc.methods import Call, Servicer, write
from lanewise.rpc.status import REASON, reason_of, status_for
from lanewise.scheduler.registry import ModelRegistry, ModelState
from lanewise.scheduler.request import RequestOptions
from lanewise.scheduler.results import WhenFinished
from lanewise.scheduler.routing import Router
from lanewise_client.protos import inference_pb2 as pb

SERVER_NAME = "lanewise"
EXTENSIONS = ("binary_tensor_data", "model_stream_infer", "lanewise.v1")
REGION_EXTENSIONS = ("system_shared_memory", "cuda_shared_memory")

_TRITON_STATES = {
    ModelState.LOADING: "LOADING",
    ModelState.READY: "READY",
    ModelState.FAILED: "UNAVAILABLE",
    ModelState.DRAINING: "UNLOADING",
}


CANCELLED = "Cancelled"


def ignore_finished(*_: object) -> None:
    """Be the `WhenFinished` of a server that counts nothing."""


def error_name(error_class: type[BaseException]) -> str:
    """Name a class of errors for `WhenFinished`."""
    return CANCELLED if issubclass(error_class, asyncio.CancelledError) else reason_of(error_class)


class InferenceService:
    """Answers `inference.GRPCInferenceService` from the models of a registry."""

    def __init__(
        self,
        registry: ModelRegistry,
        clock: Clock,
        when_finished: WhenFinished,
        region_access: RegionAccess,
    ) -> None:
        self._registry = registry
        self._region_access = region_access
        self._clock = clock
        self._when_finished = when_finished
        self._codecs: dict[tuple[str, str], Codec] = {}

    def methods(self) -> Mapping[str, Servicer]:
        return {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
            "ModelStreamInfer": self._model_stream_infer,
            "RepositoryIndex": self._repository_index,
        }

    async def _server_live(self, request: object, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: object, call: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._registry.is_ready)

    async def _model_ready(
        self, request: pb.ModelReadyRequest, call: Call
    ) -> pb.ModelReadyResponse:
        """Tell whether a model can serve; one that is unknown cannot, as in Triton.

        Clients poll this before a model is added.
        """
        if not request.name:
            self._registry.resolve("")  # raises
        try:
            ready = self._registry.resolve(request.name, request.version).is_ready
        except ModelNotFound:
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def _server_metadata(self, request: object, call: Call) -> pb.ServerMetadataResponse:
        extensions = EXTENSIONS + (REGION_EXTENSIONS if self._region_access.is_offered else ())
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=__version__, extensions=extensions
        )

    async def _model_metadata(
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        model = self._registry.resolve(request.name, request.version)
        versions = [
            each.version
            for each in self._registry.versions(model.name)
            if each.state is not ModelState.FAILED
        ]
        return describe_model(model.require_lanes().spec, versions)

    async def _repository_index(
        self, request: pb.RepositoryIndexRequest, call: Call
    ) -> pb.RepositoryIndexResponse:
        index = pb.RepositoryIndexResponse()
        for model in self._registry:
            if model.is_ready or not request.ready:
                lost = model.state is ModelState.READY and not model.is_ready
                index.models.add(
                    name=model.name,
                    version=model.version,
                    state="UNAVAILABLE" if lost else _TRITON_STATES[model.state],
                    reason=model.condition if lost else model.reason,
                )
        return index

    async def _model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> None:
        await answer_in_order(requests, partial(self._answer, call), partial(write, call))

    async def _answer(
        self, call: Call, request: pb.ModelInferRequest
    ) -> pb.ModelStreamInferResponse:
        """Run one request of a stream; a failure is an answer, too."""
        try:
            answer = pb.ModelStreamInferResponse(infer_response=await self._infer(request, call))
        except Exception as error:
            status = status_for(error, rpc="ModelStreamInfer", model=request.model_name)
            answer = pb.ModelStreamInferResponse(error_message=status.text)
            answer.infer_response.id = request.id
            answer.infer_response.parameters[REASON].string_param = status.reason
        # Every answer is the last to its request, and Triton's say so unasked.
        answer.infer_response.parameters[FINAL_RESPONSE].bool_param = True
        return answer

    async def _infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """Run one request, and count it however it ends."""
        started_ns = self._clock.now_ns()
        name = version = profile = error = ""
        try:
            remaining_s = call.time_remaining()
            model = self._registry.resolve(
                request.model_name, request.model_version, field="model_name"
            )
            name, version = model.name, model.version
            lanes = model.require_ready()
            codec = self._codec(lanes.spec)
            asked = read_parameters(request.parameters)
            selection = codec.select_outputs(request, raw=asked.raw_outputs)
            inputs = codec.decode_inputs(request, asked.profile)
            if selection.placements or RegionTensor in map(type, inputs.values()):
                self._region_access.require(call)
            options = RequestOptions(
                _deadline_ns(started_ns, remaining_s, asked.timeout_ns),
                asked.profile,
                asked.priority,
                asked.target_ns,
                selection.placements,
            )
            result = await lanes.submit(inputs, options)
            profile = profile_names(result)
            return codec.encode_response(request.id, selection, result, profile)
        except BaseException as failure:
            profile, error = "", error_name(type(failure))
            raise
        finally:
            latency_ns = self._clock.now_ns() - started_ns
            self._when_finished(name, version, profile, error, latency_ns)

    def _codec(self, spec: ModelSpec) -> Codec:
        key = (spec.name, spec.version)
        codec = self._codecs.get(key)
        # A version may be loaded again, with another spec.
        if codec is None or codec.spec is not spec:
            codec = self._codecs[key] = Codec(spec, Router(spec).route)
        return codec


def _deadline_ns(now_ns: int, remaining_s: float | None, timeout_ns: int | None) -> int | None:
    """Get the earlier of the call's deadline and the request's own; None without either."""
    if remaining_s is None and timeout_ns is None:
        return None
    budgets = [] if remaining_s is None else [int(remaining_s * NS_PER_S)]
    if timeout_ns is not None:
        budgets.append(timeout_ns)
    return now_ns + min(budgets)
