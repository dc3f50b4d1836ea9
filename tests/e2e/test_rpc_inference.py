from __future__ import annotations

import asyncio
import contextlib

import grpc
import grpc.aio
import numpy as np
import pytest

from helpers.log_lines import captured_logs
from helpers.rpc import (
    MAX_MESSAGE_BYTES,
    EchoLanes,
    RecordedRequests,
    in_event_loop,
    infer_request,
    registry_of,
    serving,
    spec_of,
)
from lanewise import __version__, errors
from lanewise.clock import SystemClock
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.rpc.aio import aio_server
from lanewise.scheduler.registry import ModelState, ServedModel
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos import lanes_pb2

pytestmark = pytest.mark.usefixtures("each_transport")

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
NS_PER_S = 1_000_000_000


async def refusal_of(call):
    """The status code, the reason and the text that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code().name, error.trailing_metadata().get("error-reason"), error.details()


def failing(error):
    async def fail(submission):
        raise error

    return fail


async def never(submission):
    await asyncio.Event().wait()


@in_event_loop
async def test_a_request_gets_its_outputs_and_is_told_who_served_it():
    async with serving(registry_of(EchoLanes())) as server:
        response = await server.inference.ModelInfer(infer_request(1.0, 2.0, id="id-7"))

    x = np.array([[1, 1, 1], [2, 2, 2]], np.float32)
    assert response == pb.ModelInferResponse(
        model_name="echo",
        model_version="1",
        id="id-7",
        parameters={
            "profile": pb.InferParameter(string_param="wide,narrow"),
            "padded_rows": pb.InferParameter(int64_param=7),
            "batch_rows": pb.InferParameter(int64_param=6),
            "launches": pb.InferParameter(int64_param=3),
        },
        outputs=[{"name": "out.X", "datatype": "FP32", "shape": [2, 3]}],
        raw_output_contents=[x.tobytes()],
    )


@in_event_loop
async def test_outputs_travel_typed_if_the_request_wants_no_binary_data():
    request = infer_request(1.5, parameters={"binary_data_output": {"bool_param": False}})

    async with serving(registry_of(EchoLanes())) as server:
        response = await server.inference.ModelInfer(request)

    assert list(response.outputs[0].contents.fp32_contents) == [1.5, 1.5, 1.5]
    assert not response.raw_output_contents


@in_event_loop
async def test_the_highest_version_serves_unless_another_is_named():
    versions = [EchoLanes(spec_of(*[("X", DType.FP32, (DYNAMIC, 3))], version=v)) for v in "29"]
    registry = registry_of(*versions, EchoLanes(spec_of(("X", DType.FP32, (-1, 3)), version="10")))

    async with serving(registry) as server:
        default = await server.inference.ModelInfer(infer_request())
        named = await server.inference.ModelInfer(infer_request(model_version="9"))

    assert (default.model_version, named.model_version) == ("10", "9")


REFUSED_REQUESTS = {
    "unknown model": (
        pb.ModelInferRequest(model_name="nobody"),
        ("NOT_FOUND", "ModelNotFound", "no model 'nobody'; this server has: 'echo'"),
    ),
    "unknown version": (
        infer_request(model_version="2"),
        ("NOT_FOUND", "ModelNotFound", "model 'echo' has no version '2'; this server has: 1"),
    ),
    "unknown input": (
        pb.ModelInferRequest(model_name="echo", inputs=[{"name": "Z", "datatype": "FP32"}]),
        (
            "INVALID_ARGUMENT",
            "UnknownTensor",
            "model 'echo', input 'Z': no such input; the model has 'X'",
        ),
    ),
    "missing input": (
        pb.ModelInferRequest(model_name="echo"),
        (
            "INVALID_ARGUMENT",
            "UnknownTensor",
            "model 'echo': 'X' missing among the inputs; send all of 'X'",
        ),
    ),
    "wrong datatype": (
        pb.ModelInferRequest(model_name="echo", inputs=[{"name": "X", "datatype": "INT64"}]),
        (
            "INVALID_ARGUMENT",
            "DTypeMismatch",
            "model 'echo', input 'X': datatype INT64, but the model takes FP32",
        ),
    ),
    "negative dimension": (
        pb.ModelInferRequest(
            model_name="echo", inputs=[{"name": "X", "datatype": "FP32", "shape": [-1, 3]}]
        ),
        (
            "INVALID_ARGUMENT",
            "ShapeMismatch",
            "model 'echo', input 'X': shape [-1, 3] has a negative dimension; "
            "send the actual sizes",
        ),
    ),
    "byte count": (
        pb.ModelInferRequest(
            model_name="echo",
            inputs=[{"name": "X", "datatype": "FP32", "shape": [2, 3]}],
            raw_input_contents=[bytes(23)],
        ),
        (
            "INVALID_ARGUMENT",
            "MalformedContents",
            "model 'echo', input 'X': 23 raw bytes, but shape [2, 3] of FP32 takes 24",
        ),
    ),
    "typed and raw mixed": (
        pb.ModelInferRequest(
            model_name="echo",
            inputs=[{"name": "X", "contents": {"fp32_contents": [1.0]}}],
            raw_input_contents=[bytes(4)],
        ),
        (
            "INVALID_ARGUMENT",
            "MalformedContents",
            "model 'echo', input 'X': typed contents beside raw_input_contents; "
            "send all inputs raw or all typed",
        ),
    ),
    "sequence": (
        infer_request(parameters={"sequence_id": {"int64_param": 3}}),
        (
            "UNIMPLEMENTED",
            "Unsupported",
            "request parameter 'sequence_id': sequences are not offered; "
            "send requests that do not depend on each other",
        ),
    ),
    "classification": (
        infer_request(
            outputs=[{"name": "out.X", "parameters": {"classification": {"int64_param": 1}}}]
        ),
        (
            "UNIMPLEMENTED",
            "Unsupported",
            "model 'echo', output 'out.X': classification is not offered; "
            "leave out the parameter and take the largest elements of the output",
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED_REQUESTS)
@in_event_loop
async def test_a_request_that_could_never_run_is_refused_before_it_is_submitted(case):
    request, refusal = REFUSED_REQUESTS[case]
    lanes = EchoLanes()

    async with serving(registry_of(lanes)) as server:
        assert await refusal_of(server.inference.ModelInfer(request)) == refusal

    assert lanes.submissions == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NoProfileAdmits("33 rows"), "INVALID_ARGUMENT"),
        (errors.UnknownProfile("no 'x'"), "INVALID_ARGUMENT"),
        (errors.QueueFull("256 wait"), "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExpired("2 ms late"), "DEADLINE_EXCEEDED"),
        (errors.RunnerLost("lane 0 is lost"), "UNAVAILABLE"),
        (errors.ExecutionFailed("out of memory"), "INTERNAL"),
    ],
)
@in_event_loop
async def test_what_the_lanes_refuse_reaches_the_caller_with_its_reason(error, code):
    async with serving(registry_of(EchoLanes(before_answer=failing(error)))) as server:
        refusal = await refusal_of(server.inference.ModelInfer(infer_request()))

    assert refusal == (code, type(error).__name__, error.message)


@in_event_loop
async def test_an_empty_name_is_refused_with_the_field_that_lacks_it():
    async with serving(registry_of(EchoLanes())) as server:
        infer = await refusal_of(server.inference.ModelInfer(pb.ModelInferRequest()))
        ready = await refusal_of(server.inference.ModelReady(pb.ModelReadyRequest()))

    assert infer == (
        "NOT_FOUND", "ModelNotFound", "model_name is empty; this server has: 'echo'",
    )  # fmt: skip
    assert ready[2] == "name is empty; this server has: 'echo'"


@in_event_loop
async def test_a_model_without_a_version_is_listed_and_says_so():
    registry = registry_of()
    registry.add(ServedModel("empty", "", ModelState.FAILED, "has no version"))

    async with serving(registry) as server:
        index = await server.inference.RepositoryIndex(pb.RepositoryIndexRequest())
        refusal = await refusal_of(
            server.inference.ModelInfer(pb.ModelInferRequest(model_name="empty"))
        )

    assert [(m.name, m.version, m.reason) for m in index.models] == [
        ("empty", "", "has no version")
    ]
    assert refusal[2] == "model 'empty' did not load: has no version"


@pytest.mark.parametrize(
    ("state", "lanes", "code", "reason", "text"),
    [
        (ModelState.LOADING, None, "UNAVAILABLE", "ModelLoading", "is being loaded"),
        (ModelState.FAILED, None, "FAILED_PRECONDITION", "ModelFailed", "bad opset"),
        (ModelState.DRAINING, EchoLanes(), "UNAVAILABLE", "Draining", "draining"),
    ],
)
@in_event_loop
async def test_a_model_that_is_not_ready_says_so_everywhere(state, lanes, code, reason, text):
    registry = registry_of()
    registry.add(ServedModel("echo", "1", state, "bad opset", lanes))

    async with serving(registry) as server:
        refusal = await refusal_of(server.inference.ModelInfer(infer_request()))
        model = await server.inference.ModelReady(pb.ModelReadyRequest(name="echo"))
        whole = await server.inference.ServerReady(pb.ServerReadyRequest())
        live = await server.inference.ServerLive(pb.ServerLiveRequest())

    assert refusal[:2] == (code, reason)
    assert text in refusal[2]
    assert (model.ready, whole.ready, live.live) == (False, False, True)


@in_event_loop
async def test_a_ready_model_makes_a_ready_server():
    async with serving(registry_of(EchoLanes())) as server:
        model = await server.inference.ModelReady(pb.ModelReadyRequest(name="echo", version="1"))
        whole = await server.inference.ServerReady(pb.ServerReadyRequest())

    assert (model.ready, whole.ready) == (True, True)


@pytest.mark.parametrize(("name", "version"), [("x", ""), ("x", "1"), ("echo", "9")])
@in_event_loop
async def test_a_model_or_version_nobody_knows_is_not_ready(name, version):
    async with serving(registry_of(EchoLanes())) as server:
        request = pb.ModelReadyRequest(name=name, version=version)
        assert not (await server.inference.ModelReady(request)).ready


@in_event_loop
async def test_metadata_of_server_and_model():
    registry = registry_of(EchoLanes(), EchoLanes(spec_of(("X", DType.FP32, (-1,)), version="2")))

    async with serving(registry) as server:
        whole = await server.inference.ServerMetadata(pb.ServerMetadataRequest())
        model = await server.inference.ModelMetadata(
            pb.ModelMetadataRequest(name="echo", version="1")
        )

    assert (whole.name, whole.version) == ("lanewise", __version__)
    assert (model.name, list(model.versions), model.platform) == ("echo", ["1", "2"], "echo")
    assert list(model.inputs[0].shape) == [-1, 3]
    assert model.properties["profile.1.X.max"] == "32,3"


@in_event_loop
async def test_a_bug_is_told_by_an_id_and_nothing_else_and_the_server_goes_on():
    lanes = EchoLanes(before_answer=failing(KeyError("secret")))

    async with serving(registry_of(lanes)) as server:
        with captured_logs() as logs:
            code, reason, text = await refusal_of(server.inference.ModelInfer(infer_request()))
        lanes.before_answer = None
        await server.inference.ModelInfer(infer_request())

    (line,) = [line for line in logs if "request_id" in line]  # the engine logs it, too
    assert (code, reason) == ("INTERNAL", "InternalError")
    assert (
        text == f"internal error; the server's log tells more under request_id {line['request_id']}"
    )


@pytest.mark.parametrize(
    "name",
    [
        "ModelConfig",
        "ModelStatistics",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "TraceSetting",
        "LogSettings",
    ],
)
@in_event_loop
async def test_a_call_that_is_not_offered_is_unimplemented_by_name(name):
    async with serving(registry_of(EchoLanes())) as server:
        call = server.channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
        code, reason, text = await refusal_of(call(b""))

    assert (code, reason) == ("UNIMPLEMENTED", "Unsupported")
    assert f"does not offer {name} on this server; it offers CudaShared" in text


@in_event_loop
async def test_the_repository_index_lists_every_version_with_its_state_and_reason():
    registry = registry_of(EchoLanes())
    registry.add(ServedModel("broken", "3", ModelState.FAILED, "no such file"))
    registry.add(ServedModel("coming", "1"))

    async with serving(registry) as server:
        every = await server.inference.RepositoryIndex(pb.RepositoryIndexRequest())
        ready = await server.inference.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))

    assert [(m.name, m.version, m.state, m.reason) for m in every.models] == [
        ("broken", "3", "UNAVAILABLE", "no such file"),
        ("coming", "1", "LOADING", ""),
        ("echo", "1", "READY", ""),
    ]
    assert [m.name for m in ready.models] == ["echo"]


@in_event_loop
async def test_bytes_that_are_no_message_are_an_invalid_argument():
    async with serving(registry_of(EchoLanes())) as server:
        call = server.channel.unary_unary(MODEL_INFER)
        refusal = await refusal_of(call(b"\xff\xff\xff"))

    assert refusal == (
        "INVALID_ARGUMENT",
        "InvalidRequest",
        "the 3 bytes received are not an encoded inference.ModelInferRequest",
    )


@in_event_loop
async def test_a_message_above_the_limit_is_refused_with_the_setting_to_raise():
    async with serving(registry_of(EchoLanes())) as server:
        call = server.channel.unary_unary(MODEL_INFER)
        refusal = await refusal_of(call(bytes(MAX_MESSAGE_BYTES + 1)))

    assert refusal == (
        "RESOURCE_EXHAUSTED",
        "MessageTooLarge",
        "message of 1048577 bytes, but the limit is 1048576; send fewer rows in a request "
        "or raise the server's --max-message-mb",
    )


@in_event_loop
async def test_a_message_at_the_limit_is_accepted_and_one_far_above_it_is_not():
    request = infer_request()
    request.id = "x" * (MAX_MESSAGE_BYTES - request.ByteSize() - 4)
    assert request.ByteSize() == MAX_MESSAGE_BYTES

    async with serving(registry_of(EchoLanes())) as server:
        response = await server.inference.ModelInfer(request)
        call = server.channel.unary_unary(MODEL_INFER)
        far_above = await refusal_of(call(bytes(3 * MAX_MESSAGE_BYTES)))

    assert response.id == request.id
    assert far_above[0] == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("character", ["x", "\U0001f6e4"])
@in_event_loop
async def test_a_refusal_that_quotes_a_very_long_name_still_arrives(character):
    request = pb.ModelInferRequest(model_name=character * 10_000)

    async with serving(registry_of(EchoLanes())) as server:
        refusal = await refusal_of(server.inference.ModelInfer(request))

    assert refusal[:2] == ("NOT_FOUND", "ModelNotFound")


@pytest.mark.parametrize(
    ("call_timeout_s", "timeout_us", "least_s", "most_s"),
    # gRPC rounds the budget of a call up a little on its way.
    [(60, None, 50, 61), (60, 1_000_000, 1, 1), (60, 90_000_000, 50, 61), (None, 5_000_000, 5, 5)],
)
@in_event_loop
async def test_the_deadline_is_the_earlier_of_the_calls_and_the_requests(
    call_timeout_s, timeout_us, least_s, most_s
):
    lanes = EchoLanes()
    request = infer_request()
    if timeout_us is not None:
        request.parameters["timeout"].int64_param = timeout_us

    async with serving(registry_of(lanes)) as server:
        before_ns = SystemClock().now_ns()
        await server.inference.ModelInfer(request, timeout=call_timeout_s)

    deadline_ns = lanes.submissions[0].deadline_ns
    assert before_ns + least_s * NS_PER_S <= deadline_ns
    assert deadline_ns <= SystemClock().now_ns() + most_s * NS_PER_S


@in_event_loop
async def test_a_request_without_deadline_has_none():
    lanes = EchoLanes()

    async with serving(registry_of(lanes)) as server:
        await server.inference.ModelInfer(infer_request())

    assert lanes.submissions[0].deadline_ns is None
    assert lanes.submissions[0].profile is None


@in_event_loop
async def test_a_request_can_be_pinned_to_a_profile():
    lanes = EchoLanes()

    async with serving(registry_of(lanes)) as server:
        for parameter in ({"string_param": "wide"}, {"int64_param": 1}):
            await server.inference.ModelInfer(infer_request(parameters={"profile": parameter}))

    assert [submission.profile for submission in lanes.submissions] == ["wide", 1]


@in_event_loop
async def test_a_client_that_leaves_cancels_its_request():
    lanes = EchoLanes(before_answer=never)
    recorded = RecordedRequests()

    async with serving(registry_of(lanes), recorded) as server:
        call = server.inference.ModelInfer(infer_request())
        submission = await lanes.arrivals.get()
        call.cancel()

        assert await lanes.cancellations.get() is submission
        assert await recorded.finished.get() == ("echo", "1", "", "Cancelled")


@in_event_loop
async def test_a_deadline_that_passes_cancels_the_request():
    lanes = EchoLanes(before_answer=never)

    async with serving(registry_of(lanes)) as server:
        code, _, _ = await refusal_of(server.inference.ModelInfer(infer_request(), timeout=0.05))
        await lanes.cancellations.get()

    assert code == "DEADLINE_EXCEEDED"


@in_event_loop
async def test_every_request_is_observed_once_whatever_its_end():
    lanes = EchoLanes()
    recorded = RecordedRequests()
    requests = [
        infer_request(),
        pb.ModelInferRequest(model_name="nobody"),
        infer_request(model_version="2"),
        infer_request(parameters={"profile": {"bool_param": True}}),
        pb.ModelInferRequest(model_name="echo"),
    ]

    async with serving(registry_of(lanes), recorded) as server:
        for request in requests:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await server.inference.ModelInfer(request)
        lanes.before_answer = failing(KeyError("bug"))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await server.inference.ModelInfer(infer_request())
        ends = [await recorded.finished.get() for _ in range(6)]

    assert ends == [
        ("echo", "1", "wide,narrow", ""),
        ("", "", "", "ModelNotFound"),
        ("", "", "", "ModelNotFound"),
        ("echo", "1", "", "InvalidRequest"),
        ("echo", "1", "", "UnknownTensor"),
        ("echo", "1", "", "InternalError"),
    ]
    assert recorded.finished.empty()


@in_event_loop
async def test_lanes_are_listed_with_profile_state_and_counters():
    async with serving(registry_of(EchoLanes())) as server:
        listed = await server.lanes.ListLanes(lanes_pb2.ListLanesRequest(name="echo"))

    assert (listed.name, listed.version, listed.backend) == ("echo", "1", "echo")
    assert (listed.batching, listed.waiting_requests) == (True, 7)
    assert [(lane.id, lane.profile.name, lane.state) for lane in listed.lanes] == [
        (0, "narrow", lanes_pb2.LANE_STATE_IDLE),
        (1, "wide", lanes_pb2.LANE_STATE_BUSY),
        (2, "wide", lanes_pb2.LANE_STATE_RETIRED),
    ]
    assert listed.lanes[1] == lanes_pb2.Lane(
        id=1,
        profile={
            "index": 1,
            "name": "wide",
            "ranges": [{"tensor": "X", "min": [1, 3], "opt": [4, 3], "max": [32, 3]}],
            "max_queue_delay_ms": 5.0,
            "min_rows": 1,
            "opt_rows": 4,
            "max_rows": 32,
        },
        state=lanes_pb2.LANE_STATE_BUSY,
        counters={
            "launches": 1,
            "failed_launches": 2,
            "requests": 3,
            "rows": 4,
            "padded_rows": 5,
            "orphaned_rows": 6,
            "queue_ns": 7,
            "execution_ns": 8,
            "predicted_ns": 9,
        },
        host_bytes=3,
        device_bytes=12,
        memory={
            "pageable_bytes": 1,
            "pinned_bytes": 2,
            "tensor_bytes": 3,
            "scratch_bytes": 4,
            "graph_bytes": 5,
        },
        graphs={"launches": 9, "misses": {"first_run": 10, "captured": 0}, "held": 11},
    )
    assert not listed.lanes[0].HasField("graphs")


@in_event_loop
async def test_costs_are_listed_by_kind_of_launch_and_by_pair_of_profiles():
    async with serving(registry_of(EchoLanes())) as server:
        listed = await server.lanes.ListCosts(lanes_pb2.ListCostsRequest(name="echo"))

    assert listed == lanes_pb2.ListCostsResponse(
        name="echo",
        version="1",
        launches=[
            {
                "profile_index": 1,
                "profile": "wide",
                "rows": 8,
                "bucket": 2,
                "typical_ns": 9,
                "safe_ns": 10,
                "samples": 11,
                "behind_ns": 8,
            }
        ],
        pairs=[
            {
                "profile_index": 1,
                "profile": "wide",
                "other_index": 0,
                "other": "narrow",
                "other_rows": 1,
                "slowdown": 1.5,
            }
        ],
    )


@in_event_loop
async def test_priority_and_latency_target_of_a_request_reach_the_scheduler():
    lanes = EchoLanes()
    urgent = infer_request()
    urgent.parameters["priority"].uint64_param = 1
    urgent.parameters["latency_target_us"].int64_param = 1500

    async with serving(registry_of(lanes)) as server:
        await server.inference.ModelInfer(urgent)
        await server.inference.ModelInfer(infer_request())

    assert [(each.priority, each.target_ns) for each in lanes.submissions] == [
        (1, 1_500_000),
        (0, None),
    ]


@pytest.mark.parametrize(("profile", "pin"), [("", "None"), ("wide", "wide")])
@in_event_loop
async def test_a_route_is_explained_without_running_anything(profile, pin):
    lanes = EchoLanes()
    request = lanes_pb2.ExplainRouteRequest(
        name="echo", inputs=[{"name": "X", "shape": [6, 3]}], profile=profile
    )

    async with serving(registry_of(lanes)) as server:
        route = await server.lanes.ExplainRoute(request)

    assert route == lanes_pb2.ExplainRouteResponse(
        admitted=True,
        reason=f"pinned to {pin}",
        rows=6,
        candidates=[
            {"profile_index": 0, "profile": "narrow", "admits": False, "reason": "too many rows"},
            {"profile_index": 1, "profile": "wide", "admits": True, "reason": "fits"},
        ],
        launches=[{"profile": "wide", "first_row": 0, "rows": 6, "padded_rows": 7}],
    )
    assert lanes.submissions == []


@in_event_loop
async def test_a_route_for_inputs_that_make_no_sense_is_refused():
    twice = [{"name": "X", "shape": [1, 3]}] * 2

    async with serving(registry_of(EchoLanes())) as server:
        duplicate = await refusal_of(
            server.lanes.ExplainRoute(lanes_pb2.ExplainRouteRequest(name="echo", inputs=twice))
        )
        missing = await refusal_of(
            server.lanes.ExplainRoute(lanes_pb2.ExplainRouteRequest(name="echo"))
        )
        unknown = await refusal_of(server.lanes.ListLanes(lanes_pb2.ListLanesRequest(name="x")))

    assert duplicate[:2] == ("INVALID_ARGUMENT", "InvalidRequest")
    assert missing[:2] == ("INVALID_ARGUMENT", "UnknownTensor")
    assert unknown[:2] == ("NOT_FOUND", "ModelNotFound")


@in_event_loop
async def test_a_port_that_is_taken_is_an_error():
    async with serving(registry_of(EchoLanes())) as server:
        second = aio_server([], MAX_MESSAGE_BYTES)

        with pytest.raises(RuntimeError, match="Failed to bind"):
            second.add_insecure_port(server.address)
