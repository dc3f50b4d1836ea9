"""Which profiles can run a request, and which of them should.

A request's dimensions other than rows must lie within a profile. Its rows need not:

1. A profile whose row range holds the request's rows *owns* it.
2. If there is none, but one with a higher minimum, the request is padded up to the lowest
   such minimum.
3. If there is none of either, the request is larger than every profile: the profile with
   the most rows takes a full launch of it, and the rest is routed again.

A profile with a higher minimum than the request's rows may take it as a *guest*: when the
launch is happening anyway, or when guests alone fill it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from lanewise.errors import NoProfileAdmits, ShapeMismatch, UnknownProfile, UnknownTensor
from lanewise.models import ModelSpec, Profile
from lanewise.scheduler.results import CandidateReport, PlannedLaunch, RouteReport
from lanewise.tensors import DYNAMIC, Shape, format_shape

CACHED_ROUTES = 4096
"""Routes remembered per model: more distinct shapes than live traffic has, a few MB at most."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request of given shapes can run.

    Attributes:
        rows: rows to run; 1 for a model without batching.
        shapes: what must be equal for requests to be stacked: per input in the model's
            order its shape, without dimension 0 if that counts rows.
        fits: indexes of the profiles that admit every dimension but rows, ascending.
        distances: for each of `fits`, how far the dimensions other than rows are from the
            profile's opt: the sum of |log2(size / opt)|.
    """

    rows: int
    shapes: tuple[Shape, ...]
    fits: tuple[int, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Eligibility:
    """The profiles that may launch a number of rows, by index; see this module's text."""

    owners: tuple[int, ...]
    guests: tuple[int, ...]


def row_distance(profile: Profile, rows: int) -> float:
    """How far `rows` are from what `profile` is tuned for: |log2(rows / opt)|."""
    return abs(math.log2(rows / profile.rows.opt))


