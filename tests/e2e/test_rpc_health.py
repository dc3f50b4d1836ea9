from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from helpers.rpc import EchoLanes, in_event_loop, registry_of, serving, spec_of
from lanewise.model.tensors import DType
from lanewise.scheduler.registry import ModelState, ServedModel

pytestmark = pytest.mark.usefixtures("each_transport")

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


async def statuses_of(server, *services):
    stub = HealthStub(server.channel)
    return [(await stub.Check(HealthCheckRequest(service=each))).status for each in services]


def next_status(watch):
    return asyncio.wait_for(anext(watch), timeout=10)


def watching(server, service):
    watch = HealthStub(server.channel).Watch(HealthCheckRequest(service=service))
    return (response.status async for response in watch), watch


@in_event_loop
async def test_the_server_its_services_and_every_version_have_a_status():
    registry = registry_of(EchoLanes(), EchoLanes(spec_of(("X", DType.FP32, ()), version="2")))
    registry.add(ServedModel("broken", "1", ModelState.FAILED, "bad opset"))

    async with serving(registry) as server:
        before = await statuses_of(server, "", "echo", "echo/1", "echo/2", "broken", "broken/1")
        services = await statuses_of(
            server, "inference.GRPCInferenceService", "lanewise.v1.LaneService"
        )

    assert before == [NOT_SERVING, SERVING, SERVING, SERVING, NOT_SERVING, NOT_SERVING]
    assert services == [NOT_SERVING, NOT_SERVING]


@in_event_loop
async def test_a_models_own_name_stands_for_its_default_version():
    registry = registry_of(EchoLanes())
    registry.add(ServedModel("echo", "9", ModelState.DRAINING))
    registry.add(ServedModel("echo", "10", ModelState.FAILED))

    async with serving(registry) as server:
        assert await statuses_of(server, "echo", "echo/1", "echo/9", "echo/10") == [
            SERVING,
            SERVING,
            NOT_SERVING,
            NOT_SERVING,
        ]


@in_event_loop
async def test_draining_ends_serving_everywhere():
    registry = registry_of(EchoLanes())

    async with serving(registry) as server:
        before = await statuses_of(server, "", "echo", "echo/1")
        registry.drain()
        await server.publish()
        after = await statuses_of(server, "", "echo", "echo/1")

    assert before == [SERVING] * 3
    assert after == [NOT_SERVING] * 3


@in_event_loop
async def test_checking_something_unknown_is_not_found():
    async with serving(registry_of(EchoLanes())) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await statuses_of(server, "echo/2")

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@in_event_loop
async def test_watchers_are_told_of_changes_and_stay_when_something_is_unknown():
    registry = registry_of()

    async with serving(registry) as server:
        statuses, _ = watching(server, "echo")
        assert await next_status(statuses) == SERVICE_UNKNOWN
        registry.add(ServedModel("echo", "1", ModelState.READY, "", EchoLanes()))
        await server.publish()
        assert await next_status(statuses) == SERVING
        await server.publish()
        registry.drain()
        await server.publish()
        assert await next_status(statuses) == NOT_SERVING


@in_event_loop
async def test_a_watcher_is_still_told_after_another_one_left():
    registry = registry_of(EchoLanes())

    async with serving(registry) as server:
        leaving, call = watching(server, "")
        staying, _ = watching(server, "")
        assert await next_status(leaving) == SERVING
        assert await next_status(staying) == SERVING
        call.cancel()
        # A later call is answered after the server has seen the cancel.
        await statuses_of(server, "")
        registry.drain()
        await server.publish()

        assert await next_status(staying) == NOT_SERVING


@pytest.mark.in_process
@in_event_loop
async def test_closing_ends_every_watch():
    async with serving(registry_of(EchoLanes())) as server:
        open_watch, _ = watching(server, "")
        await next_status(open_watch)
        await server.health.close()
        late_watch, _ = watching(server, "")

        assert [status async for status in open_watch] == []
        assert [status async for status in late_watch] == []
