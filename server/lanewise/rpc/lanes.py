"""The lanewise.v1 service: the lanes of a model, their costs, and why a request takes which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from lanewise.clock import NS_PER_MS
from lanewise.errors import InvalidRequest
from lanewise.model.runner_status import GraphCounts, RunnerMemory
from lanewise.model.spec import Profile
from lanewise.model.tensors import Shape
from lanewise.scheduler.costs.report import LaunchCost, PairCost
from lanewise.scheduler.registry import LocalLanes, ModelRegistry, ServedModel
from lanewise.scheduler.results import LaneCounters, LaneState, LaneStatus, RouteReport
from lanewise_client.protos import lanes_pb2 as pb

_STATES = {
    LaneState.IDLE: pb.LANE_STATE_IDLE,
    LaneState.BUSY: pb.LANE_STATE_BUSY,
    LaneState.RETIRED: pb.LANE_STATE_RETIRED,
}


class LaneService:
    """Answers `lanewise.v1.LaneService` from models whose lanes are in this process."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def methods(self) -> Mapping[str, Callable[[Any], Awaitable[Any]]]:
        """Map the methods this service offers to what answers them."""
        return {
            "ListLanes": self._list_lanes,
            "ExplainRoute": self._explain_route,
            "ListCosts": self._list_costs,
        }

    async def _list_lanes(self, request: pb.ListLanesRequest) -> pb.ListLanesResponse:
        model = self._registry.resolve(request.name, request.version)
        lanes = _local(model)
        return pb.ListLanesResponse(
            name=model.name,
            version=model.version,
            backend=lanes.spec.backend,
            batching=lanes.spec.batching,
            lanes=[_lane(lane) for lane in lanes.status()],
            waiting_requests=lanes.waiting_requests,
        )

    async def _explain_route(self, request: pb.ExplainRouteRequest) -> pb.ExplainRouteResponse:
        lanes = _local(self._registry.resolve(request.name, request.version))
        return _route(lanes.explain(_shapes(request), request.profile or None))

    async def _list_costs(self, request: pb.ListCostsRequest) -> pb.ListCostsResponse:
        model = self._registry.resolve(request.name, request.version)
        report = _local(model).cost_report()
        return pb.ListCostsResponse(
            name=model.name,
            version=model.version,
            launches=[_launch_cost(cost) for cost in report.launches],
            pairs=[_pair_cost(cost) for cost in report.pairs],
        )


def _local(model: ServedModel) -> LocalLanes:
    return cast(LocalLanes, model.require_lanes())


def _shapes(request: pb.ExplainRouteRequest) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for sent in request.inputs:
        if sent.name in shapes:
            raise InvalidRequest(
                f"model '{request.name}', input '{sent.name}': sent twice; send each input once"
            )
        shapes[sent.name] = tuple(sent.shape)
    return shapes


def _lane(status: LaneStatus) -> pb.Lane:
    return pb.Lane(
        id=status.lane_id,
        profile=_profile(status.profile),
        state=_STATES[status.state],
        counters=_counters(status.counters),
        host_bytes=status.memory.host_bytes,
        device_bytes=status.memory.device_bytes,
        memory=_memory(status.memory),
        graphs=None if status.graphs is None else _graphs(status.graphs),
    )


def _profile(profile: Profile) -> pb.Profile:
    return pb.Profile(
        index=profile.index,
        name=profile.name,
        ranges=[
            pb.ShapeRange(tensor=tensor, min=shapes.min, opt=shapes.opt, max=shapes.max)
            for tensor, shapes in profile.ranges.items()
        ],
        max_queue_delay_ms=profile.max_queue_delay_ns / NS_PER_MS,
        min_rows=profile.rows.min,
        opt_rows=profile.rows.opt,
        max_rows=profile.rows.max,
    )


def _counters(counters: LaneCounters) -> pb.LaneCounters:
    return pb.LaneCounters(
        launches=counters.launches,
        failed_launches=counters.failed_launches,
        requests=counters.requests,
        rows=counters.rows,
        padded_rows=counters.padded_rows,
        orphaned_rows=counters.orphaned_rows,
        execution_ns=counters.execution_ns,
        queue_ns=counters.queue_ns,
        predicted_ns=counters.predicted_ns,
    )


def _memory(memory: RunnerMemory) -> pb.LaneMemory:
    return pb.LaneMemory(
        pageable_bytes=memory.pageable_bytes,
        pinned_bytes=memory.pinned_bytes,
        tensor_bytes=memory.tensor_bytes,
        scratch_bytes=memory.scratch_bytes,
        graph_bytes=memory.graph_bytes,
    )


def _graphs(counts: GraphCounts) -> pb.LaneGraphs:
    return pb.LaneGraphs(launches=counts.launches, misses=counts.misses, held=counts.held)


def _launch_cost(cost: LaunchCost) -> pb.LaunchCost:
    return pb.LaunchCost(
        profile_index=cost.profile.index,
        profile=cost.profile.name,
        rows=cost.rows,
        bucket=cost.bucket,
        typical_ns=cost.typical_ns,
        safe_ns=cost.safe_ns,
        samples=cost.samples,
        behind_ns=cost.behind_ns,
    )


def _pair_cost(cost: PairCost) -> pb.PairCost:
    return pb.PairCost(
        profile_index=cost.profile.index,
        profile=cost.profile.name,
        other_index=cost.other.index,
        other=cost.other.name,
        other_rows=cost.rows,
        slowdown=cost.slowdown,
    )


def _route(report: RouteReport) -> pb.ExplainRouteResponse:
    return pb.ExplainRouteResponse(
        admitted=report.admitted,
        reason=report.reason,
        rows=report.rows,
        candidates=[
            pb.Candidate(
                profile_index=candidate.profile.index,
                profile=candidate.profile.name,
                admits=candidate.admits,
                reason=candidate.reason,
            )
            for candidate in report.candidates
        ],
        launches=[
            pb.PlannedLaunch(
                lane_id=launch.lane_id,
                profile=launch.profile.name,
                first_row=launch.first_row,
                rows=launch.rows,
                padded_rows=launch.padded_rows,
            )
            for launch in report.launches
        ],
    )
