"""Messages of one moment travel together, arrive whole and in order, or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from helpers.linked import until
from lanewise.ipc import connection as link
from lanewise.ipc.arena import Arena
from lanewise.ipc.connection import Connection, LinkRefused, shake_hands
from lanewise.ipc.messages import Cancel


class End:
    """A connection, and what it was told."""

    def __init__(self) -> None:
        self.batches: list[list[Cancel]] = []
        self.losses = 0
        self.connection = Connection(self.batches.append, self._lose)

    def _lose(self) -> None:
        self.losses += 1

    @property
    def received(self) -> list[int]:
        return [message.call for batch in self.batches for message in batch]


@asynccontextmanager
async def connected_ends():
    loop = asyncio.get_running_loop()
    ends = End(), End()
    for end, sock in zip(ends, socket.socketpair(), strict=True):
        sock.setblocking(False)
        await loop.create_connection(lambda end=end: end.connection, sock=sock)
    try:
        yield ends
    finally:
        for end in ends:
            end.connection.close()
        await until(lambda: all(end.losses for end in ends))


def test_messages_of_one_turn_travel_as_one():
    async def scenario():
        async with connected_ends() as (here, there):
            for call in range(3):
                here.connection.send(Cancel(call))
            await until(lambda: bool(there.batches))
            here.connection.send(Cancel(3))
            await until(lambda: len(there.batches) == 2)
        assert there.batches == [[Cancel(0), Cancel(1), Cancel(2)], [Cancel(3)]]

    asyncio.run(scenario())


def test_messages_in_no_hurry_go_with_the_next_that_is():
    async def scenario():
        async with connected_ends() as (here, there):
            here.connection.send_later(Cancel(0))
            here.connection.send(Cancel(1))
            await until(lambda: bool(there.batches))
        assert there.batches == [[Cancel(0), Cancel(1)]]

    asyncio.run(scenario())


def test_messages_in_no_hurry_go_by_themselves_if_no_other_does():
    async def scenario():
        async with connected_ends() as (here, there):
            here.connection.send_later(Cancel(0))
            here.connection.send_later(Cancel(1))
            await until(lambda: bool(there.batches))
        assert there.batches == [[Cancel(0), Cancel(1)]]

    asyncio.run(scenario())


def test_closing_sends_what_there_is_to_send():
    async def scenario():
        async with connected_ends() as (here, there):
            here.connection.send_later(Cancel(0))
            here.connection.close()
            await until(lambda: there.losses == 1)
        assert there.received == [0]

    asyncio.run(scenario())


@pytest.mark.parametrize("piece", [1, 2, 7, 8, 9, 50, 10_000])
def test_messages_may_be_cut_anywhere_on_the_way(piece):
    async def scenario():
        written = bytearray()

        class Recorder(asyncio.WriteTransport):
            def write(self, data):
                written.extend(data)

            def close(self):
                pass

        here, there = End(), End()
        here.connection.connection_made(Recorder())
        for call in range(5):
            here.connection.send(Cancel(call))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for start in range(0, len(written), piece):
            there.connection.data_received(bytes(written[start : start + piece]))
        assert there.batches == [[Cancel(call)] for call in range(5)]

    asyncio.run(scenario())


def test_a_message_larger_than_the_sockets_buffers_arrives():
    async def scenario():
        async with connected_ends() as (here, there):
            here.connection.send(Cancel("x" * (8 << 20)))
            here.connection.send(Cancel(1))
            await until(lambda: bool(there.batches))
        assert [len(str(call)) for call in there.received] == [8 << 20, 1]

    asyncio.run(scenario())


def test_sending_has_no_effect_once_the_link_is_lost():
    async def scenario():
        async with connected_ends() as (here, there):
            there.connection.close()
            await until(lambda: here.losses == 1)
            here.connection.send(Cancel(0))
            here.connection.send_later(Cancel(1))
            here.connection.close()
        assert there.received == []
        assert (here.losses, there.losses) == (1, 1)

    asyncio.run(scenario())


def test_a_message_that_cannot_be_written_ends_the_link():
    async def scenario():
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
        async with connected_ends() as (here, there):
            here.connection.send(Cancel(lambda: "not to be pickled"))
            await until(lambda: here.losses == there.losses == 1)
        assert len(failures) == 1

    asyncio.run(scenario())


def test_a_batch_that_cannot_be_understood_ends_the_link():
    async def scenario():
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
        async with connected_ends() as (here, there):
            here.connection._transport.write(struct.pack("<Q", 4) + b"what")
            await until(lambda: here.losses == there.losses == 1)
        assert len(failures) == 1

    asyncio.run(scenario())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def small_arenas():
    """As many as a test wants; it counts their files before and after."""
    before = open_files()
    yield lambda: Arena(1 << 20)
    assert open_files() == before


def test_both_ends_read_what_the_other_writes(small_arenas):
    async def scenario():
        arenas, sockets = (small_arenas(), small_arenas()), socket.socketpair()
        memories = await asyncio.gather(*map(shake_hands, sockets, arenas))
        for arena, memory in zip(arenas, reversed(memories), strict=True):
            arena.memory[:5] = b"hello"
            assert bytes(memory[:5]) == b"hello"
        for sock in sockets:
            assert not sock.getblocking()
            sock.close()

    asyncio.run(scenario())


def test_a_peer_that_says_nothing_is_refused(small_arenas, monkeypatch):
    monkeypatch.setattr(link, "HANDSHAKE_S", 0.01)

    async def scenario():
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(LinkRefused, match="does not answer"):
            await shake_hands(ours, small_arenas())

    asyncio.run(scenario())


def test_a_peer_that_has_gone_is_refused(small_arenas):
    async def scenario():
        ours, theirs = socket.socketpair()
        theirs.close()
        with pytest.raises(LinkRefused, match="does not answer"):
            await shake_hands(ours, small_arenas())

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("greeting", "files"), [(b"lanewise", 0), (b"lanewis", 1), (b"GET / HT", 0), (b"GET / HT", 1)]
)
def test_a_peer_with_another_greeting_is_refused(small_arenas, greeting, files):
    null = os.open(os.devnull, os.O_RDONLY)

    async def scenario():
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(theirs, [greeting], [null] * files)
            with pytest.raises(LinkRefused, match="not a process of this server"):
                await shake_hands(ours, small_arenas())

    asyncio.run(scenario())
    os.close(null)


def test_a_peer_of_another_user_is_refused(small_arenas, monkeypatch):
    async def scenario():
        ours, theirs = socket.socketpair()
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with theirs, pytest.raises(LinkRefused, match="the other end belongs to user"):
            await shake_hands(ours, small_arenas())
        with pytest.raises(LinkRefused, match="does not answer"):  # it was told nothing
            monkeypatch.undo()
            await shake_hands(theirs, small_arenas())

    asyncio.run(scenario())


def test_a_handshake_that_is_cancelled_closes_the_socket(small_arenas):
    async def scenario():
        ours, theirs = socket.socketpair()
        with theirs:
            shaking = asyncio.create_task(shake_hands(ours, small_arenas()))
            await asyncio.to_thread(theirs.recv, 1)  # it has greeted, and waits
            shaking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await shaking
            assert ours.fileno() < 0

    asyncio.run(scenario())
