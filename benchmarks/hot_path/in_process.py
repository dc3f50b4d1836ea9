"""Everything in one process, from the bytes of a request to those of its response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.hot_path.measuring import (
    Breakdown,
    Repeats,
    broken_down,
    messages_alone,
    per_request_us,
    rate_of,
)
from benchmarks.hot_path.requests import Infer, infer_with, request_of_one_row, send
from benchmarks.hot_path.stages import COUNT, EXECUTION, LANES, RPC
from benchmarks.hot_path.stopwatch import Overhead
from lanewise.clock import SystemClock
from lanewise.memory.regions import Regions
from lanewise.processes.app import App
from lanewise.rpc.engine_calls import engine_calls
from lanewise.rpc.inference.codec import Codec
from lanewise.rpc.services import build_services
from lanewise.rpc.transport import rpc_front
from lanewise.scheduler.registry import Lanes
from lanewise.settings.server import ServerSettings
from lanewise.telemetry.metrics import Metrics

MODELS = Path(__file__).parents[2] / "examples" / "digits" / "models"
MAX_MESSAGE_BYTES = 1 << 26
_EXECUTION_NAMES = frozenset(stage.name for stage in EXECUTION)


@asynccontextmanager
async def served(models: Path) -> AsyncIterator[tuple[Infer, Lanes]]:
    """Serve the first model here; get what sends one request to it, and its lanes."""
    settings = ServerSettings(models, host="127.0.0.1", grpc_port=0, metrics_port=0)
    app = App(settings, front=rpc_front(settings))
    running = asyncio.create_task(app.run())
    await app.loaded.wait()
    lanes = next(iter(app.registry)).require_lanes()
    services = build_services(
        app.registry,
        SystemClock(),
        max_message_bytes=MAX_MESSAGE_BYTES,
        when_finished=Metrics(app.registry).request_finished,
        engine=engine_calls(app.registry, Regions()),
    )
    try:
        yield infer_with(services, lanes.spec), lanes
    finally:
        app.stop()
        await running


async def measure(
    models: Path, in_flight: Sequence[int], requests: int, repeats: int, overhead: Overhead
) -> tuple[list[Breakdown], dict[str, float]]:
    """Measure the loop's thread and the threads that execute, at each number in flight.

    Returns:
        The breakdowns, and what parsing and serializing take.
    """
    found: dict[int, Repeats] = {
        each: Repeats((*RPC, *COUNT, *LANES, *EXECUTION), overhead) for each in in_flight
    }
    async with served(models) as (infer, lanes):
        for each in in_flight:
            await send(infer, each, requests // 4)
        for _ in range(repeats):
            for each, runs in found.items():
                await runs.run_plain(infer, each, requests)
                await runs.run_measured(infer, each, requests)
        messages = await measure_messages(lanes)
    parts = [part for each, runs in found.items() for part in _by_thread(each, runs, messages)]
    return parts, messages


async def measure_messages(lanes: Lanes) -> dict[str, float]:
    """Measure by themselves what cannot be measured inside; see `messages_alone`."""
    request = request_of_one_row(lanes.spec)
    result = await lanes.submit(Codec(lanes.spec).decode_inputs(request))
    return messages_alone(request, lanes.spec, result)


def _by_thread(in_flight: int, runs: Repeats, messages: dict[str, float]) -> list[Breakdown]:
    stages, calls = runs.stage_us(), runs.calls()
    executing = {name: us for name, us in stages.items() if name in _EXECUTION_NAMES}
    on_loop = {name: us for name, us in stages.items() if name not in _EXECUTION_NAMES}
    rate = rate_of(runs.plain)
    loop_us = per_request_us(runs.plain, lambda sent: sent.loop_ns)
    others_us = per_request_us(runs.plain, lambda sent: sent.process_ns - sent.loop_ns)
    return [
        broken_down("event loop", in_flight, rate, loop_us, {**messages, **on_loop}, calls),
        broken_down("lanes' threads", in_flight, rate, others_us, executing, calls),
    ]
