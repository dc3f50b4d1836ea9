import asyncio
import math
from concurrent.futures import ThreadPoolExecutor

import grpc
import ml_dtypes
import numpy as np
import pytest

import lanewise_client
from helpers.client_server import WORDS, error_classes, serving
from helpers.client_shells import SHELLS
from lanewise_client import AsyncClient, Client, DeadlineExpired, ServingError, Unavailable

X = np.arange(6, dtype=np.float32).reshape(2, 3)
GRPC_DEFAULT_LIMIT_BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(params=sorted(SHELLS))
def call(request, server):
    return SHELLS[request.param](server.address)


NUMERIC = [
    *(np.dtype(f"u{size}") for size in (1, 2, 4, 8)),
    *(np.dtype(f"i{size}") for size in (1, 2, 4, 8)),
    *(np.dtype(f"f{size}") for size in (2, 4, 8)),
    np.dtype(np.bool_),
]


@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_every_numpy_type_comes_back_as_it_went(call, dtype):
    sent = np.array([[0, 1, 2], [3, 4, 100]]).astype(dtype)

    received = call("infer", "echo", {"X": sent})["X"]

    assert received.dtype == dtype
    np.testing.assert_array_equal(received, sent)


def test_bfloat16_comes_back_as_float32_of_the_same_value(call):
    sent = np.array([0.0, -0.0, 1.5, -3.0e38, math.inf, math.nan], ml_dtypes.bfloat16)

    received = call("infer", "echo", {"X": sent})["X"]

    assert received.dtype == np.float32
    np.testing.assert_array_equal(received, sent.astype(np.float32))
    assert np.signbit(received[1])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_comes_back_as_its_bits(call, name):
    sent = np.array([0.5, -2.0, 448.0], name)

    received = call("infer", "echo", {"X": sent})["X"]

    assert received.dtype == np.uint8
    np.testing.assert_array_equal(received.view(name), sent)


@pytest.mark.parametrize(
    "sent",
    [
        np.array([[b"one", b""], [b"\0three\0", "größe"]], np.object_),
        np.array(["one", "größe"]),
        np.array([b"one", b"three"]),
    ],
    ids=["objects", "str", "bytes"],
)
def test_text_comes_back_as_objects_of_bytes(call, sent):
    received = call("infer", "echo", {"X": sent})["X"]

    expected = [text.encode() if isinstance(text, str) else text for text in sent.flat]
    assert received.dtype == np.object_
    assert received.shape == sent.shape
    assert list(received.flat) == expected


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 0)], ids=str)
def test_scalars_and_arrays_without_elements_keep_their_shape(call, shape):
    received = call("infer", "echo", {"X": np.ones(shape, np.int16)})["X"]

    np.testing.assert_array_equal(received, np.ones(shape, np.int16))


def test_a_request_says_all_it_was_asked_to_say(call, server):
    result = call(
        "infer",
        "echo",
        {"X": X, "Y": X[0]},
        version="3",
        outputs=["Y", "X"],
        profile="online",
        request_id="r-1",
    )

    sent = server.inference.requests[-1]
    assert [output.name for output in sent.outputs] == ["Y", "X"]
    assert sent.parameters["profile"].string_param == "online"
    assert (result.model, result.model_version, result.request_id) == ("echo", "3", "r-1")
    assert (result.profile, result.padded_rows, result.batch_rows, result.launches) == (
        "online",
        4,
        3,
        1,
    )
    assert list(result) == ["X", "Y"]


def test_priority_and_latency_target_are_sent_as_parameters(call, server):
    call("infer", "echo", {"X": X}, priority=1, latency_target_s=0.25)

    sent = server.inference.requests[-1].parameters
    assert sent["priority"].uint64_param == 1
    assert sent["latency_target_us"].int64_param == 250_000


def test_an_answer_may_be_larger_than_the_default_limit_of_grpc(call):
    assert call("infer", "large", {"X": X})["Y"].nbytes > GRPC_DEFAULT_LIMIT_BYTES


@pytest.mark.parametrize("reason", sorted({found.__name__ for found in error_classes()}))
def test_each_error_of_the_server_is_raised_as_the_class_of_its_name(call, reason):
    with pytest.raises(ServingError) as caught:
        call("infer", f"refuse:{reason}", {"X": X})

    assert type(caught.value) is getattr(lanewise_client, reason)
    assert (caught.value.message, caught.value.reason) == (WORDS, reason)
    assert str(caught.value) == WORDS


def test_a_bug_of_the_server_is_a_plain_serving_error(call):
    with pytest.raises(ServingError) as caught:
        call("infer", "refuse:InternalError", {"X": X})

    assert type(caught.value) is ServingError
    assert caught.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("INVALID_ARGUMENT", "InvalidRequest"),
        ("NOT_FOUND", "ModelNotFound"),
        ("RESOURCE_EXHAUSTED", "Overloaded"),
        ("UNAUTHENTICATED", "ServingError"),
    ],
)
def test_without_a_reason_the_status_decides(call, code, expected):
    with pytest.raises(ServingError) as caught:
        call("infer", f"status:{code}", {"X": X})

    assert type(caught.value).__name__ == expected
    assert (caught.value.message, caught.value.reason) == (WORDS, "")
    assert caught.value.code is grpc.StatusCode[code]


def test_an_answer_that_contradicts_itself_is_an_error(call):
    with pytest.raises(ServingError, match=r"describes 0 outputs but holds contents of 1"):
        call("infer", "contradictory", {"X": X})


