"""A real gRPC server for tests of the client: small, and foreseeable in all it answers.

The model's name says what a request gets:

- `echo`: its inputs as outputs of the same names.
- `refuse:<reason>`: the status and trailer of that server error.
- `status:<CODE>`: a status without trailer, as a proxy gives it.
- `silent`: nothing, ever.
- `large`: an output Y of 5 MiB.
- `contradictory`: an answer that does not add up.

In a stream a request's id may begin with `fail:<reason>`, `end` or `abort`: it fails, the
stream ends there, or the stream is broken off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from lanewise.errors import ServingError
from lanewise.rpc.status import code_of
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos import inference_pb2_grpc, lanes_pb2, lanes_pb2_grpc

WORDS = "the server's own words about it"


def error_class(reason: str) -> type[ServingError]:
    """Find a class of the server's errors by its name."""
    return next(found for found in error_classes() if found.__name__ == reason)


def error_classes(base: type[ServingError] = ServingError) -> Iterator[type[ServingError]]:
    """Iterate over the subclasses of `base`, however deep."""
    for subclass in base.__subclasses__():
        yield subclass
        yield from error_classes(subclass)


class Inference(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers by the rules above and keeps the requests it saw."""

    def __init__(self):
        self.requests: list[pb.ModelInferRequest] = []
        self.silent_call_began = threading.Event()
        self.silent_call_ended = threading.Event()

    def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return pb.ServerReadyResponse(ready=False)

    def ModelReady(self, request, context):
        if request.name != "echo":
            _refuse(context, "ModelNotFound")
        return pb.ModelReadyResponse(ready=request.version in ("", "1"))

    def ServerMetadata(self, request, context):
        return pb.ServerMetadataResponse(name="helper", version="1.2", extensions=["a", "b"])

    def ModelMetadata(self, request, context):
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=["1", "2"],
            platform="onnxruntime",
            inputs=[tensor(name="X", datatype="FP32", shape=[-1, 3])],
            outputs=[tensor(name="Y", datatype="INT64", shape=[-1])],
            properties={
                "backend": "onnxruntime",
                "batching": "true",
                "profiles": "1",
                "profile.0.name": "online",
                "profile.0.max_queue_delay_ms": "2.5",
                "profile.0.X.min": "1,3",
                "profile.0.X.opt": "4,3",
                "profile.0.X.max": "8,3",
            },
        )

    def RepositoryIndex(self, request, context):
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                index(name="echo", version="1", state="READY"),
                index(name="broken", version="1", state="UNAVAILABLE", reason="why"),
            ]
        )

    def ModelInfer(self, request, context):
        self.requests.append(request)
        kind, _, what = request.model_name.partition(":")
        if kind == "refuse":
            _refuse(context, what)
        if kind == "status":
            context.abort(grpc.StatusCode[what], WORDS)
        if kind == "silent":
            self._stay_silent(context)
        if kind == "large":
            return _large()
        if kind == "contradictory":
            return pb.ModelInferResponse(raw_output_contents=[b"1234"])
        return echo(request)

    def ModelStreamInfer(self, request_iterator, context):
        for request in request_iterator:
            verb, _, reason = request.id.partition(":")
            if verb == "end":
                return
            if verb == "abort":
                _refuse(context, "Draining")
            if verb == "fail":
                answer = pb.ModelStreamInferResponse(error_message=WORDS)
                answer.infer_response.id = request.id
                if reason:
                    answer.infer_response.parameters["error-reason"].string_param = reason
                yield answer
            elif request.model_name == "silent":
                self._stay_silent(context)
            else:
                yield pb.ModelStreamInferResponse(infer_response=echo(request))

    def _stay_silent(self, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        self.silent_call_began.set()
        ended.wait()
        self.silent_call_ended.set()


class Lanes(lanes_pb2_grpc.LaneServiceServicer):
    """One lane, and a route to it."""

    def ListLanes(self, request, context):
        profile = lanes_pb2.Profile(
            index=0,
            name="online",
            ranges=[lanes_pb2.ShapeRange(tensor="X", min=[1, 3], opt=[4, 3], max=[8, 3])],
            max_queue_delay_ms=2.5,
            min_rows=1,
            opt_rows=4,
            max_rows=8,
        )
        lane = lanes_pb2.Lane(
            id=7,
            profile=profile,
            state=lanes_pb2.LANE_STATE_BUSY,
            counters=lanes_pb2.LaneCounters(
                launches=1,
                failed_launches=2,
                requests=3,
                rows=4,
                padded_rows=5,
                orphaned_rows=6,
                execution_ns=7,
                queue_ns=8,
                predicted_ns=20,
                repeated_launches=21,
            ),
            host_bytes=9,
            device_bytes=10,
            memory=lanes_pb2.LaneMemory(
                pageable_bytes=12,
                pinned_bytes=13,
                tensor_bytes=14,
                scratch_bytes=15,
                graph_bytes=16,
            ),
            graphs=lanes_pb2.LaneGraphs(launches=17, misses={"first_run": 18}, held=19),
        )
        return lanes_pb2.ListLanesResponse(
            name=request.name,
            version=request.version or "2",
            backend="onnxruntime",
            batching=True,
            lanes=[lane],
            waiting_requests=11,
        )

    def ListCosts(self, request, context):
        return lanes_pb2.ListCostsResponse(
            name=request.name,
            version=request.version or "2",
            launches=[
                lanes_pb2.LaunchCost(
                    profile_index=0,
                    profile="online",
                    rows=4,
                    bucket=12,
                    typical_ns=1_500_000,
                    safe_ns=2_000_000,
                    samples=32,
                    behind_ns=900_000,
                )
            ],
            pairs=[
                lanes_pb2.PairCost(
                    profile_index=0,
                    profile="online",
                    other_index=1,
                    other="bulk",
                    other_rows=128,
                    slowdown=1.25,
                )
            ],
        )

    def ExplainRoute(self, request, context):
        (sent,) = request.inputs
        return lanes_pb2.ExplainRouteResponse(
            admitted=True,
            reason=f"{request.name} {sent.name} {list(sent.shape)} profile={request.profile!r}",
            rows=sent.shape[0],
            candidates=[
                lanes_pb2.Candidate(profile_index=0, profile="online", admits=True, reason="fits")
            ],
            launches=[
                lanes_pb2.PlannedLaunch(
                    lane_id=1, profile="online", first_row=0, rows=2, padded_rows=4
                )
            ],
        )


@dataclass
class ClientServer:
    """A running server."""

    address: str
    inference: Inference


@contextmanager
def serving(credentials: grpc.ServerCredentials | None = None) -> Iterator[ClientServer]:
    """Run a server on a free port of this machine."""
    inference = Inference()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, server)
    lanes_pb2_grpc.add_LaneServiceServicer_to_server(Lanes(), server)
    port = (
        server.add_insecure_port("localhost:0")
        if credentials is None
        else server.add_secure_port("localhost:0", credentials)
    )
    server.start()
    try:
        yield ClientServer(f"localhost:{port}", inference)
    finally:
        server.stop(grace=None).wait()


def echo(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Answer with the inputs of the request, under their own names."""
    response = pb.ModelInferResponse(
        model_name=request.model_name, model_version=request.model_version or "2", id=request.id
    )
    for sent, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        response.outputs.add(name=sent.name, datatype=sent.datatype, shape=sent.shape)
        response.raw_output_contents.append(raw)
    response.parameters["profile"].string_param = "online"
    response.parameters["padded_rows"].int64_param = 4
    response.parameters["batch_rows"].int64_param = 3
    response.parameters["launches"].int64_param = 1
    return response


def _large():
    response = pb.ModelInferResponse(raw_output_contents=[bytes(5 * 2**20)])
    response.outputs.add(name="Y", datatype="UINT8", shape=[5 * 2**20])
    return response


def _refuse(context, reason):
    context.set_trailing_metadata((("error-reason", reason),))
    code = grpc.StatusCode.INTERNAL if reason == "InternalError" else code_of(error_class(reason))
    context.abort(code, WORDS)
