"""The metrics for Prometheus, collected at each scrape.

Names that begin with `nv_` are Triton's and mean what they mean there, durations in
microseconds; a `profile` label is added where it applies. Triton's `nv_inference_compute_*`
are left out on purpose: they add the execution time of a batch once for each of its requests.
Lanes count it once, as `lanewise_execution_seconds_total`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lanewise import __version__
from lanewise.clock import NS_PER_S
from lanewise.model.runner_status import RunnerMemory
from lanewise.scheduler.registry import LocalLanes, ModelRegistry, ServedModel
from lanewise.scheduler.results import LaneCounters, LaneState, LaneStatus

_log = structlog.get_logger(__name__)

_NS_PER_US = 1_000

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BUCKETS_NS = tuple(round(bound * NS_PER_S) for bound in _BUCKETS_S)
_BUCKET_NAMES = (*map(str, _BUCKETS_S), "+Inf")

_MODEL = ("model", "version")
_PROFILE = (*_MODEL, "profile")
_LANE = (*_PROFILE, "lane")
_SEVERAL = "several"

_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_REASON_OF_ERROR = {
    "QueueFull": "REJECTED",
    "DeadlineExpired": "REJECTED",
    "Cancelled": "CANCELED",
    "ExecutionFailed": "BACKEND",
    "RunnerLost": "BACKEND",
}
"""Triton's `reason` for the errors that have one; the others are "OTHER"."""

_LANE_COUNTERS: tuple[tuple[str, str, Callable[[LaneCounters], float]], ...] = (
    ("nv_inference_count", "Rows launched for clients, padding left out", lambda c: c.rows),
    ("nv_inference_exec_count", "Launches, failed ones included", lambda c: c.launches),
    (
        "nv_inference_queue_duration_us",
        "Time from arrival to launch, summed over requests; over the parts of a split request",
        lambda c: c.queue_ns // _NS_PER_US,
    ),
    (
        "lanewise_launched_parts",
        "Requests launched; one that is split over three launches counts three times",
        lambda c: c.requests,
    ),
    ("lanewise_padded_rows", "Rows executed, padding included", lambda c: c.padded_rows),
    (
        "lanewise_orphaned_rows",
        "Rows executed for requests that had been cancelled or had expired",
        lambda c: c.orphaned_rows,
    ),
    (
        "lanewise_repeated_launches",
        "Launches of requests whose shared launch had failed, in halves down to a lone request",
        lambda c: c.repeated_launches,
    ),
    ("lanewise_failed_launches", "Launches that failed", lambda c: c.failed_launches),
    (
        "lanewise_execution_seconds",
        "Time from launch until the outputs could be read, summed over launches",
        lambda c: c.execution_ns / NS_PER_S,
    ),
    (
        "lanewise_predicted_execution_seconds",
        "What the same launches were expected to take when they were launched",
        lambda c: c.predicted_ns / NS_PER_S,
    ),
)

_LANE_GAUGES: tuple[tuple[str, str, Callable[[LaneStatus], float]], ...] = (
    (
        "lanewise_lane_hangs",
        "Whether a launch that nobody waits for, and that cannot be ended, holds the lane",
        lambda s: s.hangs,
    ),
    (
        "lanewise_lane_host_bytes",
        "Host memory of the runner's buffers",
        lambda s: s.memory.host_bytes,
    ),
    (
        "lanewise_lane_device_bytes",
        "Device memory of the runner's buffers",
        lambda s: s.memory.device_bytes,
    ),
)

_MEMORY_KINDS: Mapping[str, Callable[[RunnerMemory], float]] = {
    "pageable": lambda m: m.pageable_bytes,
    "pinned": lambda m: m.pinned_bytes,
    "tensors": lambda m: m.tensor_bytes,
    "scratch": lambda m: m.scratch_bytes,
    "graphs": lambda m: m.graph_bytes,
}


