"""What the lanes of a TensorRT engine reach on this GPU, beside the naive way of each.

    python benchmarks/gpu/speed.py --output benchmarks/gpu/results/NAME.json

Runs in one process, without gRPC: ResNet-50 in FP16 with random weights and three profiles,
(1,1,1), (1,4,32) and (128,128,128). Repeats are interleaved; figures are medians of repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lanewise import __version__
from lanewise.clock import SystemClock
from lanewise.engine.repository import find_models, load_model
from lanewise.engine.runner import Batch
from lanewise.engine.trt.binding import bind
from lanewise.engine.trt.runner import TrtRunner
from lanewise.logs import configure_logging
from lanewise.memory import device
from lanewise.model_settings import read_model_settings
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.tensors import element_count

IMAGE = (3, 224, 224)
PROFILES = {"online": (1, 1, 1), "dynamic": (1, 4, 32), "offline": (128, 128, 128)}


def export_resnet(folder: Path) -> Path:
    """Write ResNet-50 with random weights as FP16 ONNX, and its model.toml, into `folder`."""
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model("resnet50", pretrained=False).eval().half().cuda()
    x = torch.rand(2, *IMAGE, dtype=torch.float16, device="cuda")
    batch = torch.export.Dim("batch", min=1, max=1024)
    file = folder / "resnet50.onnx"
    torch.onnx.export(
        model, (x,), str(file), input_names=["X"], output_names=["Y"],
        dynamic_shapes=({0: batch},), dynamo=True, verbose=False,
    )  # fmt: skip
    entries = []
    for name, rows in PROFILES.items():
        shapes = [[count, *IMAGE] for count in rows]
        entries.append(
            f'[[profiles]]\nname = "{name}"\n'
            f"tensors.X = {{ min = {shapes[0]}, opt = {shapes[1]}, max = {shapes[2]} }}\n"
        )
    (folder / "model.toml").write_text('backend = "tensorrt-rtx"\n' + "".join(entries))
    del model, x
    torch.cuda.empty_cache()
    return file


def images(rows: int) -> np.ndarray:
    """Make (rows, 3, 224, 224) FP16 images in 0..1, the same for the same number."""
    return np.random.default_rng(rows).random((rows, *IMAGE), np.float32).astype(np.float16)


@dataclass
class Bench:
    """The model under test; `runners` by profile name."""

    dispatcher: Dispatcher
    runners: dict[str, TrtRunner]
    engine: object

    # Each measurement returns one figure for one repeat.

    async def bare_bulk(self) -> float:
        """Images/s of the offline graph launched back to back, no copies."""
        runner, launches = self.runners["offline"], 100
        graph = next(iter(runner._graphs._graphs.values()))
        began = time.perf_counter()
        for _ in range(launches):
            graph.launch(runner._stream)
        runner._stream.synchronize()
        return 128 * launches / (time.perf_counter() - began)

    async def served_bulk(self) -> float:
        """Images/s of 128-row requests through the scheduler, four outstanding."""
        x, requests = images(128), 100
        queue = iter(range(requests))

        async def user() -> None:
            for _ in queue:
                await self.dispatcher.submit({"X": x})

        began = time.perf_counter()
        await asyncio.gather(*(user() for _ in range(4)))
        return 128 * requests / (time.perf_counter() - began)

    async def naive_bulk(self) -> float:
        """Images/s of copy, execute without a graph, copy back, one after the other."""
        runner, x, launches = self.runners["offline"], images(128), 40
        slot, stream = runner._slots[0], runner._stream
        shapes = {"X": x.shape}
        began = time.perf_counter()
        for _ in range(launches):
            pinned = slot._pinned["X"].view(np.dtype(np.float16), x.shape)
            np.copyto(pinned, x)
            stream.copy_in(slot.address("X"), slot._pinned["X"].address, x.nbytes)
            outputs = runner._prepare(slot, shapes)
            runner._context.enqueue()
            slot.fetch(outputs, stream)
            slot.done.synchronize()
            slot.collect(outputs)
        return 128 * launches / (time.perf_counter() - began)

    async def bare_row(self) -> float:
        """Microseconds of one row: copy in, graph, copy out, wait."""
        runner = self.runners["online"]
        slot, stream = runner._slots[0], runner._stream
        graph = runner._graphs.get((0, ((1, *IMAGE),)))
        assert graph is not None
        nbytes = 2 * element_count(IMAGE)
        taken = []
        for _ in range(300):
            began = time.perf_counter()
            stream.copy_in(slot.address("X"), slot._pinned["X"].address, nbytes)
            graph.launch(stream)
            slot.fetch({"Y": (1, 1000)}, stream)
            slot.done.synchronize()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken) * 1e6

    async def served_row(self) -> float:
        """Microseconds of one row, submitted to the scheduler and awaited."""
        x, taken = images(1), []
        for _ in range(300):
            began = time.perf_counter()
            await self.dispatcher.submit({"X": x})
            taken.append(time.perf_counter() - began)
        return statistics.median(taken) * 1e6

    async def two_lanes_2(self) -> float:
        """Pairs/s of a 1-row and a 4-row request, each in its lane, 2 pairs outstanding."""
        return await self._pairs(2)

    async def two_lanes_8(self) -> float:
        """The same with 8 pairs outstanding: 4-row requests that wait are stacked."""
        return await self._pairs(8)

    async def _pairs(self, outstanding: int) -> float:
        one, four, pairs = images(1), images(4), 400
        queue = iter(range(pairs))

        async def user() -> None:
            for _ in queue:
                await asyncio.gather(
                    self.dispatcher.submit({"X": one}, profile="online"),
                    self.dispatcher.submit({"X": four}, profile="dynamic"),
                )

        began = time.perf_counter()
        await asyncio.gather(*(user() for _ in range(outstanding)))
        return pairs / (time.perf_counter() - began)

    async def one_switching_context(self) -> float:
        """Pairs/s of the same through one context that switches profiles."""
        module = bind("tensorrt-rtx").module
        context = self.engine.create_execution_context(
            module.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        )
        stream, pairs = device.Stream(), 60
        buffers = {name: device.DeviceBuffer() for name in "XY"}
        buffers["X"].reserve(4 * 2 * element_count(IMAGE))
        buffers["Y"].reserve(4 * 2 * 1000)
        pinned = device.PinnedBuffer()
        pinned.reserve(buffers["X"].nbytes)

        def run(profile: int, rows: int) -> None:
            context.set_optimization_profile_async(profile, stream.number)
            context.set_input_shape("X", (rows, *IMAGE))
            for name, buffer in buffers.items():
                context.set_tensor_address(name, buffer.address)
            stream.copy_in(buffers["X"].address, pinned.address, rows * 2 * element_count(IMAGE))
            context.execute_async_v3(stream.number)
            stream.copy_out(pinned.address, buffers["Y"].address, rows * 2000)
            stream.synchronize()

        for _ in range(3):
            run(0, 1)
            run(1, 4)
        began = time.perf_counter()
        for _ in range(pairs):
            run(0, 1)
            run(1, 4)
        return pairs / (time.perf_counter() - began)

    async def _p99(self, rows: int) -> float:
        x, taken = images(rows), []
        for _ in range(300):
            began = time.perf_counter()
            await self.dispatcher.submit({"X": x}, profile="dynamic")
            taken.append(time.perf_counter() - began)
        return float(np.percentile(taken, 99)) * 1e3

    async def warm_rows_p99(self) -> float:
        """p99 in milliseconds of 8 rows, a count that was warmed up."""
        return await self._p99(8)

    async def other_rows_p99(self) -> float:
        """p99 in milliseconds of 5 rows, a count that no one announced."""
        return await self._p99(5)


def memory_of_lanes(bench: Bench) -> dict[str, int]:
    """Bytes of the three lanes, of what their profiles need, and of three naive contexts."""
    engine = bench.engine
    need = lanes = 0
    for index, runner in enumerate(bench.runners.values()):
        inputs, outputs = (2 * n * runner.profile.rows.max for n in (element_count(IMAGE), 1000))
        need += engine.get_device_memory_size_for_profile_v2(index) + 2 * (inputs + outputs)
        lanes += runner.memory().device_bytes - runner.graphs.nbytes
    free_before, _ = device.free_memory()
    contexts = [engine.create_execution_context() for _ in PROFILES]
    naive = free_before - device.free_memory()[0]
    del contexts
    return {"profiles_need": need, "lanes": lanes, "naive_contexts_scratch_alone": naive}


async def soak(bench: Bench, requests: int) -> dict[str, float]:
    """Mixed requests; growth of device, pinned and resident memory after a tenth of them."""
    draw = np.random.default_rng(0)
    sizes = draw.choice([1, 1, 1, 2, 3, 4, 5, 8, 17, 32, 128], requests)
    inputs = {int(rows): images(int(rows)) for rows in set(sizes)}
    queue = iter(int(rows) for rows in sizes)

    def held() -> tuple[int, int, int]:
        memory = [runner.memory() for runner in bench.runners.values()]
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        return device.free_memory()[0], sum(m.host_bytes for m in memory), resident

    async def user(count: int) -> None:
        for _, rows in zip(range(count), queue, strict=False):
            await bench.dispatcher.submit({"X": inputs[rows]})

    await asyncio.gather(*(user(requests // 80) for _ in range(8)))
    before = held()
    began = time.perf_counter()
    await asyncio.gather(*(user(requests) for _ in range(8)))
    after = held()
    return {
        "requests": requests,
        "seconds": round(time.perf_counter() - began, 1),
        "device_bytes_more": before[0] - after[0],
        "pinned_bytes_more": after[1] - before[1],
        "peak_resident_bytes_more": after[2] - before[2],
    }


async def measure(repeats: int, soak_requests: int) -> dict[str, object]:
    """Load, warm up, measure everything, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LANEWISE_CACHE"] = folder
        file = export_resnet(Path(folder))
        began = time.perf_counter()
        (source,) = find_models(file)
        settings = read_model_settings(source.settings_file)
        loaded = load_model(source, settings, clock=SystemClock())
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=1024)
        await dispatcher.warm_up()
        ready_s = time.perf_counter() - began
        runners = {runner.profile.name: runner for runner in loaded.runners}
        bench = Bench(dispatcher, runners, loaded.runners[0]._keep_alive.engine)
        steps: list[Callable[[], Awaitable[float]]] = [
            bench.bare_bulk, bench.served_bulk, bench.naive_bulk, bench.bare_row,
            bench.served_row, bench.two_lanes_2,
            bench.two_lanes_8, bench.one_switching_context,
            bench.warm_rows_p99, bench.other_rows_p99,
        ]  # fmt: skip
        samples: dict[str, list[float]] = {step.__name__: [] for step in steps}
        for _ in range(repeats):
            for step in steps:
                samples[step.__name__].append(await step())
        memory = memory_of_lanes(bench)
        batch = Batch({"X": [images(23)]}, 23, 23)
        began = time.perf_counter()
        runners["dynamic"].run(batch)  # past the scheduler, which would pad it to a warm count
        cold_ms = (time.perf_counter() - began) * 1e3
        soaked = await soak(bench, soak_requests)
        graphs = {
            name: {
                "hits": runner.graphs.hits,
                "misses": {miss.value: count for miss, count in runner.graphs.misses.items()},
                "bytes": runner.graphs.nbytes,
            }
            for name, runner in runners.items()
        }
        await dispatcher.drain(0)
        await dispatcher.close()
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "date": datetime.date.today().isoformat(),
        "device": device.require_device().title,
        "tensorrt": bind("tensorrt-rtx").name,
        "lanewise": __version__,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
        "build_and_warm_up_s": round(ready_s, 1),
        "first_run_of_a_cold_row_count_ms": round(cold_ms, 1),
        "medians": medians,
        "samples": samples,
        "memory": memory,
        "soak": soaked,
        "graphs": graphs,
    }


