"""A whole server over real gRPC on one core, and its client on another.

The client is a closed loop of grpc.aio in this process. What the server's threads take is read from
/proc, so those of gRPC and of ONNX Runtime are seen, too.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import numpy as np

from benchmarks.hot_path.child import Child
from benchmarks.hot_path.measuring import NS_PER_US, Breakdown, broken_down, medians, rate_of
from benchmarks.hot_path.requests import MODEL_INFER, Infer, Sent, send
from benchmarks.hot_path.stages import EXECUTION
from benchmarks.hot_path.threads import Taken
from lanewise.model.tensors import DType
from lanewise_client.protos import inference_pb2 as pb

REST = "gRPC, event loop, coroutines, unnamed"
READY_S = 60.0

_EXECUTION_NAMES = frozenset(stage.name for stage in EXECUTION)
_SERVICE = MODEL_INFER.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class ThreadShare:
    """What the threads of one name took for a request, medians over the runs.

    Attributes:
        cpu_us, kernel_us: microseconds of processor time, and those of them in the kernel.
        voluntary, involuntary: context switches.
    """

    name: str
    in_flight: int
    cpu_us: float
    kernel_us: float
    voluntary: float
    involuntary: float


class _Runs:
    """Runs of one number in flight."""

    def __init__(self) -> None:
        self.plain: list[Sent] = []
        self.loop_us: list[float] = []
        self.stages_us: list[dict[str, float]] = []
        self.calls: list[dict[str, float]] = []
        self.threads: list[dict[str, list[float]]] = []

    async def run(self, server: Child, infer: Infer, in_flight: int, requests: int) -> None:
        """Send the requests once plain and once with a look at the stages."""
        server.say("plain")
        sent = await send(infer, in_flight, requests)
        report = await server.report()
        self.plain.append(sent)
        self.loop_us.append(report["loop_ns"] / sent.requests / NS_PER_US)
        self.threads.append(
            {
                name: [each / sent.requests for each in taken]
                for name, taken in report["threads"].items()
            }
        )
        server.say("measured")
        sent = await send(infer, in_flight, requests)
        per_request = sent.requests * NS_PER_US
        report = await server.report()
        self.stages_us.append({n: ns / per_request for n, ns in report["stages_ns"].items()})
        self.calls.append({n: each / sent.requests for n, each in report["calls"].items()})

    def shares(self, in_flight: int) -> Iterator[ThreadShare]:
        """Get the threads' shares, the busiest first; those that did nothing are left out."""
        nothing = [0.0] * len(Taken._fields)
        found = []
        for name in {name for run in self.threads for name in run}:
            runs = [run.get(name, nothing) for run in self.threads]
            cpu_ns, kernel_ns, voluntary, involuntary = map(
                statistics.median, zip(*runs, strict=True)
            )
            share = cpu_ns / NS_PER_US, kernel_ns / NS_PER_US, voluntary, involuntary
            found.append(ThreadShare(name, in_flight, *share))
        yield from sorted((s for s in found if s.cpu_us >= 0.05), key=lambda s: -s.cpu_us)


async def measure(  # noqa: PLR0917 - as the other places
    models: Path,
    in_flight: Sequence[int],
    requests: int,
    repeats: int,
    messages: dict[str, float],
    core: int,
) -> tuple[list[Breakdown], list[ThreadShare]]:
    """Measure the server's process at each number in flight.

    It runs on `core`, the client on another; `messages` is what parsing and serializing take, see
    `messages_alone`.
    """
    port = _free_port()
    model = next(path.name for path in sorted(models.iterdir()) if path.is_dir())  # noqa: ASYNC240
    with _on_core(core):
        server = Child("whole", str(port), models)
    runs = {each: _Runs() for each in in_flight}
    try:
        with _on_core((core + 1) % (os.cpu_count() or 1)):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                infer = await _infer_with(channel, model)
                for each in in_flight:
                    await send(infer, each, requests // 4)
                for _ in range(repeats):
                    for each in in_flight:
                        await runs[each].run(server, infer, each, requests)
    finally:
        server.end()
    breakdowns = [_broken_down(each, runs[each], messages) for each in in_flight]
    return breakdowns, [share for each in in_flight for share in runs[each].shares(each)]


def _broken_down(in_flight: int, runs: _Runs, messages: dict[str, float]) -> Breakdown:
    stages = medians(runs.stages_us)
    on_loop = {name: us for name, us in stages.items() if name not in _EXECUTION_NAMES}
    loop_us = statistics.median(runs.loop_us)
    rate = rate_of(runs.plain)
    stages = {**messages, **on_loop}
    calls = medians(runs.calls)
    return broken_down("loop over gRPC", in_flight, rate, loop_us, stages, calls, REST)


async def _infer_with(channel: grpc.aio.Channel, name: str) -> Infer:
    """Wait for the model and get what sends one request of one row."""
    describe = channel.unary_unary(
        f"{_SERVICE}/ModelMetadata",
        request_serializer=pb.ModelMetadataRequest.SerializeToString,
        response_deserializer=pb.ModelMetadataResponse.FromString,
    )
    async with asyncio.timeout(READY_S):
        while True:
            try:
                metadata = await describe(pb.ModelMetadataRequest(name=name))
                break
            except grpc.aio.AioRpcError:  # not listening, or still loading
                await asyncio.sleep(0.1)
    request = pb.ModelInferRequest(model_name=name)
    for tensor in metadata.inputs:
        shape = [size if size > 0 else 1 for size in tensor.shape]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        zeros = np.zeros(shape, DType(tensor.datatype).numpy)
        request.raw_input_contents.append(zeros.tobytes())
    data = request.SerializeToString()
    call = channel.unary_unary(MODEL_INFER)

    async def infer() -> None:
        await call(data)

    return infer


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Run this process, and whatever it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
