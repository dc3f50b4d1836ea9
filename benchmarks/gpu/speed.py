"""What the lanes of a TensorRT engine reach on this GPU, beside the naive way of each.

    python benchmarks/gpu/speed.py --output benchmarks/gpu/results/NAME.json

Runs in one process, without gRPC: ResNet-50 and a BERT encoder of 6 layers and 384 wide, both in
FP16 with random weights and three profiles. Repeats are interleaved; figures are medians of
repeats. Beside the table it prints where the latency of one row comes from.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bare import BareEngine
from lanes import Lanes, build, first_run_ms, load
from subjects import Subject, bert, resnet
from tables import row_table, speed_table

from lanewise import __version__
from lanewise.backends.runner import LoadedModel, Runner
from lanewise.backends.trt.binding import bind
from lanewise.clock import SystemClock
from lanewise.memory import device
from lanewise.model.tensors import Shape, TensorSpec, element_count
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.telemetry.logs import configure_logging

WARM_SOAK_SHARE = 0.1


async def measure(subject: Subject, repeats: int, soak_requests: int) -> dict[str, Any]:
    """Build, load and warm up the subject's model, then measure everything, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        plan = build(subject, Path(folder))
        built = time.perf_counter()
        loaded = load(plan)
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=1024)
        await dispatcher.warm_up()
        ready = time.perf_counter()
        engine = BareEngine(plan)
        lanes = Lanes(subject, engine, loaded, dispatcher)
        samples: dict[str, list[float]] = {step.__name__: [] for step in lanes.steps()}
        for _ in range(repeats):
            for step in lanes.steps():
                samples[step.__name__].append(await step())
        result = {
            "title": subject.title,
            "items": subject.items,
            "build_s": round(built - began, 1),
            "load_and_warm_up_s": round(ready - built, 1),
            "first_run_of_a_cold_row_count_ms": round(
                first_run_ms(subject, engine, lanes.runners["dynamic"].profile.index), 1
            ),
            "medians": {name: statistics.median(values) for name, values in samples.items()},
            "samples": samples,
            "memory": memory_of_lanes(loaded, engine),
            "soak": await soak(lanes, round(soak_requests * subject.soak_share)),
            "graphs": {name: _graphs(runner) for name, runner in lanes.runners.items()},
        }
        lanes.close()
        await dispatcher.drain(0)
        await dispatcher.close()
        engine.close()
    return result


def memory_of_lanes(loaded: LoadedModel, engine: BareEngine) -> dict[str, int]:
    """Bytes of the lanes, of what their profiles need, and of one naive context for each.

    A profile needs its scratch memory and its largest inputs and outputs as often as its
    lane overlaps batches. CUDA graphs come on top and have a budget of their own.
    """
    need = held = 0
    for runner in loaded.runners:
        profile = runner.profile
        largest: list[tuple[TensorSpec, Shape]] = [
            *((tensor, profile.ranges[tensor.name].max) for tensor in loaded.spec.inputs),
            *((tensor, (profile.rows.max, *tensor.shape[1:])) for tensor in loaded.spec.outputs),
        ]
        tensors = sum(element_count(shape) * t.dtype.numpy.itemsize for t, shape in largest)
        scratch = engine.facts.profiles[profile.index].device_memory_bytes
        need += scratch + runner.depth * tensors
        memory = runner.memory()
        held += memory.tensor_bytes + memory.scratch_bytes
    naive = engine.scratch_of_contexts()
    return {"profiles_need": need, "lanes": held, "naive_contexts_scratch_alone": naive}


async def soak(lanes: Lanes, requests: int) -> dict[str, float]:
    """Mixed requests; growth of device, pinned and resident memory after a tenth of them."""

    def held() -> tuple[int, int, int]:
        pinned = sum(runner.memory().pinned_bytes for runner in lanes.runners.values())
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        return device.free_memory()[0], pinned, resident

    await lanes.soak(round(requests * WARM_SOAK_SHARE))
    before = held()
    began = time.perf_counter()
    await lanes.soak(requests)
    seconds = time.perf_counter() - began
    after = held()
    return {
        "requests": requests,
        "seconds": round(seconds, 1),
        "device_bytes_more": before[0] - after[0],
        "pinned_bytes_more": after[1] - before[1],
        "peak_resident_bytes_more": after[2] - before[2],
    }


def describe_run(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the results of all models beside what they were measured with."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": device.require_device().title,
        "tensorrt": bind("tensorrt-rtx").name,
        "lanewise": __version__,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
        "models": list(results),
    }


def _graphs(runner: Runner) -> dict[str, Any]:
    counts = runner.graph_counts()
    assert counts is not None
    return {
        "launches": counts.launches,
        "misses": dict(counts.misses),
        "bytes": runner.memory().graph_bytes,
    }


def main() -> None:
    """Measure, print the tables, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--soak-requests", type=int, default=100_000, help="BERT gets a fifth")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    configure_logging(level="warning")
    results = [
        asyncio.run(measure(make(), arguments.repeats, arguments.soak_requests))
        for make in (resnet, bert)
    ]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(describe_run(results), indent=2) + "\n")
    print(speed_table(results), row_table(results), sep="\n\n")
    for result in results:
        rest = {key: result[key] for key in ("memory", "soak", "graphs")}
        print(f"\n{result['title']}", json.dumps(rest, indent=2), sep="\n")


if __name__ == "__main__":
    main()
