"""One end of a link: messages over a Unix socket, those of one moment together."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
from collections.abc import Callable
from typing import cast

from lanewise.ipc.arena import Arena, map_to_read
from lanewise.ipc.messages import Message

LATER_S = 0.01
"""How long a message that is in no hurry waits for others to go with."""

HANDSHAKE_S = 5.0

_LENGTH = struct.Struct("<Q")
_GREETING = b"lanewise"


class LinkRefused(Exception):
    """The other end is not of this user, or does not answer."""


class Connection(asyncio.Protocol):
    """Sends and receives messages. Used on one event loop.

    The messages of one turn of the loop travel as one, so that the price of a system call, and
    of waking the other process, is paid once for all of them. They are pickled: both ends
    are processes of one user and one version of this server.

    Args:
        when_received: given the messages of one batch, in order.
        when_lost: called once, at the end.
    """

    def __init__(
        self, when_received: Callable[[list[Message]], None], when_lost: Callable[[], None]
    ) -> None:
        self._when_received = when_received
        self._when_lost = when_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._outgoing: list[Message] = []
        self._flushing: asyncio.Handle | None = None
        self._is_urgent = False
        self._incoming = bytearray()

    def send(self, message: Message) -> None:
        """Send a message at the end of this turn of the loop; no effect once the link is lost."""
        self._outgoing.append(message)
        if not self._is_urgent:
            self._is_urgent = True
            if self._flushing is not None:
                self._flushing.cancel()
            self._flushing = self._loop.call_soon(self._flush)

    def send_later(self, message: Message) -> None:
        """Send a message with the next that is sent, or soon."""
        self._outgoing.append(message)
        if self._flushing is None:
            self._flushing = self._loop.call_later(LATER_S, self._flush)

    def close(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: those of uvloop do not say what they are.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        start = 0
        with memoryview(self._incoming) as incoming:
            while len(incoming) >= start + _LENGTH.size:
                (length,) = _LENGTH.unpack_from(incoming, start)
                end = start + _LENGTH.size + length
                if len(incoming) < end:
                    break
                with incoming[start + _LENGTH.size : end] as batch:
                    messages = pickle.loads(batch)
                start = end
                self._when_received(messages)
        del self._incoming[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._when_lost()

    def _flush(self) -> None:
        self._flushing = None
        self._is_urgent = False
        messages, self._outgoing = self._outgoing, []
        if messages and self._transport is not None:
            try:
                batch = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
            except BaseException:  # what waits for them would wait forever
                self._transport.abort()
                raise
            self._transport.write(_LENGTH.pack(len(batch)) + batch)


async def shake_hands(connected: socket.socket, arena: Arena) -> memoryview:
    """Swap arenas with the process at the other end; takes up to HANDSHAKE_S.

    Args:
        connected: a Unix socket; closed if this fails.
        arena: the one that this end writes; its file is closed.

    Returns:
        The memory of the other end, to read.

    Raises:
        LinkRefused: the other end is not of this user, or no end of a link.
    """
    try:
        _require_same_user(connected)
        connected.setblocking(False)
        socket.send_fds(connected, [_GREETING], [arena.fd])
        async with asyncio.timeout(HANDSHAKE_S):
            await _until_readable(connected)
        greeting, fds, _, _ = socket.recv_fds(connected, len(_GREETING), 1)
        if greeting != _GREETING or len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise LinkRefused("the other end is not a process of this server")
        return map_to_read(fds[0])
    except OSError as error:
        connected.close()
        raise LinkRefused(f"the other end does not answer: {error}") from error
    except BaseException:
        connected.close()
        raise
    finally:
        arena.close_fd()


async def _until_readable(connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connected, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connected)


def _require_same_user(connected: socket.socket) -> None:
    """Refuse other users: a name in the abstract namespace is everybody's to connect to."""
    credentials = struct.Struct("3i")
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    _, uid, _ = credentials.unpack(data)
    if uid != os.getuid():
        raise LinkRefused(f"the other end belongs to user {uid}")
