"""Where a request would run on an idle server, and why, in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from lanewise.clock import NS_PER_MS
from lanewise.errors import NoProfileAdmits
from lanewise.model.tensors import Shape
from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.policy.interface import Policy
from lanewise.scheduler.request import Launch, Request
from lanewise.scheduler.results import CandidateReport, PlannedLaunch, RouteReport
from lanewise.scheduler.routing import Route, Router


def explain(  # noqa: PLR0917 - a model's scheduler, and what is asked of it
    router: Router,
    lanes: Sequence[Lane],
    policy: Policy,
    costs: CostTable,
    shapes: Mapping[str, Shape],
    profile: str | int | None = None,
) -> RouteReport:
    """Tell which profiles admit a request of these shapes, and what would be launched for it.

    Args:
        router: of the model.
        lanes: of the model.
        policy: decides as it would for a request that has the server to itself.
        costs: of the model.
        shapes: of every input of the model, by name.
        profile: name or index of the only profile allowed; None for any.

    Raises:
        UnknownTensor, ShapeMismatch, UnknownProfile: as `Router.route` does. A shape that
            no profile admits is no error here.
    """
    in_order = router.in_order(shapes)
    pin = router.pinned(profile)
    rows = router.count_rows(in_order)
    live = {lane.profile.index: lane for lane in reversed(lanes) if not lane.is_retired}
    launches: tuple[PlannedLaunch, ...] = ()
    try:
        route = router.route(shapes, profile)
    except NoProfileAdmits as error:
        reason = error.message
    else:
        fits = tuple(index for index in route.fits if index in live)
        reason = "every lane that can run the request is out of service"
        if fits:
            launches = _plan(route, fits, lanes, policy)
    candidates = []
    for candidate in router.spec.profiles:
        if pin is not None and candidate is not pin:
            admits, why = False, f"the request is pinned to '{pin.name}'"
        elif problem := router.find_problem(candidate, in_order, rows):
            admits, why = False, problem
        elif candidate.index not in live:
            admits, why = False, "its lanes are out of service"
        else:
            admits, why = True, _price(live[candidate.index], rows, costs, in_order, router)
        candidates.append(CandidateReport(candidate, admits, why))
    if launches:
        admitting = sum(candidate.admits for candidate in candidates)
        reason = _describe_plan(rows, launches, admitting, pinned=pin is not None)
    return RouteReport(bool(launches), reason, rows, tuple(candidates), launches)


def _plan(
    route: Route, fits: tuple[int, ...], lanes: Sequence[Lane], policy: Policy
) -> tuple[PlannedLaunch, ...]:
    """List the launches of a request that has the server to itself, one after the other."""
    request = Request(route, stack_key=(), fits=fits, rows_left=route.rows)
    request.due_ns = request.target_ns
    launches = []
    while request.rows_left:
        backlog = Backlog(_idle(lanes))
        backlog.draining = True  # nothing else is waited for
        backlog.add(request)
        launch = policy.choose(backlog, 0)
        assert isinstance(launch, Launch), "an idle lane that fits is not held back"
        ((_, first_row, rows),) = launch.parts
        lane = launch.lane
        launches.append(
            PlannedLaunch(lane.lane_id, lane.profile, first_row, rows, lane.padded(rows))
        )
        request.next_row += rows
        request.rows_left -= rows
    return tuple(launches)


def _idle(lanes: Iterable[Lane]) -> tuple[Lane, ...]:
    return tuple(
        Lane(lane.lane_id, lane.profile, lane.depth, lane.row_counts, is_retired=lane.is_retired)
        for lane in lanes
    )


def _price(
    lane: Lane, rows: int, costs: CostTable, shapes: tuple[Shape, ...], router: Router
) -> str:
    """Say what one launch of the profile would do for the request, and what it would cost."""
    profile = lane.profile
    launched = min(rows, profile.rows.max)
    padded = lane.padded(launched)
    cost_ns = costs.typical_ns(profile.index, padded, router.bucket_in(profile, shapes))
    does = f"runs {_rows(launched)}" if launched == rows else f"takes {launched} of {_rows(rows)}"
    padding = f" padded to {padded}" if padded > launched else ""
    return f"{does}{padding} in about {cost_ns / NS_PER_MS:.2f} ms"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _describe_plan(
    rows: int, launches: tuple[PlannedLaunch, ...], admitting: int, *, pinned: bool
) -> str:
    if len(launches) > 1:
        runs = itertools.groupby(launches, lambda launch: (launch.rows, launch.profile.name))
        counted = [(len(list(run)), rows, name) for (rows, name), run in runs]
        parts = " + ".join(
            f"{f'{count} x ' if count > 1 else ''}{each} at '{name}'"
            for count, each, name in counted
        )
        return f"{_rows(rows)} cost least when they are split into {parts}"
    (launch,) = launches
    padded = launch.padded_rows > launch.rows
    them = "it" if rows == 1 else "them"
    if pinned:
        why = "the request is pinned to it"
    elif admitting == 1:
        why = f"it is the only profile that admits {them}"
    else:
        why = f"among the {admitting} that admit {them}, it costs least"
    return (
        f"profile '{launch.profile.name}' runs {_rows(rows)} "
        f"{f'padded to {launch.padded_rows}' if padded else 'without padding'}: {why}"
    )
