"""The stages of the hot path's profile, on a clock that the functions move themselves."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from benchmarks.hot_path.stopwatch import Overhead, Stage, Stopwatch, measured


class _Time:
    """A clock that a function moves on by working."""

    def __init__(self) -> None:
        self.now_ns = 0

    def read(self) -> int:
        return self.now_ns

    def working(self, ns: int) -> Callable[[], None]:
        def work() -> None:
            self.now_ns += ns

        return work


FREE = Overhead(0, 0)


def test_a_stage_does_not_count_the_stages_it_calls() -> None:
    time = _Time()
    stopwatch = Stopwatch(time.read)
    inner = stopwatch.timed("inner", time.working(5))

    def call_twice() -> None:
        time.working(1)()
        inner()
        time.working(2)()
        inner()
        time.working(3)()

    stopwatch.timed("outer", call_twice)()

    assert stopwatch.ns_by_stage(FREE) == {"inner": 10, "outer": 6}


def test_time_between_calls_counts_for_no_stage() -> None:
    time = _Time()
    stopwatch = Stopwatch(time.read)
    work = stopwatch.timed("work", time.working(5))

    work()
    time.working(100)()
    work()

    assert stopwatch.ns_by_stage(FREE) == {"work": 10}


def test_what_measuring_adds_is_taken_off_but_never_below_zero() -> None:
    time = _Time()
    stopwatch = Stopwatch(time.read)
    inner = stopwatch.timed("inner", time.working(5))
    stopwatch.timed("outer", lambda: (inner(), time.working(20)()))()

    assert stopwatch.ns_by_stage(Overhead(7, 4)) == {"inner": 0, "outer": 9}


def test_a_function_that_raises_is_measured_and_put_back() -> None:
    time = _Time()

    def fail() -> None:
        time.now_ns += 5
        raise KeyError

    owner = SimpleNamespace(work=fail)
    stopwatch = Stopwatch(time.read)

    with measured([Stage("work", owner, "work")], stopwatch), pytest.raises(KeyError):
        owner.work()

    assert owner.work is fail
    assert stopwatch.ns_by_stage(FREE) == {"work": 5}
