"""Where a request would run on an idle server, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping

from lanewise.errors import NoProfileAdmits
from lanewise.models import Profile
from lanewise.scheduler.results import CandidateReport, PlannedLaunch, RouteReport
from lanewise.scheduler.routing import Eligibility, Route, Router
from lanewise.tensors import Shape


def explain(
    router: Router, shapes: Mapping[str, Shape], profile: str | int | None = None
) -> RouteReport:
    """Tell which profiles admit a request of these shapes, and what would be launched for it.

    Args:
        router: of the model.
        shapes: of every input of the model, by name.
        profile: name or index of the only profile allowed; None for any.

    Raises:
        UnknownTensor, ShapeMismatch, UnknownProfile: as `Router.route` does. A shape that
            no profile admits is no error here.
    """
    in_order = router.in_order(shapes)
    pin = router.pinned(profile)
    rows = router.count_rows(in_order)
    launches: tuple[PlannedLaunch, ...] = ()
    try:
        route = router.route(shapes, profile)
    except NoProfileAdmits as error:
        own, reason = Eligibility((), ()), error.message
    else:
        own = router.eligibility(route.fits, rows)
        launches = _plan(router, route)
        reason = _describe_plan(rows, launches)
    candidates = []
    for candidate in router.spec.profiles:
        if pin is not None and candidate is not pin:
            admits, why = False, f"the request is pinned to '{pin.name}'"
        elif problem := router.find_problem(candidate, in_order, rows):
            admits, why = False, problem
        else:
            admits, why = _weigh_rows(candidate, rows, own)
        candidates.append(CandidateReport(candidate, admits, why))
    return RouteReport(bool(launches), reason, rows, tuple(candidates), launches)


def _plan(router: Router, route: Route) -> tuple[PlannedLaunch, ...]:
    """List the launches of a request that has the server to itself."""
    launches: list[PlannedLaunch] = []
    first_row = 0
    while first_row < route.rows:
        profile, rows = _next_launch(router, route, route.rows - first_row)
        launches.append(PlannedLaunch(profile, first_row, rows, max(rows, profile.rows.min)))
        first_row += rows
    return tuple(launches)


def _next_launch(router: Router, route: Route, rows_left: int) -> tuple[Profile, int]:
    """Choose as the batching policy does: most rows first, then the nearest opt."""
    owners = (router.spec.profiles[i] for i in router.eligibility(route.fits, rows_left).owners)
    choices = [(profile, min(rows_left, profile.rows.max)) for profile in owners]
    return min(choices, key=lambda c: (-c[1], route.distance(c[0], max(c[1], c[0].rows.min))))


def _weigh_rows(profile: Profile, rows: int, own: Eligibility) -> tuple[bool, str]:
    limits = profile.rows
    owns = profile.index in own.owners
    if rows > limits.max:
        if owns:
            return True, f"takes {limits.max} of the {rows} rows at a time"
        return False, f"{rows} rows are more than its {limits.max}"
    if rows < limits.min:
        padding = f"would pad {rows} rows to {limits.min}"
        why = "no profile runs them unpadded" if owns else "takes them only if others fill it"
        return True, f"{padding}; {why}"
    return True, f"runs {rows} rows unpadded; it is tuned for {limits.opt}"


def _describe_plan(rows: int, launches: tuple[PlannedLaunch, ...]) -> str:
    if len(launches) > 1:
        parts = " + ".join(f"{launch.rows} at '{launch.profile.name}'" for launch in launches)
        return f"{rows} rows are more than any profile admits: split into {parts}"
    (launch,) = launches
    padded = launch.padded_rows > launch.rows
    return (
        f"profile '{launch.profile.name}' runs {rows} rows "
        f"{f'padded to {launch.padded_rows}' if padded else 'without padding'}: "
        "among those that admit them, it is tuned for the nearest shapes"
    )
