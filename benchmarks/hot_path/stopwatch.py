"""CPU time of functions, without the time of the measured functions they call."""

from __future__ import annotations

import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CALIBRATIONS = 20_000


class Stage(NamedTuple):
    """A function of the server, by where it is looked up, and the stage it counts for.

    Attributes:
        owner: a module or a class.
    """

    name: str
    owner: Any
    attribute: str

    def function(self) -> Callable[..., Any]:
        """Look the function up.

        Raises:
            AttributeError: the owner has no function of this name.
        """
        found = getattr(self.owner, self.attribute, None)
        if not callable(found):
            owner = self.owner.__name__
            raise AttributeError(  # noqa: TRY004 - it is missing, whatever has its name
                f"stage '{self.name}': {owner} has no function '{self.attribute}'; "
                "name the one that does this now in benchmarks/hot_path/stages.py"
            )
        return found  # type: ignore[no-any-return] # callable() cannot tell the result


@dataclass(slots=True)
class Spent:
    """CPU time of the threads that ran a stage, the stages it called left out."""

    cpu_ns: int = 0
    calls: int = 0
    inner_calls: int = 0


@dataclass(slots=True)
class _Thread:
    """What one thread is in the middle of: the innermost stage is the last."""

    open: list[Spent] = field(default_factory=list)
    since_ns: int = 0


class Overhead(NamedTuple):
    """What measuring adds to a stage for each of its calls, and for each stage it calls."""

    own_ns: float
    inner_ns: float


class Stopwatch:
    """Measures stages on any number of threads; none may wait for another thread."""

    def __init__(self, clock: Callable[[], int] = time.thread_time_ns) -> None:
        self.spent: dict[str, Spent] = {}
        self._clock = clock
        self._threads = threading.local()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Get a function that does the same, and whose time counts for a stage."""
        spent, clock, threads = self.spent.setdefault(name, Spent()), self._clock, self._threads

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                thread: _Thread = threads.state
            except AttributeError:
                thread = threads.state = _Thread()
            began_ns = clock()
            if thread.open:
                outer = thread.open[-1]
                outer.cpu_ns += began_ns - thread.since_ns
                outer.inner_calls += 1
            thread.open.append(spent)
            thread.since_ns = began_ns
            try:
                return function(*arguments, **options)
            finally:
                ended_ns = clock()
                spent.cpu_ns += ended_ns - thread.since_ns
                spent.calls += 1
                thread.open.pop()
                thread.since_ns = ended_ns

        return call

    def ns_by_stage(self, overhead: Overhead) -> dict[str, float]:
        """Get the CPU time of each stage without what measuring added to it."""
        return {
            name: max(
                0.0,
                spent.cpu_ns
                - spent.calls * overhead.own_ns
                - spent.inner_calls * overhead.inner_ns,
            )
            for name, spent in self.spent.items()
        }

    def calls_by_stage(self) -> dict[str, int]:
        """Get how often the functions of each stage were called."""
        return {name: spent.calls for name, spent in self.spent.items()}


@contextmanager
def measured(stages: Sequence[Stage], stopwatch: Stopwatch) -> Iterator[None]:
    """Have the calls of the stages' functions measured meanwhile."""
    originals = [stage.function() for stage in stages]
    for stage, function in zip(stages, originals, strict=True):
        setattr(stage.owner, stage.attribute, stopwatch.timed(stage.name, function))
    try:
        yield
    finally:
        for stage, function in zip(stages, originals, strict=True):
            setattr(stage.owner, stage.attribute, function)


def calibrate(repeats: int = 5) -> Overhead:
    """Measure what measuring adds, with functions that do nothing."""
    found = [_calibrate_once() for _ in range(repeats)]
    return Overhead(
        statistics.median(each.own_ns for each in found),
        statistics.median(each.inner_ns for each in found),
    )


def _calibrate_once() -> Overhead:
    stopwatch = Stopwatch()

    def nothing() -> None:
        pass

    def calls(function: Callable[[], None]) -> None:
        for _ in range(CALIBRATIONS):
            function()

    began_ns = time.thread_time_ns()
    calls(nothing)
    bare_ns = time.thread_time_ns() - began_ns
    stopwatch.timed("outer", calls)(stopwatch.timed("inner", nothing))
    outer, inner = stopwatch.spent["outer"], stopwatch.spent["inner"]
    return Overhead(inner.cpu_ns / CALIBRATIONS, (outer.cpu_ns - bare_ns) / CALIBRATIONS)
