"""What a front end refuses by itself of the calls that the engine answers."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from helpers.linked import linked, until
from helpers.rpc import EchoLanes, registry_of
from lanewise.clock import SystemClock
from lanewise.rpc.services import build_services
from lanewise_client.protos import inference_pb2, lanes_pb2

LANE_CALLS = {
    "ListLanes": lanes_pb2.ListLanesRequest,
    "ListCosts": lanes_pb2.ListCostsRequest,
    "ExplainRoute": lanes_pb2.ExplainRouteRequest,
}


class LocalCall:
    """A call over loopback."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50123"


async def ask(front_end, name, request):
    services = build_services(
        front_end.registry, SystemClock(), max_message_bytes=1 << 20, engine=front_end.link.ask
    )
    (method,) = (each for each in services.methods if each.path.endswith(f"/{name}"))
    return await method.answer(request.SerializeToString(), LocalCall())


def without_engine(name, request):
    async def scenario():
        async with linked(registry_of(EchoLanes())) as (front_end, engine):
            await engine.die()
            await until(lambda: not front_end.registry.is_ready)
            return await ask(front_end, name, request)

    return asyncio.run(scenario())


@pytest.mark.parametrize("name", LANE_CALLS)
def test_the_lanes_of_a_model_are_loading_while_there_is_no_engine(name):
    status = without_engine(name, LANE_CALLS[name](name="echo"))

    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "ModelLoading")
    assert "model 'echo' version 1 is being loaded; try again" in status.text


@pytest.mark.parametrize("name", LANE_CALLS)
@pytest.mark.parametrize(("model", "version"), [("none", ""), ("echo", "7"), ("", "")])
def test_no_model_is_not_found_while_there_is_no_engine(name, model, version):
    status = without_engine(name, LANE_CALLS[name](name=model, version=version))

    assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "ModelNotFound")


def test_regions_are_the_engines_alone():
    status = without_engine(
        "SystemSharedMemoryStatus", inference_pb2.SystemSharedMemoryStatusRequest()
    )

    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "EngineLost")


@pytest.mark.parametrize("name", ["ListLanes", "ListCosts"])
def test_with_an_engine_it_answers(name):
    async def scenario():
        async with linked(registry_of(EchoLanes())) as (front_end, _):
            return await ask(front_end, name, LANE_CALLS[name](name="echo"))

    assert isinstance(asyncio.run(scenario()), bytes)
