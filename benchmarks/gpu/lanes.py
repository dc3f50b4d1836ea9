"""What can be measured of one model: each step gives one figure for one repeat."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from bare import BareContext, BareEngine, Inputs, SwitchingContext
from subjects import BULK_ROWS, Subject

from lanewise.backends.polling import OVERTIME_NS, Poller
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch, LoadedModel, PendingBatch, Runner
from lanewise.backends.threads import RunnerThreads
from lanewise.backends.trt.binding import bind
from lanewise.backends.trt.build.builder import build_plan
from lanewise.clock import SystemClock
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.request import RequestOptions
from lanewise.settings.model import read_model_settings

ROW_RUNS = 300
BULK_RUNS = 100
NAIVE_BULK_RUNS = 40
PAIRS = 400
SWITCHED_PAIRS = 60
PAUSE_S = 0.001
WARM_ROWS, OTHER_ROWS, COLD_ROWS = 8, 5, 23  # 5 is padded to 8; 23 is run as it is, once

Step = Callable[[], Awaitable[float]]


def build(subject: Subject, folder: Path) -> Path:
    """Write the subject's model into `folder` and build its plan, model.plan; blocks."""
    model = subject.save(folder)
    settings_file = folder / "model.toml"
    settings = read_model_settings(settings_file)
    plan = folder / "model.plan"
    plan.write_bytes(build_plan(bind("tensorrt-rtx"), model, settings, settings_file).data)
    return plan


def load(plan: Path) -> LoadedModel:
    """Load the plan as `lanewise serve` does; blocks."""
    (source,) = find_models(plan)
    return load_model(source, read_model_settings(source.settings_file), clock=SystemClock())


