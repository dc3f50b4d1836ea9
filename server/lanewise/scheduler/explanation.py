"""Where a request would run on an idle server, and why, in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from lanewise.errors import NoProfileAdmits
from lanewise.models import Profile
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.results import CandidateReport, PlannedLaunch, RouteReport
from lanewise.scheduler.routing import Eligibility, Route, Router
from lanewise.tensors import Shape


def explain(
    router: Router,
    lanes: Sequence[Lane],
    shapes: Mapping[str, Shape],
    profile: str | int | None = None,
) -> RouteReport:
    """Tell which profiles admit a request of these shapes, and what would be launched for it.

    Args:
        router: of the model.
        lanes: of the model.
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
        own, reason = Eligibility((), ()), error.message
    else:
        fits = tuple(index for index in route.fits if index in live)
        own, reason = Eligibility((), ()), "every lane that can run the request is out of service"
        if fits:
            own = router.eligibility(fits, rows)
            launches = _plan(router, route, fits, live)
    candidates = []
    for candidate in router.spec.profiles:
        if pin is not None and candidate is not pin:
            admits, why = False, f"the request is pinned to '{pin.name}'"
        elif problem := router.find_problem(candidate, in_order, rows):
            admits, why = False, problem
        elif candidate.index not in live:
            admits, why = False, "its lanes are out of service"
        else:
            admits, why = _weigh_rows(candidate, rows, own)
        candidates.append(CandidateReport(candidate, admits, why))
    if launches:
        admitting = sum(candidate.admits for candidate in candidates)
        reason = _describe_plan(rows, launches, admitting, pinned=pin is not None)
    return RouteReport(bool(launches), reason, rows, tuple(candidates), launches)


def _plan(
    router: Router, route: Route, fits: tuple[int, ...], lanes: Mapping[int, Lane]
) -> tuple[PlannedLaunch, ...]:
    """List the launches of a request that has the server to itself.

    `lanes` has one for each profile index in `fits`.
    """
    launches: list[PlannedLaunch] = []
    first_row = 0
    while first_row < route.rows:
        left = route.rows - first_row
        owners = [lanes[index] for index in router.eligibility(fits, left).owners]
        choices = [(lane, min(left, lane.profile.rows.max)) for lane in owners]
        lane, rows = min(
            choices, key=lambda c: route.preference(c[0].profile, c[1], c[0].padded(c[1]))
        )
        launches.append(
            PlannedLaunch(lane.lane_id, lane.profile, first_row, rows, lane.padded(rows))
        )
        first_row += rows
    return tuple(launches)


def _weigh_rows(profile: Profile, rows: int, own: Eligibility) -> tuple[bool, str]:
    limits = profile.rows
    owns = profile.index in own.owners
    if rows > limits.max:
        if owns:
            return True, f"takes {limits.max} of the {_rows(rows)} at a time"
        return False, f"{_rows(rows)} are more than its {limits.max}"
    if rows < limits.min:
        padding = f"would pad {_rows(rows)} to {limits.min}"
        why = "no profile runs them unpadded" if owns else "takes them only if others fill it"
        return True, f"{padding}; {why}"
    return True, f"runs {_rows(rows)} unpadded; it is tuned for {limits.opt}"


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
        return f"{_rows(rows)} are more than one launch takes: split into {parts}"
    (launch,) = launches
    padded = launch.padded_rows > launch.rows
    them = "it" if rows == 1 else "them"
    if pinned:
        why = "the request is pinned to it"
    elif admitting == 1:
        why = f"it is the only profile that admits {them}"
    else:
        why = f"among the {admitting} that admit {them}, it is tuned for the nearest shapes"
    return (
        f"profile '{launch.profile.name}' runs {_rows(rows)} "
        f"{f'padded to {launch.padded_rows}' if padded else 'without padding'}: {why}"
    )
