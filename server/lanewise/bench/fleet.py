"""The processes of the load generator: started once, given one load after the other."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from lanewise.bench.buckets import Buckets
from lanewise.bench.loads import KindTally, Load, Stage, StageEnd, Tally, Target
from lanewise.bench.worker import work
from lanewise.clock import NS_PER_MS, NS_PER_S
from lanewise.cores import usable_cores
from lanewise.errors import ConfigError

TICK_S = 0.5
"""What a Point of the measurement's course spans."""

_AHEAD_NS = 100 * NS_PER_MS
"""Between telling the processes of a stage and its beginning."""

_START_S = 60.0
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Point:
    """How half a second of the measurement went; latencies are NaN where nothing was answered."""

    at_s: float
    answered_per_s: float
    failed_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(slots=True)
class Outcome:
    """What came of one load.

    Attributes:
        seconds: measured, without the warm-up.
        kinds: in the order of the payloads.
        delays: of open loops, from when requests were due until they were sent.
        course: the points of the measurement so far, or all of them.
        examples: what the server said with each kind of failure.
        cpu_shares: of each process, of one core.
        cores: the processes could use.
    """

    load: Load
    seconds: float
    kinds: list[KindTally]
    delays: Buckets = field(default_factory=Buckets)
    course: list[Point] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    cpu_shares: list[float] = field(default_factory=list)
    cores: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each load is sent before it counts, and while; and answers are waited for."""

    warmup_s: float
    duration_s: float
    grace_s: float


class Fleet:
    """The client's processes, connected to one target."""

    def __init__(self, target: Target, processes: int) -> None:
        """Prepare; the processes live from `with` to its end.

        Args:
            target: the server, and the requests.
            processes: at most; a load of less concurrency uses fewer.
        """
        self._target = target
        self._count = processes
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Fleet:
        """Start the processes and let them connect.

        Raises:
            ConfigError: the server cannot be reached.
        """
        context = multiprocessing.get_context("spawn")
        try:
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(theirs, self._target), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
            for pipe in self._pipes:
                problem = _receive(pipe, _START_S)
                if problem is not None:
                    raise ConfigError(str(problem))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(
        self, load: Load, timing: Timing, on_progress: Callable[[Outcome], None] | None = None
    ) -> Outcome:
        """Send one load and get the outcome.

        Args:
            load: how much.
            timing: how long.
            on_progress: is called with the outcome so far, about every half second.

        Raises:
            ConfigError: a process exited.
        """
        pipes = self._pipes
        if load.rate is None:
            pipes = pipes[: max(1, min(len(pipes), load.concurrency))]
        begin_ns = time.monotonic_ns() + _AHEAD_NS
        measure_ns = begin_ns + round(timing.warmup_s * NS_PER_S)
        end_ns = measure_ns + round(timing.duration_s * NS_PER_S)
        grace_ns = round(timing.grace_s * NS_PER_S)
        for part, pipe in enumerate(pipes):
            pipe.send(Stage(load, part, len(pipes), begin_ns, measure_ns, end_ns, grace_ns))
        gathering = _Gathering(load, timing.duration_s, len(self._target.payloads), len(pipes))
        _gather(pipes, gathering, on_progress)
        return gathering.outcome

    def _stop(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(_JOIN_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._pipes, self._processes = [], []


def _gather(
    pipes: Sequence[Connection],
    gathering: _Gathering,
    on_progress: Callable[[Outcome], None] | None,
) -> None:
    running = list(pipes)
    while running:
        for pipe in wait(running):
            assert isinstance(pipe, Connection)
            told = _receive(pipe, 0)
            if isinstance(told, Tally):
                gathering.add(told)
            elif isinstance(told, StageEnd):
                gathering.outcome.cpu_shares.append(told.cpu_share)
                running.remove(pipe)
        if on_progress is not None:
            on_progress(gathering.outcome)


class _Gathering:
    def __init__(self, load: Load, seconds: float, kinds: int, processes: int) -> None:
        self.outcome = Outcome(
            load,
            seconds,
            [KindTally() for _ in range(kinds)],
            cores=usable_cores(),
        )
        self._processes = processes
        self._open: dict[int, tuple[int, KindTally]] = {}

    def add(self, tally: Tally) -> None:
        whole = KindTally()
        for kind, news in zip(self.outcome.kinds, tally.kinds, strict=True):
            kind.merge(news)
            whole.merge(news)
        self.outcome.delays.merge(tally.delays)
        self.outcome.examples = tally.examples | self.outcome.examples
        count, known = self._open.pop(tally.tick, (0, KindTally()))
        known.merge(whole)
        if count + 1 < self._processes:
            self._open[tally.tick] = count + 1, known
        else:
            self.outcome.course.append(self._point(tally.tick, known))

    def _point(self, tick: int, tally: KindTally) -> Point:
        at_s = tick * TICK_S
        span_s = min(TICK_S, self.outcome.seconds - at_s)
        return Point(
            at_s,
            tally.latencies.count / span_s,
            tally.failures.total() / span_s,
            tally.latencies.quantile_ns(0.5) / NS_PER_MS,
            tally.latencies.quantile_ns(0.99) / NS_PER_MS,
        )


def _receive(pipe: Connection, timeout_s: float) -> object:
    """Receive the next message of a process.

    Raises:
        ConfigError: it exited, or sends nothing in that time.
    """
    try:
        if timeout_s and not pipe.poll(timeout_s):
            raise ConfigError(f"a process of the load generator sent nothing for {timeout_s:g} s")
        told: object = pipe.recv()
    except EOFError as error:
        raise ConfigError("a process of the load generator exited; its error is above") from error
    return told
