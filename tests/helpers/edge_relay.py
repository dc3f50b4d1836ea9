"""An ASGI application that passes every call on to a test's own process, event by event.

Envoy runs it. What the tests talk to is thus Envoy and pyvoy, while what answers, with all it
is made of, is within their reach.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import struct

from lanewise.rpc.edge.process import EDGE_MAIN

# pyvoy keeps no reference to its tasks, and asyncio's streams none to their reader.
_running = set()

_LENGTH = struct.Struct("!Q")

TOLD = ("type", "method", "path", "headers", "client")
"""Of the scope of a call."""


async def read_object(reader):
    """Read what `write_object` wrote; None if the other side has hung up."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def write_object(writer, thing):
    data = pickle.dumps(thing)
    writer.write(_LENGTH.pack(len(data)) + data)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
    else:
        task = asyncio.current_task()
        _running.add(task)
        await _relay(scope, receive, send)
        _running.discard(task)


async def _relay(scope, receive, send):
    """Do what the test's process asks for, several things at a time, until it hangs up."""
    _, socket_path = json.loads(os.environ[EDGE_MAIN])
    reader, writer = await asyncio.open_unix_connection(socket_path)
    write_object(writer, {key: scope[key] for key in TOLD})

    async def do(number, event):
        try:
            result = await (receive() if event is None else send(event))
        except OSError:
            result = OSError("the caller has gone")
        write_object(writer, (number, result))

    doing = []
    while (asked := await read_object(reader)) is not None:
        doing.append(asyncio.create_task(do(*asked)))
    for task in doing:
        task.cancel()
    writer.close()