class Lanes:
    """A warmed-up dispatcher, and bare contexts of the same plan to compare it with.

    Attributes:
        runners: by profile name.
    """

    def __init__(
        self, subject: Subject, engine: BareEngine, loaded: LoadedModel, dispatcher: Dispatcher
    ) -> None:
        self._subject = subject
        self._dispatcher = dispatcher
        self.runners: dict[str, Runner] = {r.profile.name: r for r in loaded.runners}
        self._row = subject.few(1)
        self._bulk = subject.bulk(BULK_ROWS)
        self._profile = {name: runner.profile.index for name, runner in self.runners.items()}
        self._bare_row = BareContext(engine, self._profile["online"], self._row)
        self._bare_bulk = BareContext(engine, self._profile["offline"], self._bulk)
        self._switching = SwitchingContext(engine, subject.few(4))
        for context in (self._bare_row, self._bare_bulk):
            context.capture()

    def steps(self) -> tuple[Step, ...]:
        """List what is measured in each repeat; a figure has the name of its step."""
        return (
            self.bare_bulk, self.served_bulk, self.naive_bulk,
            self.bare_row, self.paused_bare_row, self.naive_row,
            self.direct_row, self.paused_direct_row, self.threads_row,
            self.started_row, self.polled_row, self.served_row,
            self.two_lanes_2, self.two_lanes_8, self.one_switching_context,
            self.warm_rows_p99, self.other_rows_p99,
        )  # fmt: skip

    def close(self) -> None:
        """Free the bare contexts. The dispatcher is its owner's."""
        self._bare_row.close()
        self._bare_bulk.close()
        self._switching.close()

    # Bulk work, in rows per second.

    async def bare_bulk(self) -> float:
        """Measure the graph launched back to back, no copies."""
        with _Timer() as timer:
            for _ in range(BULK_RUNS):
                self._bare_bulk.launch()
            self._bare_bulk.wait()
        return BULK_ROWS * BULK_RUNS / timer.seconds

    async def served_bulk(self) -> float:
        """Measure requests of 128 rows through the scheduler, four outstanding."""
        with _Timer() as timer:
            await self._submit_from(4, [self._bulk] * BULK_RUNS)
        return BULK_ROWS * BULK_RUNS / timer.seconds

    async def naive_bulk(self) -> float:
        """Measure copy, execute without a graph, copy back, one after the other."""
        with _Timer() as timer:
            for _ in range(NAIVE_BULK_RUNS):
                self._bare_bulk.run_naively(self._bulk)
        return BULK_ROWS * NAIVE_BULK_RUNS / timer.seconds

    # One row, in microseconds.

    async def bare_row(self) -> float:
        """Measure copy in from pinned memory, graph, copy out to pinned memory, wait."""
        return _median_us(self._run_bare)

    async def paused_bare_row(self) -> float:
        """Measure the same after a pause each time."""
        return _median_us(self._run_bare, pause_s=PAUSE_S)

    async def naive_row(self) -> float:
        """Measure copy, execute without a graph, copy back."""
        return _median_us(lambda: self._bare_row.run_naively(self._row))

    async def direct_row(self) -> float:
        """Measure the runner called in a tight loop."""
        return _median_us(self._run_directly)

    async def paused_direct_row(self) -> float:
        """Measure the same after a pause each time."""
        return _median_us(self._run_directly, pause_s=PAUSE_S)

    async def threads_row(self) -> float:
        """Measure the runner called on a thread of its own, and awaited."""
        threads = RunnerThreads(1, "bench")
        try:
            return await _median_us_awaited(lambda: threads.call(self._run_directly))
        finally:
            threads.stop()

    async def started_row(self) -> float:
        """Measure a batch started on this thread and polled in a tight loop."""
        return _median_us(self._start_and_wait)

    async def polled_row(self) -> float:
        """Measure a batch started on the event loop and polled by it."""
        loop, threads = asyncio.get_running_loop(), RunnerThreads(1, "bench")
        poller = Poller(SystemClock())

        def start() -> Awaitable[object]:
            done = loop.create_future()
            until_ns = time.monotonic_ns() + OVERTIME_NS
            poller.add(self._start(), until_ns, threads, lambda result, _: done.set_result(result))
            return done

        try:
            return await _median_us_awaited(start)
        finally:
            threads.stop()

    async def served_row(self) -> float:
        """Measure a request submitted to the scheduler and awaited."""
        return await _median_us_awaited(lambda: self._dispatcher.submit(self._row))

    # Pairs of a 1-row and a 4-row request, in pairs per second.

    async def two_lanes_2(self) -> float:
        """Measure each request in its lane, two pairs outstanding."""
        return await self._pairs(2)

    async def two_lanes_8(self) -> float:
        """Measure the same with eight: 4-row requests that wait are stacked."""
        return await self._pairs(8)

    async def one_switching_context(self) -> float:
        """Measure one context that switches profiles."""
        one, four = self._row, self._subject.few(4)

        def run_pairs(count: int) -> None:
            for _ in range(count):
                self._switching.run(self._profile["online"], one)
                self._switching.run(self._profile["dynamic"], four)

        run_pairs(3)  # the first compiles
        with _Timer() as timer:
            run_pairs(SWITCHED_PAIRS)
        return SWITCHED_PAIRS / timer.seconds

    # Numbers of rows that no one announced: the 99th percentile in milliseconds.

    async def warm_rows_p99(self) -> float:
        """Measure 8 rows, a count that was warmed up."""
        return await self._p99_ms(WARM_ROWS)

    async def other_rows_p99(self) -> float:
        """Measure 5 rows, a count that was not."""
        return await self._p99_ms(OTHER_ROWS)

    async def soak(self, requests: int) -> None:
        """Send random requests of the subject's soak, the same each time, eight outstanding."""
        kinds = self._subject.soak
        picks = np.random.default_rng(0).integers(0, len(kinds), requests)
        await self._submit_from(8, [kinds[pick] for pick in picks])

    def _run_bare(self) -> None:
        self._bare_row.copy_in()
        self._bare_row.launch()
        self._bare_row.copy_out()
        self._bare_row.wait()

    def _run_directly(self) -> None:
        self.runners["online"].run(self._row_batch())

    def _start(self) -> PendingBatch:
        pending = self.runners["online"].start(self._row_batch())
        assert pending is not None, "nothing else is running, and the lane is warm"
        return pending

    def _start_and_wait(self) -> None:
        pending = self._start()
        while not pending.is_done():
            pass
        pending.result()

    def _row_batch(self) -> Batch:
        return Batch({name: [array] for name, array in self._row.items()}, 1, 1)

    async def _submit_from(self, users: int, requests: list[Inputs]) -> None:
        """Submit all requests; every user submits the next one when its last is answered."""
        waiting = iter(requests)

        async def user() -> None:
            for inputs in waiting:
                await self._dispatcher.submit(inputs)

        await asyncio.gather(*(user() for _ in range(users)))

    async def _pairs(self, outstanding: int) -> float:
        one, four = self._row, self._subject.few(4)
        waiting = iter(range(PAIRS))

        async def user() -> None:
            for _ in waiting:
                await asyncio.gather(
                    self._dispatcher.submit(one, RequestOptions(profile="online")),
                    self._dispatcher.submit(four, RequestOptions(profile="dynamic")),
                )

        with _Timer() as timer:
            await asyncio.gather(*(user() for _ in range(outstanding)))
        return PAIRS / timer.seconds

    async def _p99_ms(self, rows: int) -> float:
        inputs, taken = self._subject.few(rows), []
        for _ in range(ROW_RUNS):
            with _Timer() as timer:
                await self._dispatcher.submit(inputs, RequestOptions(profile="dynamic"))
            taken.append(timer.seconds)
        return float(np.percentile(taken, 99)) * 1e3


def first_run_ms(subject: Subject, engine: BareEngine, profile: int) -> float:
    """Milliseconds of the first execution of a number of rows that nothing was compiled for."""
    context = BareContext(engine, profile, subject.few(COLD_ROWS))
    with _Timer() as timer:
        context.enqueue()
        context.wait()
    context.close()
    return timer.seconds * 1e3


class _Timer:
    """Seconds from entering it to leaving it."""

    seconds = 0.0

    def __enter__(self) -> _Timer:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began


def _median_us(run: Callable[[], object], pause_s: float = 0.0) -> float:
    taken = []
    for _ in range(ROW_RUNS):
        if pause_s:
            time.sleep(pause_s)
        with _Timer() as timer:
            run()
        taken.append(timer.seconds)
    return statistics.median(taken) * 1e6


async def _median_us_awaited(run: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(ROW_RUNS):
        with _Timer() as timer:
            await run()
        taken.append(timer.seconds)
    return statistics.median(taken) * 1e6