class Router:
    """Routes the requests of one model. Pure: the same shapes always get the same route."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._names = tuple(tensor.name for tensor in spec.inputs)
        self._route_shapes = functools.lru_cache(CACHED_ROUTES)(self._find_route)
        self.eligibility = functools.lru_cache(CACHED_ROUTES)(self._find_eligibility)

    def route(self, shapes: Mapping[str, Shape], profile: str | int | None = None) -> Route:
        """Get the route of a request.

        Args:
            shapes: of every input of the model, by name.
            profile: name or index of the only profile allowed; None for any.

        Raises:
            UnknownTensor: an input is missing or not the model's.
            ShapeMismatch: a shape contradicts the model, or the inputs disagree on rows.
            UnknownProfile: there is no profile of that name or index.
            NoProfileAdmits: the message lists what each profile admits.
        """
        try:
            in_order = tuple(shapes[name] for name in self._names)
        except KeyError as missing:
            raise self._missing(missing.args[0]) from None
        if len(shapes) != len(in_order):
            extra = next(name for name in shapes if name not in self._names)
            raise UnknownTensor(
                f"model '{self._spec.name}' has no input '{extra}'; it has: {self._list_inputs()}"
            )
        return self._route_shapes(in_order, profile)

    def explain(self, shapes: Mapping[str, Shape], profile: str | int | None = None) -> RouteReport:
        """Tell what `route` finds and what would be launched on an idle server, in words.

        Raises:
            UnknownTensor, ShapeMismatch, UnknownProfile: as `route` does.
        """
        try:
            route = self.route(shapes, profile)
        except NoProfileAdmits as error:
            return self._explain_refusal(shapes, profile, error)
        launches = self._plan(route)
        own = self.eligibility(route.fits, route.rows)
        in_order = tuple(shapes[name] for name in self._names)
        pin = self._find_pin(profile)
        candidates = tuple(
            self._describe_candidate(candidate, in_order, pin, route.rows, own)
            for candidate in self._spec.profiles
        )
        return RouteReport(
            True, _describe_plan(route.rows, launches), route.rows, candidates, launches
        )

    def _find_route(self, shapes: tuple[Shape, ...], pinned: str | int | None) -> Route:
        pin = self._find_pin(pinned)
        rows = self._count_rows(shapes)
        fits = tuple(
            profile
            for profile in self._spec.profiles
            if (pin is None or pin is profile) and not self._find_problem(profile, shapes)
        )
        if rows == 0 or not fits:
            raise self._no_profile_admits(shapes, pin, rows)
        stacked = tuple(
            shape[1:] if name in self._spec.rowwise else shape
            for name, shape in zip(self._names, shapes, strict=True)
        )
        return Route(
            rows=rows,
            shapes=stacked,
            fits=tuple(profile.index for profile in fits),
            distances=tuple(self._item_distance(profile, shapes) for profile in fits),
        )

    def _find_eligibility(self, fits: tuple[int, ...], rows: int) -> Eligibility:
        ranges = {index: self._spec.profiles[index].rows for index in fits}
        within = tuple(i for i, r in ranges.items() if r.min <= rows <= r.max)
        above = tuple(i for i, r in ranges.items() if rows < r.min)
        if within:
            return Eligibility(within, above)
        if above:
            lowest = min(ranges[i].min for i in above)
            owners = tuple(i for i in above if ranges[i].min == lowest)
            return Eligibility(owners, tuple(i for i in above if i not in owners))
        highest = max(r.max for r in ranges.values())
        return Eligibility(tuple(i for i, r in ranges.items() if r.max == highest), ())

    def _plan(self, route: Route) -> tuple[PlannedLaunch, ...]:
        launches: list[PlannedLaunch] = []
        first_row = 0
        while first_row < route.rows:
            left = route.rows - first_row
            best = min(
                (self._spec.profiles[i] for i in self.eligibility(route.fits, left).owners),
                key=lambda p: (
                    -min(left, p.rows.max),
                    row_distance(p, max(left, p.rows.min))
                    + route.distances[route.fits.index(p.index)],
                    p.index,
                ),
            )
            rows = min(left, best.rows.max)
            launches.append(PlannedLaunch(best, first_row, rows, max(rows, best.rows.min)))
            first_row += rows
        return tuple(launches)

    def _find_pin(self, pinned: str | int | None) -> Profile | None:
        if pinned is None:
            return None
        profile = self._spec.find_profile(pinned)
        if profile is None:
            listed = ", ".join(f"'{p.name}' (index {p.index})" for p in self._spec.profiles)
            raise UnknownProfile(
                f"model '{self._spec.name}' has no profile '{pinned}'; it has: {listed}"
            )
        return profile

    def _count_rows(self, shapes: tuple[Shape, ...]) -> int:
        """Count the rows, checking every shape against the model."""
        counted: dict[str, int] = {}
        for tensor, shape in zip(self._spec.inputs, shapes, strict=True):
            rowwise = tensor.name in self._spec.rowwise
            free = {0} if rowwise else set()
            if len(shape) != len(tensor.shape) or any(
                DYNAMIC != size != got and dim not in free
                for dim, (size, got) in enumerate(zip(tensor.shape, shape, strict=True))
            ):
                raise ShapeMismatch(
                    f"model '{self._spec.name}', input '{tensor.name}': shape "
                    f"{format_shape(shape)} does not match the model's "
                    f"{format_shape(tensor.shape)} (-1 is any size)"
                )
            if rowwise:
                counted[tensor.name] = shape[0]
        if len(set(counted.values())) > 1:
            listed = ", ".join(f"'{name}' has {rows}" for name, rows in counted.items())
            raise ShapeMismatch(
                f"model '{self._spec.name}': the inputs disagree on the number of rows "
                f"(dimension 0): {listed}; send the same number in each"
            )
        return next(iter(counted.values()), 1)

    def _find_problem(self, profile: Profile, shapes: tuple[Shape, ...]) -> str:
        """Say which dimension, rows apart, `profile` does not admit; empty if it admits all."""
        for name, shape in zip(self._names, shapes, strict=True):
            limits = profile.ranges[name]
            first = 1 if name in self._spec.rowwise else 0
            for dim in range(first, len(shape)):
                low, high = limits.min[dim], limits.max[dim]
                if not low <= shape[dim] <= high:
                    allowed = str(low) if low == high else f"{low} to {high}"
                    return f"dimension {dim} of '{name}' is {shape[dim]}, it admits {allowed}"
        return ""

    def _item_distance(self, profile: Profile, shapes: tuple[Shape, ...]) -> float:
        total = 0.0
        for name, shape in zip(self._names, shapes, strict=True):
            opt = profile.ranges[name].opt
            first = 1 if name in self._spec.rowwise else 0
            for dim in range(first, len(shape)):
                total += abs(math.log2(max(1, shape[dim]) / max(1, opt[dim])))
        return total

    def _missing(self, name: str) -> UnknownTensor:
        return UnknownTensor(
            f"model '{self._spec.name}': input '{name}' is missing; "
            f"the model's inputs are: {self._list_inputs()}"
        )

    def _list_inputs(self) -> str:
        return ", ".join(f"'{name}'" for name in self._names)

    def _no_profile_admits(
        self, shapes: tuple[Shape, ...], pin: Profile | None, rows: int
    ) -> NoProfileAdmits:
        sent = ", ".join(
            f"'{name}' {format_shape(shape)}"
            for name, shape in zip(self._names, shapes, strict=True)
        )
        lines = []
        for profile in self._spec.profiles:
            if pin is not None and profile is not pin:
                continue
            problem = self._find_problem(profile, shapes) if rows else "0 rows were sent"
            admits = ", ".join(
                f"'{name}' {format_shape(r.min)} to {format_shape(r.max)}"
                for name, r in profile.ranges.items()
            )
            lines.append(f"'{profile.name}' (index {profile.index}) admits {admits}: {problem}")
        which = (
            f"profile '{pin.name}', which the request is pinned to, does not admit"
            if pin
            else "no profile admits"
        )
        return NoProfileAdmits(
            f"model '{self._spec.name}': {which} {sent}; "
            + "; ".join(lines)
            + "; change the shape or serve a profile that admits it"
        )

    def _explain_refusal(
        self, shapes: Mapping[str, Shape], pinned: str | int | None, error: NoProfileAdmits
    ) -> RouteReport:
        in_order = tuple(shapes[name] for name in self._names)
        rows = self._count_rows(in_order)
        pin = self._find_pin(pinned)
        candidates = tuple(
            self._describe_candidate(profile, in_order, pin, rows, Eligibility((), ()))
            for profile in self._spec.profiles
        )
        return RouteReport(False, error.message, rows, candidates, ())

    def _describe_candidate(
        self,
        profile: Profile,
        shapes: tuple[Shape, ...],
        pin: Profile | None,
        rows: int,
        eligibility: Eligibility,
    ) -> CandidateReport:
        limits = profile.rows
        if pin is not None and pin is not profile:
            return CandidateReport(profile, False, f"the request is pinned to '{pin.name}'")
        problem = self._find_problem(profile, shapes) if rows else "0 rows: at least 1 is needed"
        if problem:
            return CandidateReport(profile, False, problem)
        if rows > limits.max:
            if profile.index in eligibility.owners:
                return CandidateReport(
                    profile, True, f"takes up to {limits.max} rows a launch of {rows}"
                )
            return CandidateReport(profile, False, f"{rows} rows, it admits up to {limits.max}")
        if rows < limits.min:
            padding = f"would pad {rows} rows to {limits.min}"
            if profile.index in eligibility.owners:
                return CandidateReport(profile, True, f"{padding}; no profile admits them unpadded")
            return CandidateReport(profile, True, f"{padding}; used when other rows fill it")
        return CandidateReport(
            profile, True, f"admits {rows} rows unpadded, tuned for {limits.opt}"
        )


def _describe_plan(rows: int, launches: tuple[PlannedLaunch, ...]) -> str:
    if len(launches) == 1:
        (launch,) = launches
        padding = launch.padded_rows - launch.rows
        how = f"padded to {launch.padded_rows}" if padding else "without padding"
        return (
            f"profile '{launch.profile.name}' runs {rows} rows {how}: "
            f"of those that can, its opt ({launch.profile.rows.opt} rows) is nearest"
        )
    parts = " + ".join(f"{launch.rows} at '{launch.profile.name}'" for launch in launches)
    return f"{rows} rows are more than any profile admits: split into {parts}"
