"""A front end and an engine in two processes, from bytes to bytes in the front end."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.hot_path.child import Child
from benchmarks.hot_path.in_process import MAX_MESSAGE_BYTES, measure_messages
from benchmarks.hot_path.measuring import (
    NS_PER_US,
    Breakdown,
    Repeats,
    broken_down,
    medians,
    per_request_us,
    rate_of,
)
from benchmarks.hot_path.requests import Infer, infer_with, send
from benchmarks.hot_path.stages import EXECUTION, FRONT_END, RPC
from benchmarks.hot_path.stopwatch import Overhead
from lanewise.clock import SystemClock
from lanewise.ipc.client import Client
from lanewise.rpc.services import build_services
from lanewise.scheduler.registry import Lanes, ModelRegistry

_EXECUTION_NAMES = frozenset(stage.name for stage in EXECUTION)


class _Runs:
    """Runs of one number in flight, and what the engine took for a request in them."""

    def __init__(self, overhead: Overhead) -> None:
        self.front = Repeats((*RPC, *FRONT_END), overhead)
        self.loop_us: list[float] = []
        self.others_us: list[float] = []
        self.stages_us: list[dict[str, float]] = []
        self.calls: list[dict[str, float]] = []

    async def run(self, engine: Child, infer: Infer, in_flight: int, requests: int) -> None:
        """Send the requests once plain and once with a look at the stages of both processes."""
        engine.say("plain")
        sent = await self.front.run_plain(infer, in_flight, requests)
        report = await engine.report()
        per_request = sent.requests * NS_PER_US
        self.loop_us.append(report["loop_ns"] / per_request)
        self.others_us.append((report["process_ns"] - report["loop_ns"]) / per_request)
        engine.say("measured")
        await self.front.run_measured(infer, in_flight, requests)
        report = await engine.report()
        self.stages_us.append({n: ns / per_request for n, ns in report["stages_ns"].items()})
        self.calls.append({n: each / sent.requests for n, each in report["calls"].items()})


@asynccontextmanager
async def _linked(address: str) -> AsyncIterator[tuple[Infer, Lanes]]:
    registry = ModelRegistry()
    link = Client(address, registry)
    linking = asyncio.create_task(link.run())
    while not (await link.changed.wait() and registry.is_ready):
        link.changed.clear()
    lanes = next(iter(registry)).require_lanes()
    services = build_services(
        registry,
        SystemClock(),
        max_message_bytes=MAX_MESSAGE_BYTES,
        when_finished=link.count,
        engine=link.ask,
    )
    try:
        yield infer_with(services, lanes.spec), lanes
    finally:
        linking.cancel()


async def measure(
    models: Path, in_flight: Sequence[int], requests: int, repeats: int, overhead: Overhead
) -> list[Breakdown]:
    """Measure both processes, at each number in flight."""
    address = f"lanewise-hot-path-{os.getpid()}"
    engine = Child("engine", address, models)
    runs = {each: _Runs(overhead) for each in in_flight}
    try:
        async with _linked("\0" + address) as (infer, lanes):
            for each in in_flight:
                await send(infer, each, requests // 4)
            for _ in range(repeats):
                for each in in_flight:
                    await runs[each].run(engine, infer, each, requests)
            messages = await measure_messages(lanes)
    finally:
        engine.end()
    return [part for each in in_flight for part in _by_process(each, runs[each], messages)]


def _by_process(in_flight: int, runs: _Runs, messages: dict[str, float]) -> list[Breakdown]:
    plain = runs.front.plain
    rate = rate_of(plain)
    stages, calls = medians(runs.stages_us), medians(runs.calls)
    executing = {name: us for name, us in stages.items() if name in _EXECUTION_NAMES}
    on_loop = {name: us for name, us in stages.items() if name not in _EXECUTION_NAMES}
    front_us = per_request_us(plain, lambda sent: sent.process_ns)
    loop_us, others_us = statistics.median(runs.loop_us), statistics.median(runs.others_us)
    in_front = {**messages, **runs.front.stage_us()}
    return [
        broken_down("front end", in_flight, rate, front_us, in_front, runs.front.calls()),
        broken_down("engine's loop", in_flight, rate, loop_us, on_loop, calls),
        broken_down("engine's lanes", in_flight, rate, others_us, executing, calls),
    ]
