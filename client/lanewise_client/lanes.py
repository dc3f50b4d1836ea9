"""The lanes of a model, their costs, the routes of requests: questions and answers as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lanewise_client.protos import lanes_pb2
from lanewise_client.results import (
    Candidate,
    Lane,
    LaneCounters,
    LaneGraphs,
    LaneMemory,
    LaneState,
    LaunchCost,
    ModelCosts,
    ModelLanes,
    PairCost,
    PlannedLaunch,
    Profile,
    Route,
    RowRange,
    ShapeRange,
)

_STATES = {
    lanes_pb2.LANE_STATE_IDLE: LaneState.IDLE,
    lanes_pb2.LANE_STATE_BUSY: LaneState.BUSY,
    lanes_pb2.LANE_STATE_RETIRED: LaneState.RETIRED,
}


def parse_lanes(response: lanes_pb2.ListLanesResponse) -> ModelLanes:
    """Read the lanes of a model."""
    return ModelLanes(
        name=response.name,
        version=response.version,
        backend=response.backend,
        batching=response.batching,
        lanes=tuple(_parse_lane(lane) for lane in response.lanes),
        waiting_requests=response.waiting_requests,
    )


def build_explain(
    model: str, version: str, shapes: Mapping[str, Sequence[int]], profile: str | int | None
) -> lanes_pb2.ExplainRouteRequest:
    """Make the question where a request of these input shapes would run."""
    return lanes_pb2.ExplainRouteRequest(
        name=model,
        version=version,
        inputs=[lanes_pb2.InputShape(name=name, shape=shape) for name, shape in shapes.items()],
        profile="" if profile is None else str(profile),
    )


def parse_route(response: lanes_pb2.ExplainRouteResponse) -> Route:
    """Read where a request would run, and why."""
    return Route(
        admitted=response.admitted,
        reason=response.reason,
        rows=response.rows,
        candidates=tuple(
            Candidate(
                candidate.profile_index, candidate.profile, candidate.admits, candidate.reason
            )
            for candidate in response.candidates
        ),
        launches=tuple(
            PlannedLaunch(
                launch.lane_id,
                launch.profile,
                launch.first_row,
                launch.rows,
                launch.padded_rows,
            )
            for launch in response.launches
        ),
    )


def parse_costs(response: lanes_pb2.ListCostsResponse) -> ModelCosts:
    """Read what the launches of a model cost."""
    return ModelCosts(
        name=response.name,
        version=response.version,
        launches=tuple(
            LaunchCost(
                profile_index=cost.profile_index,
                profile=cost.profile,
                rows=cost.rows,
                bucket=cost.bucket,
                typical_ns=cost.typical_ns,
                safe_ns=cost.safe_ns,
                samples=cost.samples,
                behind_ns=cost.behind_ns,
            )
            for cost in response.launches
        ),
        pairs=tuple(
            PairCost(
                profile_index=pair.profile_index,
                profile=pair.profile,
                other_index=pair.other_index,
                other=pair.other,
                slowdown=pair.slowdown,
                other_rows=pair.other_rows,
            )
            for pair in response.pairs
        ),
    )


def _parse_lane(lane: lanes_pb2.Lane) -> Lane:
    profile, counters = lane.profile, lane.counters
    return Lane(
        lane_id=lane.id,
        profile=Profile(
            index=profile.index,
            name=profile.name,
            ranges={
                admitted.tensor: ShapeRange(
                    tuple(admitted.min), tuple(admitted.opt), tuple(admitted.max)
                )
                for admitted in profile.ranges
            },
            max_queue_delay_ms=profile.max_queue_delay_ms,
        ),
        rows=RowRange(profile.min_rows, profile.opt_rows, profile.max_rows),
        state=_STATES.get(lane.state, LaneState.UNKNOWN),
        counters=LaneCounters(
            launches=counters.launches,
            failed_launches=counters.failed_launches,
            requests=counters.requests,
            rows=counters.rows,
            padded_rows=counters.padded_rows,
            orphaned_rows=counters.orphaned_rows,
            execution_ns=counters.execution_ns,
            queue_ns=counters.queue_ns,
            predicted_ns=counters.predicted_ns,
        ),
        host_bytes=lane.host_bytes,
        device_bytes=lane.device_bytes,
        memory=_parse_memory(lane.memory),
        graphs=_parse_graphs(lane.graphs) if lane.HasField("graphs") else None,
    )


def _parse_memory(memory: lanes_pb2.LaneMemory) -> LaneMemory:
    return LaneMemory(
        pageable_bytes=memory.pageable_bytes,
        pinned_bytes=memory.pinned_bytes,
        tensor_bytes=memory.tensor_bytes,
        scratch_bytes=memory.scratch_bytes,
        graph_bytes=memory.graph_bytes,
    )


def _parse_graphs(graphs: lanes_pb2.LaneGraphs) -> LaneGraphs:
    return LaneGraphs(launches=graphs.launches, misses=dict(graphs.misses), held=graphs.held)
