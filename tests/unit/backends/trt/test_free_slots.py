"""Which of a runner's slots is used next."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.bindings")

from lanewise.backends.trt.slots import FreeSlots


def test_slots_take_turns():
    free = FreeSlots(["a", "b"])
    used = []
    for _ in range(4):
        slot = free.take()
        used.append(slot)
        free.give_back(slot)
    assert used == ["a", "b", "a", "b"]


def test_a_slot_that_could_not_be_used_is_the_next_again():
    free = FreeSlots(["a", "b"])
    free.give_back(free.take_now(), next_again=True)
    assert free.take() == "a"


def test_there_is_none_to_take_now_when_all_are_in_use():
    free = FreeSlots(["a", "b"])
    taken = [free.take(), free.take_now()]
    assert free.take_now() is None
    free.give_back(taken[1])
    assert free.take_now() == "b"