def table(result: dict) -> str:
    """The speed table in Markdown."""
    m, memory = result["medians"], result["memory"]
    bulk, naive = (f"{m[name] / m['bare_bulk']:.1%}" for name in ("served_bulk", "naive_bulk"))
    above_us = m["served_row"] - m["bare_row"]
    few, many, switching = m["two_lanes_2"], m["two_lanes_8"], m["one_switching_context"]
    share = memory["lanes"] / memory["profiles_need"]
    other, warm = m["other_rows_p99"], m["warm_rows_p99"]
    rows = [
        (
            "images/s at 128 rows, of the bare execution loop",
            ">= 95 %",
            f"{bulk} ({m['served_bulk']:.0f} of {m['bare_bulk']:.0f})",
            naive,
        ),
        (
            "latency of 1 row, above a bare graph with copies",
            "<= 120 us",
            f"{above_us:.0f} us ({m['served_row']:.0f} against {m['bare_row']:.0f})",
            "-",
        ),
        (
            "1-row and 4-row pairs/s, of one context that switches profiles",
            ">= 3 times",
            f"{many / switching:.2f} times ({many:.0f}) with 8 pairs outstanding, "
            f"{few / switching:.2f} times ({few:.0f}) with 2",
            f"1 ({switching:.0f})",
        ),
        (
            "device memory of three lanes, of what their profiles need",
            "<= 1.1 times",
            f"{share:.3f} times ({memory['lanes'] >> 20} MiB)",
            f"{memory['naive_contexts_scratch_alone'] >> 20} MiB of scratch alone",
        ),
        (
            "p99 of a row count no one announced, of a warm one's",
            "<= 2 times",
            f"{other / warm:.2f} times ({other:.2f} against {warm:.2f} ms)",
            f"{result['first_run_of_a_cold_row_count_ms']:.0f} ms, the first time",
        ),
    ]
    lines = ["| what | goal | lanes | the naive way |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--soak-requests", type=int, default=100_000)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    configure_logging(level="warning")
    result = asyncio.run(measure(arguments.repeats, arguments.soak_requests))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2))
    print(table(result))
    print(json.dumps({key: result[key] for key in ("memory", "soak", "graphs")}, indent=2))


if __name__ == "__main__":
    main()
