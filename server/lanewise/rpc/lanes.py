"""The lanewise.v1 service: the lanes of a model, their costs, and why a request takes which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

from lanewise.clock import NS_PER_MS
from lanewise.errors import InvalidRequest
from lanewise.model.spec import Profile
from lanewise.model.tensors import Shape, open_sizes
from lanewise.scheduler.registry import LocalLanes, ModelRegistry, ServedModel
from lanewise.scheduler.results import LaneState, LaneStatus, RouteReport
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
        lanes = _local(model)
        profiles, costs = lanes.spec.profiles, lanes.costs
        kinds = sorted(
            costs.kinds(), key=lambda each: (each[0].profile, each[0].bucket, each[0].rows)
        )
        return pb.ListCostsResponse(
            name=model.name,
            version=model.version,
            launches=[
                pb.LaunchCost(
                    profile_index=kind.profile,
                    profile=profiles[kind.profile].name,
                    rows=kind.rows,
                    bucket=kind.bucket,
                    typical_ns=estimate.typical_ns,
                    safe_ns=estimate.safe_ns,
                    samples=len(estimate.samples_ns),
                    behind_ns=estimate.behind_ns or 0,
                )
                for kind, estimate in kinds
            ],
            pairs=[
                pb.PairCost(
                    profile_index=pair.profile,
                    profile=profiles[pair.profile].name,
                    other_index=pair.other,
                    other=profiles[pair.other].name,
                    other_rows=pair.rows,
                    slowdown=pair.slowdown,
                )
                for pair in sorted(costs.pairs())
            ],
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
    # The messages name what these records hold as the records do.
    return pb.Lane(
        id=status.lane_id,
        profile=_profile(status.profile),
        state=_STATES[status.state],
        counters=pb.LaneCounters(**asdict(status.counters)),
        host_bytes=status.memory.host_bytes,
        device_bytes=status.memory.device_bytes,
        memory=pb.LaneMemory(**asdict(status.memory)),
        graphs=None if status.graphs is None else pb.LaneGraphs(**asdict(status.graphs)),
    )


def _profile(profile: Profile) -> pb.Profile:
    return pb.Profile(
        index=profile.index,
        name=profile.name,
        ranges=[
            pb.ShapeRange(tensor=tensor, min=shapes.min, opt=shapes.opt, max=open_sizes(shapes.max))
            for tensor, shapes in profile.ranges.items()
        ],
        max_queue_delay_ms=profile.max_queue_delay_ns / NS_PER_MS,
        min_rows=profile.rows.min,
        opt_rows=profile.rows.opt,
        max_rows=profile.rows.max,
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
