from __future__ import annotations

import asyncio
import gc

from grpc_health.v1 import health_pb2

from helpers.rpc import in_event_loop, registry_of
from lanewise.clock import SystemClock
from lanewise.memory.regions import Regions
from lanewise.rpc.edge.call import EdgeCall
from lanewise.rpc.edge.server import EdgeServer
from lanewise.rpc.edge.wire import framed
from lanewise.rpc.engine_calls import engine_calls
from lanewise.rpc.services import build_services

WATCH = {
    "type": "http",
    "method": "POST",
    "path": "/grpc.health.v1.Health/Watch",
    "headers": [(b"content-type", b"application/grpc")],
}


@in_event_loop
async def test_a_caller_that_takes_nothing_does_not_hold_up_the_stop():
    registry = registry_of()
    engine = engine_calls(registry, Regions())
    services = build_services(registry, SystemClock(), max_message_bytes=1024, engine=engine)
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


@in_event_loop
async def test_what_pyvoy_waits_with_is_left_alone_when_a_call_is_cut_short():
    loop = asyncio.get_running_loop()
    logged = []
    loop.set_exception_handler(lambda _, context: logged.append(context))
    waited = [loop.create_future()]
    is_sending = asyncio.Event()

    def send(event):
        is_sending.set()
        return waited[0]

    async def answer():
        await EdgeCall(None, send, 1024, "").write(b"")

    answering = asyncio.create_task(answer())
    await is_sending.wait()
    answering.cancel()
    await asyncio.wait([answering])
    loop.call_soon(waited[0].set_exception, OSError("the caller has gone"))
    await asyncio.wait(waited)
    waited.clear()
    del answering
    gc.collect()
    await asyncio.sleep(0)

    assert logged == []
