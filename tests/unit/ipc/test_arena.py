"""Blocks that are used again, and memory that goes back to the kernel."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanewise.errors import Overloaded
from lanewise.ipc.arena import Arena, map_to_read

MIB = 1 << 20


def arena_of(nbytes: int = 16 * MIB, **limits: int) -> Arena:
    return Arena(nbytes, **limits)


def resident_bytes(arena: Arena) -> int:
    """Memory that the file holds: what was written and not given back."""
    return os.fstat(arena.fd).st_blocks * 512


def test_a_free_block_is_used_again_for_sizes_up_to_its_power_of_two():
    arena = arena_of()
    block = arena.allocate(5000)
    arena.free(block)
    for nbytes in (4097, 8192):
        assert arena.allocate(nbytes) == block
        arena.free(block)
    assert arena.allocate(8193) != block
    assert arena.allocate(4096) != block


def test_what_is_written_is_read_at_the_other_end():
    arena = arena_of()
    other_end = map_to_read(os.dup(arena.fd))
    block = arena.allocate(6)
    arena.memory[block : block + 6] = b"tensor"
    assert bytes(other_end[block : block + 6]) == b"tensor"
    assert other_end.readonly


@given(st.lists(st.integers(1, 3 * MIB), max_size=40))
def test_blocks_in_use_never_overlap_and_lie_on_pages(sizes):
    arena = arena_of(64 * MIB)
    taken = []
    for position, nbytes in enumerate(sizes):
        block = arena.allocate(nbytes)
        assert block % 4096 == 0
        if position % 3 == 2:
            arena.free(taken.pop(0)[0])
        taken.append((block, block + nbytes))
    taken.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(taken))
    assert all(end <= len(arena.memory) for _, end in taken)
    assert arena.blocks == len(taken)
    os.close(arena.fd)


def test_no_room_is_an_overload_until_a_block_is_free():
    arena = arena_of(MIB)
    block = arena.allocate(MIB)
    with pytest.raises(Overloaded, match=r"^5000 bytes find no room in the 1 MiB that a front end"):
        arena.allocate(5000)
    arena.free(block)
    arena.allocate(5000)


def test_blocks_of_one_size_cannot_take_the_room_of_others_for_ever():
    arena = arena_of(MIB)
    for nbytes in (4096, 64 * 1024, MIB, 4096):
        blocks = [arena.allocate(nbytes) for _ in range(MIB // nbytes)]
        for block in blocks:
            arena.free(block)
    assert arena.blocks == 0


def test_memory_of_free_blocks_goes_back_to_the_kernel_above_what_is_kept():
    arena = arena_of(kept_bytes=2 * MIB)
    blocks = [arena.allocate(MIB) for _ in range(8)]
    for block in blocks:
        arena.memory[block : block + MIB] = b"x" * MIB
    assert resident_bytes(arena) >= 8 * MIB
    for block in blocks:
        arena.free(block)
    assert resident_bytes(arena) <= 2 * MIB


def test_what_is_kept_does_not_grow_with_blocks_that_come_and_go():
    arena = arena_of(kept_bytes=2 * MIB)
    for nbytes in (MIB, 512 * 1024) * 5:
        blocks = [arena.allocate(nbytes) for _ in range(8)]
        for block in blocks:
            arena.memory[block : block + nbytes] = b"x" * nbytes
        for block in blocks:
            arena.free(block)
        assert resident_bytes(arena) <= 2 * MIB


def test_a_closed_arena_has_no_room():
    arena = arena_of()
    arena.allocate(1)
    arena.close()
    with pytest.raises(Overloaded):
        arena.allocate(1)
