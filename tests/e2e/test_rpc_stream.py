from __future__ import annotations

import asyncio

import grpc
import grpc.aio
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
)
from lanewise.clock import SystemClock
from lanewise.errors import QueueFull
from lanewise_client.protos import inference_pb2 as pb

pytestmark = pytest.mark.usefixtures("each_transport")

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


async def answers_to(server, *requests):
    """Every response to `requests` sent on one stream."""
    return [response async for response in server.inference.ModelStreamInfer(iter(requests))]


async def never(submission):
    await asyncio.Event().wait()


@in_event_loop
async def test_requests_run_side_by_side_and_are_answered_in_their_order():
    everyone_arrived = asyncio.Event()
    lanes = EchoLanes()

    async def wait_for_the_last(submission):
        if len(lanes.submissions) == 3:
            everyone_arrived.set()
        await everyone_arrived.wait()
        # The first to arrive takes the most turns of the event loop to finish.
        for _ in range(100 * (3 - lanes.submissions.index(submission))):
            await asyncio.sleep(0)

    lanes.before_answer = wait_for_the_last
    async with serving(registry_of(lanes)) as server:
        answers = await answers_to(server, *(infer_request(id=each) for each in "abc"))

    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c"]
    assert [answer.error_message for answer in answers] == ["", "", ""]


@in_event_loop
async def test_a_failed_request_is_answered_with_its_error_and_the_stream_goes_on():
    lanes = EchoLanes()

    async def fail_the_second(submission):
        if lanes.submissions.index(submission) == 1:
            raise QueueFull("256 requests wait")

    lanes.before_answer = fail_the_second
    async with serving(registry_of(lanes)) as server:
        answers = await answers_to(
            server,
            infer_request(id="a"),
            infer_request(id="b"),
            pb.ModelInferRequest(id="c", model_name="nobody"),
            infer_request(id="d"),
        )

    assert [(answer.infer_response.id, answer.error_message) for answer in answers] == [
        ("a", ""),
        ("b", "256 requests wait"),
        ("c", "no model 'nobody'; this server has: 'echo'"),
        ("d", ""),
    ]
    assert answers[1].infer_response == pb.ModelInferResponse(
        id="b",
        parameters={
            "error-reason": pb.InferParameter(string_param="QueueFull"),
            "triton_final_response": pb.InferParameter(bool_param=True),
        },
    )


@in_event_loop
async def test_a_bug_in_one_request_is_told_by_an_id_and_the_stream_goes_on():
    lanes = EchoLanes()

    async def fail_the_first(submission):
        if submission is lanes.submissions[0]:
            raise KeyError("secret")

    lanes.before_answer = fail_the_first
    async with serving(registry_of(lanes)) as server:
        with captured_logs() as logs:
            answers = await answers_to(server, infer_request(id="a"), infer_request(id="b"))

    (line,) = [line for line in logs if "request_id" in line]  # the engine logs it, too
    assert line["request_id"] in answers[0].error_message
    assert "secret" not in answers[0].error_message
    assert answers[1].infer_response.id == "b"


@in_event_loop
async def test_every_answer_is_marked_as_the_last_to_its_request():
    asks = {"triton_enable_empty_final_response": {"bool_param": True}}

    async with serving(registry_of(EchoLanes())) as server:
        answers = await answers_to(
            server,
            infer_request(id="a", parameters=asks),
            infer_request(id="b"),
            pb.ModelInferRequest(id="c", parameters=asks),
        )

    marks = [
        answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers
    ]
    assert marks == [True, True, True]


@pytest.mark.parametrize(
    ("unreadable", "code", "reason"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "InvalidRequest"),
        (bytes(MAX_MESSAGE_BYTES + 1), "RESOURCE_EXHAUSTED", "MessageTooLarge"),
    ],
)
@in_event_loop
async def test_an_unreadable_message_ends_the_stream_after_what_came_before_it(
    unreadable, code, reason
):
    answered = []

    async with serving(registry_of(EchoLanes())) as server:
        stream = server.channel.stream_stream(
            STREAM, response_deserializer=pb.ModelStreamInferResponse.FromString
        )
        sent = [infer_request(id="a").SerializeToString(), unreadable]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for answer in stream(iter(sent)):
                answered += [answer.infer_response.id]

    assert answered == ["a"]
    assert caught.value.code().name == code
    assert caught.value.trailing_metadata()["error-reason"] == reason


@in_event_loop
async def test_a_client_that_leaves_cancels_everything_outstanding_and_nothing_is_logged():
    lanes = EchoLanes(before_answer=never)
    recorded = RecordedRequests()

    async with serving(registry_of(lanes), recorded) as server:
        with captured_logs() as logs:
            call = server.inference.ModelStreamInfer()
            for each in "abc":
                await call.write(infer_request(id=each))
            for _ in range(3):
                await lanes.arrivals.get()
            call.cancel()

            ends = [await recorded.finished.get() for _ in range(3)]

    assert ends == [("echo", "1", "", "Cancelled")] * 3
    assert lanes.cancellations.qsize() == 3
    assert logs == []


@in_event_loop
async def test_a_client_that_leaves_while_answers_are_written_is_no_error():
    lanes = EchoLanes()
    left = asyncio.Event()

    async def wait_until_the_client_left(submission):
        await left.wait()

    async with serving(registry_of(lanes)) as server:
        with captured_logs() as logs:
            for turns in range(20):
                left.clear()
                lanes.before_answer = wait_until_the_client_left
                call = server.inference.ModelStreamInfer()
                for _ in range(10):
                    await call.write(infer_request())
                for _ in range(10):
                    await lanes.arrivals.get()
                call.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
                left.set()
            await server.inference.ServerLive(pb.ServerLiveRequest())

    assert [line for line in logs if line["log_level"] != "debug"] == []


@in_event_loop
async def test_the_deadline_of_the_stream_is_that_of_its_requests():
    lanes = EchoLanes()

    async with serving(registry_of(lanes)) as server:
        before_ns = SystemClock().now_ns()
        stream = server.inference.ModelStreamInfer(iter([infer_request()]), timeout=60)
        [_ async for _ in stream]

    budget_s = (lanes.submissions[0].deadline_ns - before_ns) / 1e9
    assert 50 < budget_s < 61


@in_event_loop
async def test_every_streamed_request_is_observed():
    recorded = RecordedRequests()

    async with serving(registry_of(EchoLanes()), recorded) as server:
        await answers_to(server, infer_request(), pb.ModelInferRequest(model_name="nobody"))
        ends = [await recorded.finished.get() for _ in range(2)]

    assert sorted(ends) == [("", "", "", "ModelNotFound"), ("echo", "1", "wide,narrow", "")]
