"""Tensors come out of a link bit for bit as they went in, and their memory comes back."""

from __future__ import annotations

import asyncio
import gc
import threading

import numpy as np
import pytest

from helpers.linked import until
from helpers.models import contents, random_array
from lanewise.errors import Overloaded
from lanewise.ipc.arena import Arena
from lanewise.ipc.tensors import INLINE_BYTES, TensorReader, TensorWriter, on_loop
from lanewise.model.tensors import DType

SMALL, LARGE = (3, 5), (300, 50)


class Ends:
    """A writer and a reader of one arena; `unused` are the blocks that were told free."""

    def __init__(self, nbytes: int = 64 << 20) -> None:
        self.arena = Arena(nbytes)
        self.arena.close_fd()
        self.unused: list[int] = []
        self.writer = TensorWriter(self.arena)
        self.reader = TensorReader(self.arena.memory.toreadonly(), self.unused.append)

    def send(self, *arrays, dtypes=None):
        packed = self.writer.pack(arrays)
        given = dtypes or [DType.FP32] * len(arrays)
        return packed, self.reader.read(packed, given)


@pytest.mark.parametrize("shape", [SMALL, LARGE, (), (0, 4), (1,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.value)
def test_a_tensor_arrives_as_it_was(dtype, shape):
    sent = random_array(dtype, shape)
    _, (received,) = Ends().send(sent, dtypes=[dtype])
    assert contents(received) == contents(sent)
    assert received.dtype == sent.dtype


@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.value)
def test_tensors_of_all_kinds_travel_together(dtype):
    sent = [
        random_array(DType.FP32, LARGE),
        random_array(dtype, (0, 2)),
        random_array(dtype, ()),
        random_array(DType.BYTES, SMALL),
        random_array(dtype, LARGE, seed=1),
    ]
    dtypes = [DType.FP32, dtype, dtype, DType.BYTES, dtype]
    packed, received = Ends().send(*sent, dtypes=dtypes)
    assert packed.block >= 0
    assert list(map(contents, received)) == list(map(contents, sent))


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["inline", "block"])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::2, 1:],
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[0], x.shape),
        np.asfortranarray,
    ],
    ids=["transposed", "strided", "reversed", "broadcast", "columns"],
)
def test_the_layout_of_an_array_does_not_matter(view, shape):
    sent = view(random_array(DType.FP32, shape))
    _, (received,) = Ends().send(sent)
    assert contents(received) == contents(sent)


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["inline", "block"])
def test_what_is_received_cannot_be_written(shape):
    _, (received,) = Ends().send(random_array(DType.FP32, shape))
    with pytest.raises(ValueError, match="read-only"):
        received[:] = 0


def test_small_tensors_take_no_block():
    ends = Ends()
    half = np.zeros(INLINE_BYTES // 2, np.uint8)
    assert ends.writer.pack([half, half]).block < 0
    assert ends.writer.pack([half, half, half[:1]]).block >= 0
    assert ends.arena.blocks == 1


def test_a_block_is_free_once_when_the_last_view_is_gone():
    ends = Ends()
    packed, received = ends.send(*[random_array(DType.FP32, LARGE)] * 3)
    part = received[1][10:20].T
    del received
    gc.collect()
    assert ends.unused == []
    del part
    assert ends.unused == [packed.block]
    gc.collect()
    assert ends.unused == [packed.block]


def test_a_tensor_that_is_discarded_frees_its_block_once():
    ends = Ends()
    packed = ends.writer.pack([random_array(DType.FP32, LARGE)])
    ends.reader.discard(packed)
    assert ends.unused == [packed.block]
    ends.reader.discard(ends.writer.pack([random_array(DType.FP32, SMALL)]))
    assert ends.unused == [packed.block]


def test_a_block_that_is_used_again_is_told_free_again():
    ends = Ends()
    for _ in range(3):
        packed, received = ends.send(random_array(DType.FP32, LARGE))
        del received
        ends.writer.free(ends.unused.pop())
        assert ends.unused == []
    assert packed.block == ends.writer.pack([random_array(DType.FP32, LARGE)]).block


def test_views_outlive_a_reader_that_is_closed():
    ends = Ends()
    sent = random_array(DType.FP32, LARGE)
    packed, (received,) = ends.send(sent)
    ends.reader.close()
    assert contents(received) == contents(sent)
    del received
    assert ends.unused == [packed.block]


def test_tensors_that_find_no_room_leave_nothing_behind():
    ends = Ends(nbytes=1 << 20)
    with pytest.raises(Overloaded):
        ends.writer.pack([np.zeros(2 << 20, np.uint8)])
    assert ends.arena.blocks == 0


def test_a_view_that_dies_on_another_thread_is_told_on_the_loop():
    async def scenario():
        ends = Ends()
        threads = []

        def tell(block: int) -> None:
            threads.append(threading.current_thread())
            ends.unused.append(block)

        ends.reader = TensorReader(ends.arena.memory.toreadonly(), on_loop(tell))
        packed, received = ends.send(random_array(DType.FP32, LARGE))

        await asyncio.to_thread(received.clear)
        await until(lambda: bool(ends.unused))

        assert ends.unused == [packed.block]
        assert threads == [threading.main_thread()]

    asyncio.run(scenario())


def test_a_view_may_die_after_the_loop_has_ended():
    ends = Ends()

    async def read():
        ends.reader = TensorReader(ends.arena.memory.toreadonly(), on_loop(ends.unused.append))
        return ends.send(random_array(DType.FP32, LARGE))

    _, received = asyncio.run(read())
    del received
    assert ends.unused == []
