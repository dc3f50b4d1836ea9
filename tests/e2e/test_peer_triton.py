"""NVIDIA's unmodified client for Triton, against a server with the digits model."""

from __future__ import annotations

import asyncio
import queue
import threading

import ml_dtypes
import numpy as np
import pytest

from helpers.front_ends import wait_for
from helpers.peers import import_peer
from helpers.serving import DIGITS, SIMULATED, server_process
from lanewise_client import Client, LaneState

triton = import_peer("tritonclient.grpc")
triton_aio = import_peer("tritonclient.grpc.aio")


@pytest.fixture(scope="module")
def address(each_transport_of_module):
    with server_process(DIGITS) as server:
        yield server.address


def image_input(rows: int) -> tuple[np.ndarray, object]:
    images = np.random.default_rng(rows).random((rows, 3, 28, 28), np.float32)
    tensor = triton.InferInput("X", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    return images, tensor


def parameter(result, name: str):
    found = result.get_response().parameters[name]
    return getattr(found, found.WhichOneof("parameter_choice"))


def test_health_and_metadata(address):
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1")
        assert client.get_server_metadata().name == "lanewise"
        metadata = client.get_model_metadata("digits")
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
            ("X", "FP32", [-1, 3, 28, 28])
        ]
        assert list(metadata.versions) == ["1"]
        index = client.get_model_repository_index()
        assert [(m.name, m.version, m.state) for m in index.models] == [("digits", "1", "READY")]


def test_infer_returns_outputs_and_says_which_lane_served(address):
    with triton.InferenceServerClient(address) as client:
        for rows, profiles in ((1, {"online", "dynamic"}), (128, {"dynamic", "offline"})):
            _, tensor = image_input(rows)
            result = client.infer("digits", [tensor], request_id=f"r{rows}")
            assert result.as_numpy("logits").shape == (rows, 10)
            assert result.get_response().id == f"r{rows}"
            assert set(parameter(result, "profile").split(",")) <= profiles


def test_requested_outputs_and_a_pinned_profile(address):
    with triton.InferenceServerClient(address) as client:
        _, tensor = image_input(1)
        result = client.infer(
            "digits",
            [tensor],
            outputs=[triton.InferRequestedOutput("logits")],
            parameters={"profile": "dynamic"},
            timeout=5_000_000,
            client_timeout=30,
            priority=1,
        )
        assert parameter(result, "profile") == "dynamic"


def test_errors_carry_status_and_text(address):
    with triton.InferenceServerClient(address) as client:
        with pytest.raises(triton.InferenceServerException, match="no model 'nothing'") as caught:
            client.get_model_metadata("nothing")
        assert caught.value.status() == "StatusCode.NOT_FOUND"
        wrong = triton.InferInput("X", [1, 3, 28, 29], "FP32")
        wrong.set_data_from_numpy(np.zeros((1, 3, 28, 29), np.float32))
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("digits", [wrong])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_many_requests_in_flight_come_back_to_their_callbacks(address):
    with triton.InferenceServerClient(address) as client:
        answers: queue.Queue[tuple[int, object, object]] = queue.Queue()
        rows = [1, 4, 32, 128] * 5
        for number, count in enumerate(rows):
            _, tensor = image_input(count)
            client.async_infer(
                "digits",
                [tensor],
                lambda result, error, number=number: answers.put((number, result, error)),
            )
        for _ in rows:
            number, result, error = answers.get(timeout=30)
            assert error is None
            assert result.as_numpy("logits").shape == (rows[number], 10)


