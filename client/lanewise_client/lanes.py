"""The lanes of a model, their costs, the routes of requests: questions and answers as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

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

_RecordT = TypeVar("_RecordT", bound=Any)

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
        candidates=tuple(_record(Candidate, each) for each in response.candidates),
        launches=tuple(_record(PlannedLaunch, each) for each in response.launches),
    )


def parse_costs(response: lanes_pb2.ListCostsResponse) -> ModelCosts:
    """Read what the launches of a model cost."""
    return ModelCosts(
        name=response.name,
        version=response.version,
        launches=tuple(_record(LaunchCost, each) for each in response.launches),
        pairs=tuple(_record(PairCost, each) for each in response.pairs),
    )


def _record(kind: type[_RecordT], message: Message) -> _RecordT:
    """Make a record of plain values from the fields of a message, which have the same names."""
    names = (field.name for field in dataclasses.fields(kind))
    record: _RecordT = kind(**{name: getattr(message, name) for name in names})
    return record


def _parse_lane(lane: lanes_pb2.Lane) -> Lane:
    profile, graphs = lane.profile, None
    if lane.HasField("graphs"):
        graphs = LaneGraphs(lane.graphs.launches, dict(lane.graphs.misses), lane.graphs.held)
    ranges = {
        admitted.tensor: ShapeRange(tuple(admitted.min), tuple(admitted.opt), tuple(admitted.max))
        for admitted in profile.ranges
    }
    return Lane(
        lane_id=lane.id,
        profile=Profile(profile.index, profile.name, ranges, profile.max_queue_delay_ms),
        rows=RowRange(profile.min_rows, profile.opt_rows, profile.max_rows),
        state=_STATES.get(lane.state, LaneState.UNKNOWN),
        counters=_record(LaneCounters, lane.counters),
        host_bytes=lane.host_bytes,
        device_bytes=lane.device_bytes,
        memory=_record(LaneMemory, lane.memory),
        graphs=graphs,
    )