def test_a_message_larger_than_the_server_takes_is_too_large_not_an_overload(call):
    with pytest.raises(lanewise_client.MessageTooLarge, match=r"larger than max"):
        call("infer", "echo", {"X": np.zeros(GRPC_DEFAULT_LIMIT_BYTES, np.uint8)})


def test_a_server_that_never_answers_costs_the_timeout_and_no_more(call, server):
    with pytest.raises(DeadlineExpired, match=rf"no answer from {server.address} within 0.2 s"):
        call("infer", "silent", {"X": X}, timeout_s=0.2)


def test_the_timeout_of_the_client_holds_where_the_call_has_none(server):
    for shell in SHELLS.values():
        with pytest.raises(DeadlineExpired):
            shell(server.address, timeout_s=0.2)("infer", "silent", {"X": X})


@pytest.mark.parametrize("timeout_s", [0, -1.5])
def test_a_budget_that_is_used_up_sends_nothing(call, server, timeout_s):
    seen = len(server.inference.requests)

    with pytest.raises(DeadlineExpired, match="no time was left"):
        call("infer", "echo", {"X": X}, timeout_s=timeout_s)

    assert len(server.inference.requests) == seen


def test_none_waits_for_the_answer_however_long(call):
    np.testing.assert_array_equal(call("infer", "echo", {"X": X}, timeout_s=None)["X"], X)


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_an_unreachable_server_is_unavailable_and_named(shell):
    call = SHELLS[shell]("localhost:1")

    with pytest.raises(Unavailable, match="cannot reach the server at localhost:1:"):
        call("infer", "echo", {"X": X})
    assert not call("is_live")
    assert not call("is_ready")
    assert not call("is_model_ready", "echo")


def test_threads_share_a_client_and_each_gets_its_own_answer(server):
    def ask(number):
        sent = np.full((4, 4), number)
        return client.infer("echo", {"X": sent}, request_id=str(number))

    with Client(server.address, timeout_s=30) as client, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(100)))

    assert [int(result.request_id) for result in results] == list(range(100))
    assert [result["X"].tolist() for result in results] == [[[n] * 4] * 4 for n in range(100)]


def test_tasks_share_a_client_and_each_gets_its_own_answer(server):
    async def ask_all():
        async with AsyncClient(server.address, timeout_s=30) as client:
            return await asyncio.gather(
                *(client.infer("echo", {"X": np.full(3, number)}) for number in range(100))
            )

    results = asyncio.run(ask_all())

    assert [result["X"].tolist() for result in results] == [[n] * 3 for n in range(100)]


def test_cancelling_a_task_cancels_its_call_on_the_server():
    async def cancel(server):
        async with AsyncClient(server.address, timeout_s=None) as client:
            task = asyncio.create_task(client.infer("silent", {"X": X}))
            await asyncio.to_thread(server.inference.silent_call_began.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.inference.silent_call_ended.wait, 30)
            return await client.infer("echo", {"X": X})

    with serving() as server:
        result = asyncio.run(cancel(server))

    np.testing.assert_array_equal(result["X"], X)


def test_closing_the_client_fails_the_calls_in_flight_of_other_threads():
    with (
        serving() as server,
        Client(server.address, timeout_s=None) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.infer, "silent", {"X": X})
        server.inference.silent_call_began.wait()
        client.close()
        with pytest.raises(ServingError, match="was closed before the answer came"):
            answer.result()


def test_closing_the_client_fails_the_calls_in_flight_of_other_tasks():
    async def close(server):
        client = AsyncClient(server.address, timeout_s=None)
        task = asyncio.create_task(client.infer("silent", {"X": X}))
        await asyncio.to_thread(server.inference.silent_call_began.wait)
        await client.close()
        with pytest.raises(ServingError, match="was closed before the answer came"):
            await task

    with serving() as server:
        asyncio.run(close(server))


def test_a_closed_client_says_so(server):
    client = Client(server.address, timeout_s=30)
    client.close()
    client.close()

    with pytest.raises(RuntimeError, match=rf"client of {server.address} is closed"):
        client.infer("echo", {"X": X})


def test_a_closed_asyncio_client_says_so(server):
    async def use_closed():
        client = AsyncClient(server.address, timeout_s=30)
        await client.close()
        await client.close()
        await client.infer("echo", {"X": X})

    with pytest.raises(RuntimeError, match=rf"client of {server.address} is closed"):
        asyncio.run(use_closed())


def test_an_asyncio_client_belongs_to_one_event_loop(server):
    client = None
    raised = []

    async def first_loop():
        nonlocal client
        client = AsyncClient(server.address, timeout_s=30)
        await asyncio.to_thread(asyncio.run, second_loop())
        await client.close()

    async def second_loop():
        try:
            await client.is_live()
        except RuntimeError as error:
            raised.append(str(error))

    asyncio.run(first_loop())

    assert raised == ["this AsyncClient belongs to another event loop; make one here"]


def test_credentials_make_a_secure_channel():
    async def ask(address):
        credentials = grpc.local_channel_credentials()
        async with AsyncClient(address, timeout_s=30, credentials=credentials) as client:
            return await client.is_live()

    with serving(grpc.local_server_credentials()) as server:
        credentials = grpc.local_channel_credentials()
        with Client(server.address, timeout_s=30, credentials=credentials) as client:
            assert client.is_live()
        assert asyncio.run(ask(server.address))


def test_options_given_win_over_the_defaults(server):
    options = [("grpc.max_receive_message_length", 1000)]

    with (
        Client(server.address, timeout_s=30, options=options) as client,
        pytest.raises(ServingError, match="larger than max"),
    ):
        client.infer("echo", {"X": np.zeros(2000, np.uint8)})
