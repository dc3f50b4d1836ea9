"""Registered shared memory: only what is inside is read or written, and whatever becomes of it."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.rpc import in_event_loop
from helpers.segments import FOLDER, segment, times_held
from lanewise.errors import (
    InvalidRegion,
    MalformedContents,
    Overloaded,
    RegionExists,
    RegionNotFound,
    ServingError,
    Unsupported,
)
from lanewise.memory.host_region import DIRECT_BYTES, RESERVED_PREFIX, HostRegion
from lanewise.memory.regions import MAX_REGIONS, Regions
from lanewise.model.regions import CudaRegion, RegionKind, RegionSlice, RegionTensor, SystemRegion
from lanewise.model.tensors import DType

SYSTEM, CUDA = RegionKind.SYSTEM, RegionKind.CUDA

SIZES = st.integers(-3, 40) | st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])


def octets(offset: int, byte_size: int, name: str = "r") -> RegionTensor:
    return RegionTensor(RegionSlice(name, offset, byte_size), DType.UINT8, (byte_size,))


def registered(*regions: SystemRegion, **options) -> Regions:
    made = Regions(**options)
    for region in regions:
        asyncio.run(made.register(region))
    return made


@pytest.fixture
def counted():
    """A segment of the bytes 0 to 31, and the region of its bytes 8 to 27."""
    with segment(bytes(range(32))) as found:
        yield found, SystemRegion("r", found.key, 8, 20)


@given(offset=SIZES, byte_size=SIZES)
def test_a_slice_gives_its_own_bytes_or_is_refused(counted_regions, offset, byte_size):
    tensor = octets(offset, byte_size)
    if offset >= 0 and byte_size >= 0 and offset + byte_size <= 20:
        expected = bytes(range(8, 28))[offset : offset + byte_size]
        assert counted_regions.read(tensor).tobytes() == expected
    else:
        with pytest.raises(InvalidRegion, match="not inside the region, which has 20"):
            counted_regions.read(tensor)
        with pytest.raises(InvalidRegion, match="not inside the region, which has 20"):
            counted_regions.place(tensor.where)


@pytest.fixture(scope="module")
def counted_regions():
    with segment(bytes(range(32))) as found:
        yield registered(SystemRegion("r", found.key, 8, 20))


@settings(deadline=None)
@given(offset=SIZES.filter(lambda n: n >= 0), byte_size=SIZES.filter(lambda n: n >= 0))
def test_a_region_is_inside_its_segment_or_is_refused(whole, offset, byte_size):
    region = SystemRegion("r", whole.key, offset, byte_size)
    if byte_size and offset + byte_size <= 32:
        registered(region)
    else:
        with pytest.raises(InvalidRegion):
            registered(region)


@pytest.fixture(scope="module")
def whole():
    with segment(32) as found:
        yield found


@pytest.mark.parametrize(
    "key",
    ["", "/", "//x", "/a/b", "a/b", "..", "/..", ".", "/../etc/passwd", "/x\0y", "/" + 256 * "x"],
)
def test_a_key_is_one_name(key):
    with pytest.raises(InvalidRegion, match="not the key of a segment"):
        registered(SystemRegion("r", key, 0, 1))


def test_a_key_may_leave_out_its_slash(counted):
    found, _ = counted
    regions = registered(SystemRegion("r", found.key[1:], 0, 4))
    assert regions.read(octets(0, 4)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/hosts")])
def test_what_is_no_segment_is_not_opened(make):
    path = FOLDER / f"lanewise_test_{secrets.token_hex(6)}"
    make(path)
    try:
        with pytest.raises(InvalidRegion):
            registered(SystemRegion("r", f"/{path.name}", 0, 1))
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert times_held(path) == 0


def test_the_servers_own_segments_are_not_for_clients():
    with pytest.raises(InvalidRegion, match="belong to the server"):
        registered(SystemRegion("r", f"/{RESERVED_PREFIX}1", 0, 1))


def test_a_segment_must_be_there():
    with pytest.raises(InvalidRegion, match="no such segment on the server's host"):
        registered(SystemRegion("r", "/lanewise_test_of_nothing", 0, 1))


def test_a_name_is_taken_once(counted):
    found, region = counted
    regions = registered(region)
    with pytest.raises(RegionExists, match="shared memory 'r' is registered already"):
        asyncio.run(regions.register(SystemRegion("r", found.key, 0, 1)))
    assert asyncio.run(regions.describe(SYSTEM)) == (region,)


def test_of_two_registering_at_once_one_gets_the_name(counted):
    async def both() -> list[BaseException | None]:
        calls = [regions.register(region) for _ in range(2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    regions, (_, region) = Regions(), counted
    ends = asyncio.run(both())
    assert sorted(type(end) for end in ends if end is not None) == [RegionExists]


def test_so_many_regions_and_no_more(counted):
    _, region = counted
    memory = HostRegion(region)
    regions = Regions(open_region=lambda region: memory)
    for number in range(MAX_REGIONS):
        asyncio.run(regions.register(replace(region, name=str(number))))
    with pytest.raises(Overloaded, match="unregister some"):
        asyncio.run(regions.register(region))


@in_event_loop
async def test_unregistering_takes_one_or_all_of_a_kind_and_an_unknown_one_is_no_error():
    with segment(4) as found:
        regions = Regions()
        for name in "abc":
            await regions.register(SystemRegion(name, found.key, 0, 4))

        await regions.unregister(CUDA)
        await regions.unregister(CUDA, "a")
        await regions.unregister(SYSTEM, "nothing")
        assert [region.name for region in await regions.describe(SYSTEM)] == ["a", "b", "c"]
        await regions.unregister(SYSTEM, "b")
        assert [region.name for region in await regions.describe(SYSTEM)] == ["a", "c"]
        with pytest.raises(RegionNotFound, match="under 'b'"):
            await regions.describe(SYSTEM, "b")
        await regions.unregister(SYSTEM)
        assert await regions.describe(SYSTEM) == ()


def test_a_region_that_is_not_registered_is_not_found():
    with pytest.raises(RegionNotFound, match="under 'r'; register it first"):
        Regions().read(octets(0, 1))


def test_nothing_of_a_region_is_held_once_it_is_unregistered(counted):
    found, region = counted
    regions = registered(region)
    regions.read(octets(0, 20))
    assert times_held(found.path) == 1
    asyncio.run(regions.unregister(SYSTEM))
    assert times_held(found.path) == 0


def test_a_refused_region_leaves_nothing_open(counted):
    found, _ = counted
    with pytest.raises(InvalidRegion):
        registered(SystemRegion("r", found.key, 0, 33))
    gc.collect()  # the exception holds its frames until here
    assert times_held(found.path) == 0


def test_a_region_that_is_read_stays_until_that_is_over():
    class Slow:
        def read(self, offset, out):
            reading.set()
            assert go_on.wait(30)
            out[:] = 7

    reading, go_on = threading.Event(), threading.Event()
    regions = registered(SystemRegion("r", "/any", 0, 4), open_region=lambda region: Slow())
    memory = weakref.ref(regions._regions["r"][1])
    got: list[np.ndarray] = []
    reader = threading.Thread(target=lambda: got.append(regions.read(octets(0, 4))))
    reader.start()
    assert reading.wait(30)

    asyncio.run(regions.unregister(SYSTEM))
    assert memory() is not None
    go_on.set()
    reader.join()
    assert got[0].tolist() == [7, 7, 7, 7]
    assert memory() is None


def test_a_place_for_an_output_outlives_its_registration(counted):
    found, region = counted
    regions = registered(region)
    place = regions.place(RegionSlice("r", 2, 6))
    asyncio.run(regions.unregister(SYSTEM))

    placed = place.write(np.array([258, 772], "<u2"), DType.UINT16)

    assert placed == RegionTensor(RegionSlice("r", 2, 4), DType.UINT16, (2,))
    assert found.read()[8:16] == bytes([8, 9, 2, 1, 4, 3, 14, 15])
    del place
    assert times_held(found.path) == 0


def test_an_output_larger_than_its_place_is_not_written(counted):
    found, region = counted
    place = registered(region).place(RegionSlice("r", 0, 3))
    with pytest.raises(InvalidRegion, match="takes 4 bytes, but the request has room for 3"):
        place.write(np.zeros(1, np.float32), DType.FP32)
    assert found.read() == bytes(range(32))


def test_strings_lie_with_their_lengths(counted):
    found, region = counted
    regions = registered(region)
    words = np.array([b"lane", b""], object)
    placed = regions.place(RegionSlice("r", 0, 20)).write(words, DType.BYTES)
    assert placed.where.byte_size == 12
    assert regions.read(placed).tolist() == [b"lane", b""]
    found.write(b"\xff\xff\xff\xff", offset=8)
    with pytest.raises(MalformedContents, match="claims 4294967295 bytes"):
        regions.read(placed)


def test_a_segment_that_was_removed_fails_what_uses_it(counted):
    found, region = counted
    regions = registered(region)
    place = regions.place(RegionSlice("r", 0, 4))
    found.path.unlink()
    found.path.write_bytes(bytes(32))  # another one under the same key does not count
    with pytest.raises(InvalidRegion, match="the segment was removed"):
        regions.read(octets(0, 4))
    with pytest.raises(InvalidRegion, match="the segment was removed"):
        place.write(np.zeros(4, np.uint8), DType.UINT8)


def test_a_segment_that_was_cut_off_fails_what_uses_the_missing_part(counted):
    found, region = counted
    regions = registered(region)
    place = regions.place(RegionSlice("r", 0, 4))
    found.truncate(10)
    assert regions.read(octets(0, 2)).tolist() == [8, 9]
    with pytest.raises(InvalidRegion, match="the segment has 10 bytes"):
        regions.read(octets(0, 3))
    with pytest.raises(InvalidRegion, match="the segment has 10 bytes"):
        place.write(np.zeros(4, np.uint8), DType.UINT8)


def test_a_segment_that_is_cut_off_while_it_is_read_fails_the_reader_alone():
    nbytes = 8 << 20
    with segment(nbytes) as found:
        regions = registered(SystemRegion("r", found.key, 0, nbytes))
        ends: list[ServingError | None] = []
        is_over = threading.Event()

        def cut_and_mend():
            while not is_over.is_set():
                found.truncate(nbytes // 2)
                found.truncate(nbytes)

        cutter = threading.Thread(target=cut_and_mend)
        cutter.start()
        try:
            for _ in range(100):
                try:
                    assert regions.read(octets(0, nbytes)).nbytes == nbytes
                    ends.append(None)
                except InvalidRegion as error:
                    ends.append(error)
        finally:
            is_over.set()
            cutter.join()
    assert len(ends) == 100
    assert any(ends), "no read met a segment that was cut off"


def test_small_tensors_are_read_and_not_left_to_the_device():
    with segment(DIRECT_BYTES) as found:
        regions = registered(SystemRegion("r", found.key, 0, DIRECT_BYTES))
        assert regions.read_by_device(octets(0, DIRECT_BYTES - 1)) is None


def test_cuda_memory_is_refused_where_there_is_no_device():
    pytest.importorskip("cuda.bindings", reason="without bindings the next test tells")
    with pytest.raises(Unsupported, match=r"0 CUDA devices|cannot be opened"):
        registered(CudaRegion("r", 0, 16, bytes(64)))


def test_cuda_memory_is_refused_without_the_bindings(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "lanewise.memory.device_regions", raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(Unsupported, match="no CUDA bindings"):
        registered(CudaRegion("r", 0, 16, bytes(64)))
