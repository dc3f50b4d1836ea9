import asyncio
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lanewise_client
from lanewise_client import CLIENT_TIMEOUT, AsyncClient, Client, DeadlineExpired
from lanewise_client.calls import CallRules, channel_options
from lanewise_client.protos.inference_pb2 import ServerLiveRequest


def test_a_client_is_told_its_timeout():
    with pytest.raises(TypeError, match="timeout_s"):
        Client("localhost:1")


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, 1e18])
def test_a_client_refuses_a_timeout_that_is_no_length_of_time(timeout_s):
    with pytest.raises(ValueError, match=r"timeout_s is .*, but must be .*None to wait"):
        Client("localhost:1", timeout_s=timeout_s)


def test_a_call_takes_its_own_timeout_before_that_of_the_client():
    rules = CallRules("localhost:1", 5.0)

    assert [rules.seconds(given) for given in (CLIENT_TIMEOUT, 0.5, None)] == [5.0, 0.5, None]


@pytest.mark.parametrize("timeout_s", [math.nan, math.inf, 1e18])
def test_a_call_refuses_a_timeout_that_grpc_would_misread(timeout_s):
    with pytest.raises(ValueError, match="None to wait forever"):
        CallRules("localhost:1", None).seconds(timeout_s)


def test_a_used_up_budget_is_an_expired_deadline():
    with pytest.raises(DeadlineExpired, match=r"call to localhost:1: timeout_s is -0.25"):
        CallRules("localhost:1", 5.0).seconds(-0.25)


def test_a_call_that_succeeds_without_an_answer_is_an_expired_deadline():
    """What grpcio gives where the deadline passes while the answer comes; a race, so made up."""

    def answer_nothing(request, **_):
        return None

    async def answer_nothing_later(request, **_):
        return None

    async def call_async():
        async with AsyncClient("localhost:1", timeout_s=5) as client:
            client._connection._methods["ServerLive"] = answer_nothing_later
            await client._connection.call("ServerLive", ServerLiveRequest(), 0.5)

    with pytest.raises(DeadlineExpired, match=r"no answer from localhost:1 within 0.5 s"):
        asyncio.run(call_async())
    with (
        Client("localhost:1", timeout_s=5) as client,
        pytest.raises(DeadlineExpired, match=r"no answer from localhost:1 within 0.5 s"),
    ):
        client._connection._methods["ServerLive"] = answer_nothing
        client._connection.call("ServerLive", ServerLiveRequest(), 0.5)


def test_message_sizes_are_unlimited_unless_told():
    assert channel_options([("grpc.max_send_message_length", 9), ("grpc.primary", "x")]) == [
        ("grpc.max_send_message_length", 9),
        ("grpc.max_receive_message_length", -1),
        ("grpc.primary", "x"),
    ]


def test_the_client_needs_nothing_of_the_server():
    code = (
        "import sys, lanewise_client\n"
        "print(sorted({'lanewise', 'ml_dtypes', 'pydantic'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(lanewise_client.__file__).parents[1])}

    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert told.stdout == "[]\n"


def test_every_public_name_is_there():
    assert [name for name in lanewise_client.__all__ if not hasattr(lanewise_client, name)] == []
