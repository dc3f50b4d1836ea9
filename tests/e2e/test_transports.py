"""What every transport has to carry, and what only one of them has to mind."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from helpers.front_ends import wait_for
from helpers.rpc import (
    MAX_MESSAGE_BYTES,
    EchoLanes,
    in_event_loop,
    infer_request,
    registry_of,
    serving,
)
from helpers.serving import SIMULATED, server_process
from helpers.serving import _environment as environment
from helpers.transports import tested_transport
from lanewise.rpc.edge.wire import framed
from lanewise_client import AsyncClient, Client

INFER = "/inference.GRPCInferenceService/ModelInfer"
TLS = Path(__file__).parents[1] / "helpers" / "tls"
CERTIFICATE, KEY = TLS / "cert.pem", TLS / "key.pem"

each_transport = pytest.mark.usefixtures("each_transport")
on_edge = pytest.mark.usefixtures("on_edge")


@each_transport
def test_with_a_certificate_only_tls_is_spoken():
    tokens = np.arange(64, dtype=np.int32).reshape(2, 32)
    with server_process(SIMULATED, "--tls-cert", str(CERTIFICATE), "--tls-key", str(KEY)) as server:
        trusting = grpc.ssl_channel_credentials(CERTIFICATE.read_bytes())
        with Client(server.address, timeout_s=30, credentials=trusting) as client:
            wait_for(client.is_ready)
            result = client.infer("encoder", {"token_ids": tokens})
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as it:
            channel.unary_unary(INFER)(b"", timeout=30)
    np.testing.assert_array_equal(result["echo"], tokens)
    assert it.value.code() is grpc.StatusCode.UNAVAILABLE


@each_transport
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@in_event_loop
async def test_compressed_requests_are_read(compression):
    lanes = EchoLanes()
    async with serving(registry_of(lanes)) as server:
        request = infer_request(*range(100), id="a")
        response = await server.inference.ModelInfer(request, compression=compression)
        answers = [
            answer.infer_response.id
            async for answer in server.inference.ModelStreamInfer(
                iter([request, infer_request(id="b")]), compression=compression
            )
        ]
    assert response.raw_output_contents[0] == request.raw_input_contents[0]
    assert answers == ["a", "b"]


@each_transport
def test_a_burst_on_one_connection_is_answered_call_by_call():
    async def scenario():
        async with AsyncClient(server.address, timeout_s=30) as client:
            requests = (np.full((1, 32), i, np.int32) for i in range(1500))
            results = await asyncio.gather(
                *(client.infer("encoder", {"token_ids": tokens}) for tokens in requests)
            )
        assert [result["echo"][0, 0] for result in results] == list(range(1500))

    with server_process(SIMULATED, "--max-queue-requests", "2000") as server:
        asyncio.run(scenario())


@each_transport
@in_event_loop
async def test_large_messages_come_back_bit_for_bit():
    rows = np.random.default_rng(1).random((3_000_000, 3), np.float32)  # 36 MB
    async with (
        serving(registry_of(EchoLanes()), max_message_bytes=64 << 20) as server,
        AsyncClient(server.address, timeout_s=30) as client,
    ):
        results = await asyncio.gather(*(client.infer("echo", {"X": rows[i:]}) for i in range(3)))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result["out.X"], rows[i:])


@on_edge
@in_event_loop
async def test_a_call_without_a_request_is_refused():
    async with serving(registry_of(EchoLanes())) as server:
        call = server.channel.stream_unary(INFER)(iter([]))
        with pytest.raises(grpc.aio.AioRpcError, match="without a request") as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@each_transport
@in_event_loop
async def test_a_method_nobody_knows_is_unimplemented():
    async with serving(registry_of(EchoLanes())) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary("/no.Service/Method")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@each_transport
def test_a_missing_half_of_the_tls_files_is_an_error():
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "lanewise", "serve", str(SIMULATED), "--grpc-port", "0"),
            *("--metrics-port", "0", "--tls-cert", str(KEY), *tested_transport.get().arguments),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert "--tls-cert: requires --tls-key" in refused.stderr


@on_edge
@in_event_loop
async def test_two_requests_in_a_unary_call_are_refused():
    async with serving(registry_of(EchoLanes())) as server:
        message = infer_request().SerializeToString()
        call = server.channel.stream_unary(INFER)(iter([message, message]))
        with pytest.raises(grpc.aio.AioRpcError, match="more than one request") as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@on_edge
@in_event_loop
async def test_a_message_above_the_limit_is_refused_before_it_has_come():
    async with serving(registry_of(EchoLanes())) as server:
        refused = asyncio.Event()

        async def half_a_message():
            yield bytes(MAX_MESSAGE_BYTES + 1)
            await refused.wait()

        call = server.channel.stream_unary(INFER)(half_a_message())
        with pytest.raises(grpc.aio.AioRpcError, match="the limit is") as caught:
            await call
        refused.set()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@on_edge
def test_what_is_not_http_2_gets_no_answer_and_harms_nobody():
    with server_process(SIMULATED) as server:
        host, _, port = server.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + framed(b"x"))
            assert b"200" not in connection.recv(1000)
        with Client(server.address, timeout_s=30) as client:
            assert client.is_live()


def test_the_edge_transport_without_what_it_needs_tells_how_to_install_it():
    program = (
        "import sys; sys.modules['pyvoy'] = None\n"  # as if it were not installed
        "from lanewise.cli.main import main; main()"
    )
    refused = subprocess.run(
        [sys.executable, "-c", program, "serve", str(SIMULATED), "--transport", "edge"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert "pip install 'lanewise[edge]'" in refused.stderr
