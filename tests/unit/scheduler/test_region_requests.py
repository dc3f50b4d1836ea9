"""Requests whose tensors lie in shared memory: real regions, runners that a test holds."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from helpers.gated import gated_model
from helpers.rpc import in_event_loop
from helpers.segments import segment, times_held
from helpers.sim import mission_model
from lanewise.clock import NS_PER_S, SystemClock
from lanewise.errors import Draining, InvalidRegion, NoProfileAdmits, RegionNotFound
from lanewise.memory.regions import Regions
from lanewise.model.regions import RegionKind, RegionSlice, RegionTensor, SystemRegion
from lanewise.model.tensors import DeviceArray, DType
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.region_tensors import OFF_LOOP_BYTES
from lanewise.scheduler.request import RequestOptions

LONG_NS = 60 * NS_PER_S
ROWS = 4
NBYTES = 4 * ROWS
X = RegionTensor(RegionSlice("r", 0, NBYTES), DType.FP32, (ROWS,))
Y = RegionSlice("r", NBYTES, NBYTES)
VALUES = np.arange(1, 1 + ROWS, dtype=np.float32)


@asynccontextmanager
async def dispatching(contents):
    loaded, runners = gated_model(mission_model())
    dispatcher = Dispatcher(
        loaded, SystemClock(), max_queue_requests=100, costs=CostTable(), regions=contents
    )
    await dispatcher.warm_up()
    try:
        yield dispatcher, runners
    finally:
        for runner in runners.values():
            runner.release(1000)
        await dispatcher.drain(LONG_NS)
        await dispatcher.close()
    assert dispatcher.open_requests == 0


@asynccontextmanager
async def registered():
    regions = Regions()
    with segment(VALUES.tobytes() + bytes(NBYTES)) as found:
        await regions.register(SystemRegion("r", found.key, 0, 2 * NBYTES))
        yield regions, found


async def started(runners) -> str:
    """The name of the profile whose runner has begun a batch."""
    while True:
        for name, runner in runners.items():
            if not runner.started.empty():
                runner.started.get()
                return name
        await asyncio.sleep(0)


@in_event_loop
async def test_inputs_are_read_and_outputs_written_where_they_lie():
    async with registered() as (regions, found), dispatching(regions) as (dispatcher, runners):
        request = asyncio.create_task(
            dispatcher.submit({"X": X}, RequestOptions(placements={"Y": Y}))
        )
        runners[await started(runners)].release()
        result = await request
        assert found.read() == 2 * VALUES.tobytes()

    assert result.placed == {"Y": RegionTensor(Y, DType.FP32, (ROWS,))}
    assert "Y" not in result.outputs


@in_event_loop
async def test_a_region_that_is_unregistered_serves_the_launch_that_uses_it():
    async with registered() as (regions, found), dispatching(regions) as (dispatcher, runners):
        request = asyncio.create_task(
            dispatcher.submit({"X": X}, RequestOptions(placements={"Y": Y}))
        )
        lane = await started(runners)
        await regions.unregister(RegionKind.SYSTEM)
        assert times_held(found.path) == 1
        runners[lane].release()
        await request
        assert found.read()[NBYTES:] == VALUES.tobytes()
        del request
        assert times_held(found.path) == 0
        with pytest.raises(RegionNotFound):
            await dispatcher.submit({"X": X})


@in_event_loop
async def test_what_the_client_changes_later_does_not_reach_the_launch():
    async with registered() as (regions, found), dispatching(regions) as (dispatcher, runners):
        request = asyncio.create_task(dispatcher.submit({"X": X}))
        lane = await started(runners)
        found.write(bytes(NBYTES))
        found.truncate(0)
        runners[lane].release()
        assert (await request).outputs["Y"].tolist() == VALUES.tolist()


@in_event_loop
async def test_a_segment_cut_off_during_the_launch_fails_the_request_whose_output_it_was():
    async with registered() as (regions, found), dispatching(regions) as (dispatcher, runners):
        request = asyncio.create_task(
            dispatcher.submit({"X": X}, RequestOptions(placements={"Y": Y}))
        )
        lane = await started(runners)
        found.truncate(NBYTES)
        runners[lane].release()
        with pytest.raises(InvalidRegion, match="the segment has 16 bytes"):
            await request


@in_event_loop
async def test_cancelling_frees_the_place_of_a_request_that_runs():
    async with registered() as (regions, _), dispatching(regions) as (dispatcher, runners):
        request = asyncio.create_task(
            dispatcher.submit({"X": X}, RequestOptions(placements={"Y": Y}))
        )
        await started(runners)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert dispatcher.open_requests == 0


class Watched:
    """Contents that note who reads and writes; both wait until `go_on` is set."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.began = threading.Event()
        self.go_on = threading.Event()

    def read(self, tensor):
        self._wait()
        return np.zeros(tensor.shape, tensor.dtype.numpy)

    def read_by_device(self, tensor):
        raise AssertionError("no input of this model is for the device alone")

    def place(self, where):
        return self

    def write(self, array, dtype):
        self._wait()
        return RegionTensor(RegionSlice("r", 0, array.nbytes), dtype, array.shape)

    def _wait(self):
        self.threads.append(threading.get_ident())
        self.began.set()
        assert self.go_on.wait(30)


LARGE = RegionTensor(RegionSlice("r", 0, OFF_LOOP_BYTES), DType.FP32, (ROWS,))


@in_event_loop
async def test_nothing_is_read_of_a_request_that_no_profile_admits():
    contents = Watched()
    async with dispatching(contents) as (dispatcher, _):
        with pytest.raises(NoProfileAdmits):
            await dispatcher.submit({"X": RegionTensor(RegionSlice("r", 0, 0), DType.FP32, (0,))})
    assert contents.threads == []


@in_event_loop
async def test_large_copies_do_not_hold_up_the_event_loop():
    contents = Watched()
    async with dispatching(contents) as (dispatcher, runners):
        request = asyncio.create_task(dispatcher.submit({"X": LARGE}))
        await asyncio.to_thread(contents.began.wait, 30)
        contents.go_on.set()
        await started(runners)
        request.cancel()
    assert threading.get_ident() not in contents.threads


@in_event_loop
async def test_cancelling_a_request_that_is_read_ends_it_at_once():
    contents = Watched()
    async with dispatching(contents) as (dispatcher, runners):
        request = asyncio.create_task(dispatcher.submit({"X": LARGE}))
        await asyncio.to_thread(contents.began.wait, 30)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        contents.go_on.set()
    assert all(not runner.batches for runner in runners.values())


@in_event_loop
async def test_a_request_that_is_read_while_the_server_drains_is_refused():
    contents = Watched()
    async with dispatching(contents) as (dispatcher, _):
        request = asyncio.create_task(dispatcher.submit({"X": LARGE}))
        await asyncio.to_thread(contents.began.wait, 30)
        draining = asyncio.create_task(dispatcher.drain(LONG_NS))
        await asyncio.sleep(0)
        contents.go_on.set()
        with pytest.raises(Draining):
            await request
        await draining


def test_a_part_of_a_device_array_begins_at_its_rows():
    whole = DeviceArray(1000, np.dtype("<f4"), (8, 3), owner=None)
    part = whole[2:5]
    assert (part.address, part.shape, part.nbytes) == (1024, (3, 3), 36)
    assert whole[6:20].shape == (2, 3)
    assert whole[20:30].nbytes == 0
