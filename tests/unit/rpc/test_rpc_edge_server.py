from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2

from helpers.rpc import in_event_loop, registry_of
from lanewise.clock import SystemClock
from lanewise.memory.regions import Regions
from lanewise.rpc.edge_server import EdgeServer
from lanewise.rpc.edge_wire import framed
from lanewise.rpc.services import build_services

WATCH = {
    "type": "http",
    "method": "POST",
    "path": "/grpc.health.v1.Health/Watch",
    "headers": [(b"content-type", b"application/grpc")],
}


@in_event_loop
async def test_a_caller_that_takes_nothing_does_not_hold_up_the_stop():
    services = build_services(
        registry_of(), SystemClock(), max_message_bytes=1024, regions=Regions()
    )
    server = EdgeServer(services)
    request = framed(health_pb2.HealthCheckRequest().SerializeToString())
    is_sending = asyncio.Event()

    async def receive():
        return {"type": "http.request", "body": request, "more_body": False}

    async def send(event):
        is_sending.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(server(WATCH, receive, send))
    await is_sending.wait()

    async with asyncio.timeout(10):
        await server.stop(0.0)

    call.cancel()
