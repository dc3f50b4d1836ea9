"""One server's part of a request, and the parts of its stages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.hot_path.requests import Infer, Sent, send
from benchmarks.hot_path.stopwatch import Overhead, Stage, Stopwatch, measured
from lanewise.model.spec import ModelSpec
from lanewise.rpc.inference.codec import Codec, profile_names
from lanewise.scheduler.results import InferResult
from lanewise_client.protos import inference_pb2 as pb

ALONE = 5_000
NS_PER_US = 1_000

REST = "event loop, coroutines, unnamed"
"""What is left of the whole when every stage is taken off it."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """CPU microseconds of one request, medians.

    Attributes:
        place: the thread or process that they are of.
        whole_us: measured without looking at stages.
        stages_us: adds up to `whole_us`, with REST.
        calls: how often a request calls the functions of a stage, where stages were measured.
    """

    place: str
    in_flight: int
    requests_per_s: float
    whole_us: float
    stages_us: dict[str, float]
    calls: dict[str, float]


def alone(function: Callable[[], object]) -> float:
    """Get the microseconds of a function that is called again and again."""
    began_ns = time.thread_time_ns()
    for _ in range(ALONE):
        function()
    return (time.thread_time_ns() - began_ns) / ALONE / NS_PER_US


def messages_alone(
    request: pb.ModelInferRequest, spec: ModelSpec, result: InferResult
) -> dict[str, float]:
    """Measure by themselves what cannot be measured inside: C functions that are held on to."""
    data = request.SerializeToString()
    codec = Codec(spec)
    selection = codec.select_outputs(request, raw=True)
    response = codec.encode_response("", selection, result, profile_names(result))
    return {
        "parse": alone(lambda: pb.ModelInferRequest.FromString(data)),
        "serialize": alone(response.SerializeToString),
    }


class Repeats:
    """Runs of one number in flight, by turns with and without a look at the stages."""

    def __init__(self, stages: Sequence[Stage], overhead: Overhead) -> None:
        self._stages = stages
        self._overhead = overhead
        self.plain: list[Sent] = []
        self._by_stage: list[dict[str, float]] = []
        self._calls: list[dict[str, float]] = []

    async def run_plain(self, infer: Infer, in_flight: int, requests: int) -> Sent:
        """Send the requests as a client would."""
        sent = await send(infer, in_flight, requests)
        self.plain.append(sent)
        return sent

    async def run_measured(self, infer: Infer, in_flight: int, requests: int) -> Sent:
        """Send the requests and look at the stages."""
        stopwatch = Stopwatch()
        with measured(self._stages, stopwatch):
            sent = await send(infer, in_flight, requests)
        found = stopwatch.ns_by_stage(self._overhead)
        self._by_stage.append({n: ns / sent.requests / NS_PER_US for n, ns in found.items()})
        calls = stopwatch.calls_by_stage()
        self._calls.append({name: each / sent.requests for name, each in calls.items()})
        return sent

    def stage_us(self) -> dict[str, float]:
        """Get the medians of all stages."""
        return medians(self._by_stage)

    def calls(self) -> dict[str, float]:
        """Get how often a request calls each stage, medians."""
        return medians(self._calls)


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Get the median of every entry."""
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def per_request_us(sent: Sequence[Sent], ns_of: Callable[[Sent], int]) -> float:
    """Get the median of what a request took."""
    return statistics.median(ns_of(each) / each.requests for each in sent) / NS_PER_US


def rate_of(sent: Sequence[Sent]) -> float:
    """Get the median of the requests per second."""
    return statistics.median(each.requests / each.wall_ns for each in sent) * 1e9


def broken_down(  # noqa: PLR0917 - the fields of a breakdown
    place: str,
    in_flight: int,
    rate: float,
    whole_us: float,
    stages_us: dict[str, float],
    calls: dict[str, float],
    rest: str = REST,
) -> Breakdown:
    """Complete the stages with what is left of the whole, under the name `rest`."""
    left_us = whole_us - sum(stages_us.values())
    called = {name: calls[name] for name in stages_us if name in calls}
    return Breakdown(place, in_flight, rate, whole_us, {**stages_us, rest: left_us}, called)
