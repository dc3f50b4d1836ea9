"""What a scrape shows of lanes and of requests that ended."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import pytest

import lanewise
from lanewise.model.runner_status import GraphCounts, RunnerMemory
from lanewise.model.spec import ModelSpec, Profile, RowRange
from lanewise.scheduler.registry import ModelRegistry, ModelState, ServedModel
from lanewise.scheduler.results import LaneCounters, LaneState, LaneStatus
from lanewise.telemetry.metrics import Metrics

ONLINE = Profile(0, "online", {}, RowRange(1, 1, 1), 0)
DYNAMIC = Profile(1, "dynamic", {}, RowRange(1, 4, 32), 0)
SPEC = ModelSpec(
    name="digits",
    version="1",
    backend="simulated",
    inputs=(),
    outputs=(),
    batching=True,
    rowwise=frozenset(),
    profiles=(ONLINE, DYNAMIC),
)


@dataclass
class FixedLanes:
    """Lanes that do nothing and tell what the test put there."""

    lanes: tuple[LaneStatus, ...]
    waiting_requests: int = 0
    lost_profiles: tuple[str, ...] = ()
    hung_profiles: tuple[str, ...] = ()
    spec: ModelSpec = field(default=SPEC)

    def status(self) -> tuple[LaneStatus, ...]:
        return self.lanes


def lane(lane_id, profile, state=LaneState.IDLE, **counters):
    return LaneStatus(lane_id, profile, state, LaneCounters(**counters), RunnerMemory())


def serve(*lanes, waiting_requests=0):
    registry = ModelRegistry()
    registry.add(
        ServedModel("digits", "1", ModelState.READY, "", FixedLanes(lanes, waiting_requests))
    )
    return Metrics(registry)


def samples(metrics, name):
    """Get {label values in the order of their names: value} of every sample called `name`."""
    lines = re.findall(rf"^{name}{{(.*)}} (.*)$", metrics.exposition().decode(), re.MULTILINE)
    return {tuple(re.findall(r'="([^"]*)"', labels)): float(value) for labels, value in lines}


@pytest.mark.parametrize(
    "name",
    [
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
    ],
)
def test_tritons_counters_are_declared_and_written_under_tritons_names(name):
    lines = serve(lane(0, ONLINE)).exposition().decode().splitlines()

    assert f"# TYPE {name} counter" in lines
    assert any(line.startswith(f"# HELP {name} ") for line in lines)
    assert any(line.startswith(f"{name}{{") for line in lines)
    assert not any(f"{name}_total" in line for line in lines)


def test_pending_requests_are_a_gauge_of_what_waits_now():
    metrics = serve(lane(0, ONLINE), waiting_requests=7)

    assert b"# TYPE nv_inference_pending_request_count gauge\n" in metrics.exposition()
    assert samples(metrics, "nv_inference_pending_request_count") == {("digits", "1"): 7}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nv_inference_count", 40),
        ("nv_inference_exec_count", 8),
        ("nv_inference_queue_duration_us", 2_500),
        ("lanewise_launched_parts_total", 16),
        ("lanewise_padded_rows_total", 64),
        ("lanewise_orphaned_rows_total", 2),
        ("lanewise_repeated_launches_total", 6),
        ("lanewise_failed_launches_total", 4),
        ("lanewise_execution_seconds_total", 3.0),
        ("lanewise_predicted_execution_seconds_total", 2.5),
    ],
)
def test_what_lanes_count_is_summed_over_the_lanes_of_a_profile(name, expected):
    counters = {
        "launches": 4,
        "failed_launches": 2,
        "requests": 8,
        "rows": 20,
        "repeated_launches": 3,
        "padded_rows": 32,
        "orphaned_rows": 1,
        "queue_ns": 1_250_000,
        "execution_ns": 1_500_000_000,
        "predicted_ns": 1_250_000_000,
    }
    metrics = serve(lane(0, ONLINE), lane(1, DYNAMIC, **counters), lane(2, DYNAMIC, **counters))

    assert samples(metrics, name) == {
        ("digits", "online", "1"): 0,
        ("digits", "dynamic", "1"): expected,
    }


def test_a_scrape_reads_the_lanes_as_they_are_then():
    registry = ModelRegistry()
    lanes = FixedLanes((lane(0, ONLINE, rows=1),))
    registry.add(ServedModel("digits", "1", ModelState.READY, "", lanes))
    metrics = Metrics(registry)
    metrics.exposition()

    lanes.lanes = (lane(0, ONLINE, rows=5),)

    assert samples(metrics, "nv_inference_count") == {("digits", "online", "1"): 5}


def test_a_lane_is_in_exactly_one_state():
    metrics = serve(lane(0, ONLINE, LaneState.BUSY), lane(1, DYNAMIC, LaneState.RETIRED))

    assert samples(metrics, "lanewise_lane_state") == {  # lane, model, profile, state, version
        ("0", "digits", "online", "idle", "1"): 0,
        ("0", "digits", "online", "busy", "1"): 1,
        ("0", "digits", "online", "retired", "1"): 0,
        ("1", "digits", "dynamic", "idle", "1"): 0,
        ("1", "digits", "dynamic", "busy", "1"): 0,
        ("1", "digits", "dynamic", "retired", "1"): 1,
    }


def test_memory_is_told_for_each_lane():
    metrics = serve(lane(0, ONLINE), replace(lane(1, ONLINE), memory=RunnerMemory(1, 2, 4, 8, 16)))

    assert samples(metrics, "lanewise_lane_host_bytes") == {
        ("0", "digits", "online", "1"): 0,
        ("1", "digits", "online", "1"): 3,
    }
    assert samples(metrics, "lanewise_lane_device_bytes") == {
        ("0", "digits", "online", "1"): 0,
        ("1", "digits", "online", "1"): 28,
    }


def test_memory_is_told_by_kind():
    metrics = serve(replace(lane(0, ONLINE), memory=RunnerMemory(1, 2, 4, 8, 16)))

    assert {
        kind: value for (kind, *_), value in samples(metrics, "lanewise_lane_memory_bytes").items()
    } == {"pageable": 1, "pinned": 2, "tensors": 4, "scratch": 8, "graphs": 16}


def test_graphs_are_counted_by_profile_and_kept_by_lane():
    first, second = (
        GraphCounts(launches, {"first_run": launches + 1, "captured": 0}, held)
        for launches, held in ((10, 3), (20, 4))
    )
    metrics = serve(replace(lane(0, ONLINE), graphs=first), replace(lane(1, ONLINE), graphs=second))

    assert samples(metrics, "lanewise_graph_launches_total") == {("digits", "online", "1"): 30}
    assert samples(metrics, "lanewise_graph_misses_total") == {
        ("digits", "online", "first_run", "1"): 32,
        ("digits", "online", "captured", "1"): 0,
    }
    assert samples(metrics, "lanewise_lane_graphs") == {
        ("0", "digits", "online", "1"): 3,
        ("1", "digits", "online", "1"): 4,
    }


def test_a_lane_that_has_no_use_for_graphs_does_not_count_them():
    metrics = serve(lane(0, ONLINE))

    assert samples(metrics, "lanewise_graph_launches_total") == {}
    assert samples(metrics, "lanewise_graph_misses_total") == {}
    assert samples(metrics, "lanewise_lane_graphs") == {}


def test_every_profile_and_reason_starts_at_zero():
    metrics = serve(lane(0, ONLINE), lane(1, DYNAMIC))

    assert samples(metrics, "nv_inference_request_success") == {
        ("digits", "online", "1"): 0,
        ("digits", "dynamic", "1"): 0,
    }
    assert samples(metrics, "nv_inference_request_failure") == {
        ("digits", reason, "1"): 0 for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    }


def test_a_success_counts_for_the_profile_that_served_it():
    metrics = serve(lane(0, ONLINE))

    metrics.request_finished("digits", "1", "online", "", 1_500_000)
    metrics.request_finished("digits", "1", "online", "", 2_000_700)

    labels = ("digits", "online", "1")
    assert samples(metrics, "nv_inference_request_success")[labels] == 2
    assert samples(metrics, "nv_inference_request_duration_us")[labels] == 3_500
    assert samples(metrics, "lanewise_request_duration_seconds_count")[labels] == 2
    assert samples(metrics, "lanewise_request_duration_seconds_sum")[labels] == 0.0035007


def test_a_request_split_over_several_profiles_has_one_label_whatever_they_are():
    metrics = serve()

    metrics.request_finished("digits", "1", "online,dynamic", "", 1_000)
    metrics.request_finished("digits", "1", "dynamic,online", "", 1_000)

    served = samples(metrics, "nv_inference_request_success")
    assert {labels: count for labels, count in served.items() if count} == {
        ("digits", "several", "1"): 2
    }


def test_a_latency_falls_into_every_bucket_whose_bound_it_does_not_exceed():
    metrics = serve()

    for latency_ns in (1_000_000, 1_000_001, 60_000_000_000):
        metrics.request_finished("digits", "1", "online", "", latency_ns)

    buckets = {
        bound: count
        for (bound, _, profile, _), count in samples(
            metrics, "lanewise_request_duration_seconds_bucket"
        ).items()
        if profile == "online"
    }
    assert (buckets["0.0005"], buckets["0.001"], buckets["0.0025"]) == (0, 1, 2)
    assert (buckets["10.0"], buckets["+Inf"]) == (2, 3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("QueueFull", "REJECTED"),
        ("DeadlineExpired", "REJECTED"),
        ("Cancelled", "CANCELED"),
        ("ExecutionFailed", "BACKEND"),
        ("RunnerLost", "BACKEND"),
        ("NoProfileAdmits", "OTHER"),
        ("Draining", "OTHER"),
        ("Internal", "OTHER"),
    ],
)
def test_a_failure_counts_under_its_class_and_under_tritons_reason(error, reason):
    metrics = serve(lane(0, ONLINE))

    metrics.request_finished("digits", "1", "", error, 1_000)

    failures = samples(metrics, "nv_inference_request_failure")
    assert {labels for labels, count in failures.items() if count} == {("digits", reason, "1")}
    assert samples(metrics, "lanewise_request_errors_total") == {(error, "digits", "1"): 1}
    assert sum(samples(metrics, "nv_inference_request_success").values()) == 0


def test_a_request_for_an_unknown_model_is_an_error_of_no_model():
    metrics = serve(lane(0, ONLINE))

    metrics.request_finished("", "", "", "ModelNotFound", 1_000)

    assert samples(metrics, "lanewise_request_errors_total") == {("ModelNotFound", "", ""): 1}
    assert sum(samples(metrics, "nv_inference_request_failure").values()) == 0


def test_only_a_ready_model_is_ready():
    registry = ModelRegistry()
    for version, state in enumerate(ModelState, start=1):
        registry.add(ServedModel("digits", str(version), state))
    ready = samples(Metrics(registry), "lanewise_model_ready")

    assert [
        state.value for state, value in zip(ModelState, ready.values(), strict=True) if value
    ] == ["ready"]


def test_a_model_without_a_version_has_an_empty_one():
    registry = ModelRegistry()
    registry.add(ServedModel("digits", "", ModelState.FAILED, "has no version"))

    assert samples(Metrics(registry), "lanewise_model_ready") == {("digits", ""): 0}


def test_the_running_version_is_told():
    assert samples(serve(), "lanewise_build_info") == {(lanewise.__version__,): 1}


def test_two_servers_in_one_process_keep_their_numbers_apart():
    first, second = serve(lane(0, ONLINE)), serve(lane(0, ONLINE))

    first.request_finished("digits", "1", "online", "", 1)

    assert sum(samples(first, "nv_inference_request_success").values()) == 1
    assert sum(samples(second, "nv_inference_request_success").values()) == 0


def test_a_lane_that_hangs_is_told():
    metrics = serve(lane(0, ONLINE), replace(lane(1, ONLINE), hangs=True))

    assert list(samples(metrics, "lanewise_lane_hangs").values()) == [0, 1]


def test_a_model_that_cannot_be_asked_takes_no_metric_from_the_others():
    class Broken(FixedLanes):
        def status(self):
            raise RuntimeError("the device is gone")

    registry = ModelRegistry()
    for name, lanes in {"a": Broken(()), "b": FixedLanes((lane(0, ONLINE, rows=3),))}.items():
        registry.add(ServedModel(name, "1", ModelState.READY, "", lanes))

    assert samples(Metrics(registry), "nv_inference_count") == {("b", "online", "1"): 3}