@dataclass(slots=True)
class _Latencies:
    """Requests that succeeded. Changed by one thread; others may read."""

    sum_ns: int = 0
    in_bucket: list[int] = field(default_factory=lambda: [0] * len(_BUCKET_NAMES))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model with lanes, at one scrape."""

    labels: tuple[str, str]
    profiles: tuple[str, ...]
    waiting_requests: int
    lanes: tuple[LaneStatus, ...]


class Metrics(Collector):
    """The metrics of one server: those of lanes are read from `models` at every scrape.

    `request_finished` is called on the event loop, `exposition` from any thread. The
    lanes' `status` and `waiting_requests` are read on the thread that calls `exposition`.
    """

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models
        self._succeeded: dict[tuple[str, str, str], _Latencies] = {}
        self._failed: Counter[tuple[str, str, str]] = Counter()
        self._exported = CollectorRegistry()
        self._exported.register(self)
        ProcessCollector(registry=self._exported)

    def request_finished(
        self, model: str, version: str, profile: str, error: str, latency_ns: int
    ) -> None:
        """Count a request that has ended. Label values are kept for good.

        Args:
            model: a model of this server, never a name that a client made up; empty if there
                is none.
            version: as it is served; empty without `model`.
            profile: the profile that served it; several, joined by commas, are counted as
                "several", since each combination would take up memory. Ignored with `error`.
            error: class name of the error; empty on success.
            latency_ns: from arrival until the response was built.
        """
        if error:
            self._failed[model, version, error] += 1
            return
        labels = (model, version, _SEVERAL if "," in profile else profile)
        latencies = self._succeeded.get(labels) or self._latencies(*labels)
        latencies.sum_ns += latency_ns
        latencies.in_bucket[bisect_left(_BUCKETS_NS, latency_ns)] += 1

    def exposition(self) -> bytes:
        # The library writes counters as `..._total`, Triton does without; the samples
        # have the right name already.
        text = generate_latest(self._exported)
        return re.sub(rb"^# (HELP|TYPE) (nv_\w+)_total ", rb"# \1 \2 ", text, flags=re.MULTILINE)

    def collect(self) -> Iterator[Metric]:
        models = list(self._models)
        loaded = [snapshot for model in models if (snapshot := _snapshot(model)) is not None]
        yield _gauge(
            "lanewise_build_info", "The version that runs", ["version"], [((__version__,), 1)]
        )
        yield _gauge(
            "lanewise_model_ready",
            "Whether the model takes requests",
            _MODEL,
            [((m.name, m.version), m.is_ready) for m in models],
        )
        yield _gauge(
            "nv_inference_pending_request_count",
            "Requests that wait for a launch",
            _MODEL,
            [(model.labels, model.waiting_requests) for model in loaded],
        )
        yield from _collect_lanes(loaded)
        yield from self._collect_succeeded(loaded)
        yield from self._collect_failed(loaded)

    def _latencies(self, model: str, version: str, profile: str) -> _Latencies:
        return self._succeeded.setdefault((model, version, profile), _Latencies())

    def _collect_succeeded(self, loaded: Iterable[_Loaded]) -> Iterator[Metric]:
        for model in loaded:
            for profile in model.profiles:
                # Starts at 0: a rate would miss the first request of a series.
                self._latencies(*model.labels, profile)
        histogram = HistogramMetricFamily(
            "lanewise_request_duration_seconds",
            "Latency of requests that succeeded",
            labels=_PROFILE,
        )
        counts: list[tuple[Sequence[str], float]] = []
        durations: list[tuple[Sequence[str], float]] = []
        for labels, latencies in list(self._succeeded.items()):
            sum_ns, cumulative = latencies.sum_ns, list(accumulate(latencies.in_bucket))
            buckets = list(zip(_BUCKET_NAMES, cumulative, strict=True))
            histogram.add_metric(labels, buckets, sum_ns / NS_PER_S)
            counts.append((labels, cumulative[-1]))
            durations.append((labels, sum_ns // _NS_PER_US))
        yield histogram
        yield _counter("nv_inference_request_success", "Requests that succeeded", _PROFILE, counts)
        yield _counter(
            "nv_inference_request_duration_us",
            "Latency, summed over the requests that succeeded",
            _PROFILE,
            durations,
        )

    def _collect_failed(self, loaded: Iterable[_Loaded]) -> Iterator[Metric]:
        errors = list(self._failed.items())
        reasons = {(*model.labels, reason): 0 for model in loaded for reason in _REASONS}
        for (model, version, error), count in errors:
            if model:
                labels = (model, version, _REASON_OF_ERROR.get(error, "OTHER"))
                reasons[labels] = reasons.get(labels, 0) + count
        yield _counter(
            "nv_inference_request_failure",
            "Requests that failed, by Triton's reasons",
            (*_MODEL, "reason"),
            reasons.items(),
        )
        yield _counter(
            "lanewise_request_errors",
            "Requests that failed, by class of error; no model if it is unknown",
            (*_MODEL, "error"),
            errors,
        )


def _snapshot(model: ServedModel) -> _Loaded | None:
    """Look at a model; None, with a line in the log, if it cannot be: the others still can."""
    if model.lanes is None:
        return None
    lanes = cast(LocalLanes, model.lanes)  # metrics are collected where the lanes are
    profiles = tuple(profile.name for profile in lanes.spec.profiles)
    labels = (model.name, model.version)
    try:
        return _Loaded(labels, profiles, lanes.waiting_requests, lanes.status())
    except Exception:
        _log.exception("metrics of a model are left out", model=model.name, version=model.version)
        return None


def _collect_lanes(loaded: Sequence[_Loaded]) -> Iterator[Metric]:
    """Yield what lanes count, summed over the lanes of a profile, and what each of them is."""
    lanes = [
        ((*model.labels, lane.profile.name, str(lane.lane_id)), lane)
        for model in loaded
        for lane in model.lanes
    ]
    for name, text, count in _LANE_COUNTERS:
        counted = ((profile, count(lane.counters)) for (*profile, _), lane in lanes)
        yield _counter(name, text, _PROFILE, _sums(counted))
    for name, text, measure in _LANE_GAUGES:
        yield _gauge(name, text, _LANE, [(labels, measure(lane)) for labels, lane in lanes])
    yield _gauge(
        "lanewise_lane_memory_bytes",
        "Memory of the runner's buffers, by kind",
        (*_LANE, "kind"),
        [
            ((*labels, kind), measure(lane.memory))
            for labels, lane in lanes
            for kind, measure in _MEMORY_KINDS.items()
        ],
    )
    yield from _collect_graphs(lanes)
    yield _gauge(
        "lanewise_lane_state",
        "1 for the state the lane is in, 0 for the others",
        (*_LANE, "state"),
        [
            ((*labels, state.value), lane.state is state)
            for labels, lane in lanes
            for state in LaneState
        ],
    )


def _collect_graphs(lanes: Iterable[tuple[Sequence[str], LaneStatus]]) -> Iterator[Metric]:
    """Yield how CUDA graphs are used by the lanes that have a use for them."""
    graphs = [(labels, lane.graphs) for labels, lane in lanes if lane.graphs is not None]
    yield _counter(
        "lanewise_graph_launches",
        "Executions that were the launch of a CUDA graph, warm-up included",
        _PROFILE,
        _sums((profile, counts.launches) for (*profile, _), counts in graphs),
    )
    yield _counter(
        "lanewise_graph_misses",
        "Executions that were not the launch of a CUDA graph, warm-up included, by reason",
        (*_PROFILE, "reason"),
        _sums(
            ((*profile, reason), count)
            for (*profile, _), counts in graphs
            for reason, count in counts.misses.items()
        ),
    )
    yield _gauge(
        "lanewise_lane_graphs",
        "CUDA graphs kept",
        _LANE,
        [(labels, counts.held) for labels, counts in graphs],
    )


_Samples = Iterable[tuple[Sequence[str], float]]


def _sums(samples: _Samples) -> _Samples:
    sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for labels, value in samples:
        sums[*labels] += value
    return sums.items()


def _gauge(name: str, text: str, label_names: Sequence[str], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=label_names)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _counter(name: str, text: str, label_names: Sequence[str], samples: _Samples) -> Metric:
    if not name.startswith("nv_"):
        family = CounterMetricFamily(name, text, labels=label_names)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family
    exact = Metric(name, text, "counter")
    for labels, value in samples:
        exact.add_sample(name, dict(zip(label_names, labels, strict=True)), value)
    return exact