def test_stream_answers_in_order_and_goes_on_after_an_error(address):
    with triton.InferenceServerClient(address) as client:
        answers: queue.Queue[tuple[object, object]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for rows in (1, 4, 2):
            _, tensor = image_input(rows)
            client.async_stream_infer("digits", [tensor], request_id=str(rows))
        wrong = triton.InferInput("Z", [1], "FP32")
        wrong.set_data_from_numpy(np.zeros(1, np.float32))
        client.async_stream_infer("digits", [wrong], request_id="wrong")
        _, tensor = image_input(3)
        client.async_stream_infer(
            "digits", [tensor], request_id="3", enable_empty_final_response=True
        )
        got = [answers.get(timeout=30) for _ in range(5)]
        client.stop_stream()
    assert [result.get_response().id for result, error in got if error is None] == list("1423")
    assert "Z" in str(got[3][1])
    assert parameter(got[4][0], "triton_final_response") is True


def test_asyncio_client_infers_and_streams(address):
    async def scenario():
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_model_ready("digits")
            _, tensor = image_input(4)
            results = await asyncio.gather(*(client.infer("digits", [tensor]) for _ in range(20)))
            assert {result.as_numpy("logits").shape for result in results} == {(4, 10)}

            async def requests():
                for i in range(3):
                    yield {"model_name": "digits", "inputs": [tensor], "request_id": str(i)}

            ids = [result.get_response().id async for result, _ in client.stream_infer(requests())]
            assert ids == ["0", "1", "2"]

    asyncio.run(scenario())


def test_bytes_bf16_and_several_outputs_cross_the_wire(tmp_path):
    file = tmp_path / "words.sim.toml"
    file.write_text(
        """
        inputs = [
            { name = "text", datatype = "BYTES", shape = [-1, 2] },
            { name = "weight", datatype = "BF16", shape = [-1, 3] },
        ]
        outputs = [
            { name = "text_again", datatype = "BYTES", shape = [-1, 2], copy_of = "text" },
            { name = "weight_again", datatype = "BF16", shape = [-1, 3], copy_of = "weight" },
        ]
        [[profiles]]
        name = "small"
        tensors.text = { min = [2, 2], opt = [2, 2], max = [8, 2] }
        tensors.weight = { min = [2, 3], opt = [2, 3], max = [8, 3] }
        [latency]
        default = { rows = [1], ms = [0.1] }
        """
    )
    text = np.array([[b"a", b"\xff\x00"]], dtype=object)
    weight = np.array([[0.5, -2.0, 3.0]], ml_dtypes.bfloat16)
    inputs = [
        triton.InferInput("text", [1, 2], "BYTES"),
        triton.InferInput("weight", [1, 3], "BF16"),
    ]
    inputs[0].set_data_from_numpy(text)
    inputs[1].set_data_from_numpy(weight)
    with server_process(file) as server, triton.InferenceServerClient(server.address) as client:
        result = client.infer("words", inputs)
        only = client.infer("words", inputs, outputs=[triton.InferRequestedOutput("weight_again")])
    assert result.as_numpy("text_again").tolist() == text.tolist()
    assert result.as_numpy("weight_again").tolist() == weight.tolist()
    assert only.as_numpy("text_again") is None


def test_simulated_engine_with_seven_profiles_answers_tritons_client():
    with (
        server_process(SIMULATED) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        tokens = np.arange(12, dtype=np.int32).reshape(1, 12)
        tensor = triton.InferInput("token_ids", [1, 12], "INT32")
        tensor.set_data_from_numpy(tokens)
        result = client.infer("encoder", [tensor])
    assert result.as_numpy("echo").tolist() == tokens.tolist()


@pytest.fixture(scope="module")
def slow_address(each_transport_of_module, tmp_path_factory):
    """A server of one lane, which takes 200 ms for each row and one row at a time."""
    folder = tmp_path_factory.mktemp("slow") / "slow"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.sim.toml").write_text(
        """
        inputs = [{ name = "X", datatype = "FP32", shape = [-1] }]
        outputs = [{ name = "Y", datatype = "FP32", shape = [-1], copy_of = "X" }]
        profiles = [{ name = "only", tensors.X = { min = [1], opt = [1], max = [1] } }]
        [latency]
        default = { rows = [1], ms = [200.0] }
        """
    )
    (folder / "model.toml").write_text("[scheduling]\npriority_levels = 100\n")
    with server_process(folder.parent) as server:
        yield server.address


def one_row():
    tensor = triton.InferInput("X", [1], "FP32")
    tensor.set_data_from_numpy(np.zeros(1, np.float32))
    return tensor


def test_a_more_important_priority_overtakes_what_waits(slow_address):
    ends: queue.Queue[tuple[str, object]] = queue.Queue()
    with triton.InferenceServerClient(slow_address) as client:
        client.is_server_live()  # connected, requests arrive in the order in which they are sent

        def send(name, priority):
            client.async_infer(
                "slow",
                [one_row()],
                lambda result, error: ends.put((name, error)),
                priority=priority,
            )

        for i in range(6):
            send(f"bulk {i}", 100)
        send("urgent", 1)
        order = [ends.get(timeout=30) for _ in range(7)]

    assert all(error is None for _, error in order)
    assert [name for name, _ in order].index("urgent") < 5


def wait_for_requests(address: str, count: int) -> None:
    """Wait until so many requests run or wait: several of a client may overtake each other."""
    with Client(address, timeout_s=30) as client:

        def are_there() -> bool:
            shown = client.lanes("slow")
            busy = sum(lane.state is LaneState.BUSY for lane in shown.lanes)
            return shown.waiting_requests + busy == count

        wait_for(are_there)


def test_a_timeout_ends_a_request_that_waits(slow_address):
    ends: queue.Queue[object] = queue.Queue()
    with triton.InferenceServerClient(slow_address) as client:
        for _ in range(3):
            client.async_infer("slow", [one_row()], lambda result, error: ends.put(error))
        wait_for_requests(slow_address, 3)
        with pytest.raises(triton.InferenceServerException, match="deadline") as caught:
            client.infer("slow", [one_row()], timeout=250_000)  # microseconds
        others = [ends.get(timeout=30) for _ in range(3)]

    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert others == [None, None, None]


def test_a_timeout_that_cannot_be_met_even_alone_is_refused_at_arrival(slow_address):
    done = threading.Event()
    with triton.InferenceServerClient(slow_address) as client:
        # An idle server would try, in case it takes less by now.
        client.async_infer("slow", [one_row()], lambda result, error: done.set())
        wait_for_requests(slow_address, 1)
        with pytest.raises(triton.InferenceServerException, match="at arrival the request needs"):
            client.infer("slow", [one_row()], timeout=100_000)
        assert done.wait(30)


def test_a_latency_target_goes_as_a_custom_parameter_and_is_checked(slow_address):
    with triton.InferenceServerClient(slow_address) as client:
        client.infer("slow", [one_row()], parameters={"latency_target_us": 500_000})
        with pytest.raises(triton.InferenceServerException, match="cannot be negative"):
            client.infer("slow", [one_row()], parameters={"latency_target_us": -1})
