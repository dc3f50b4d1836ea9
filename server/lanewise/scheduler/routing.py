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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lanewise.errors import NoProfileAdmits, ShapeMismatch, UnknownProfile, UnknownTensor
from lanewise.models import ModelSpec, Profile
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

    def distance(self, profile: Profile, rows: int) -> float:
        """How far a launch of `rows` of these shapes is from the opt of `profile`, in octaves."""
        item_distance = self.distances[self.fits.index(profile.index)]
        return item_distance + abs(math.log2(rows / profile.rows.opt))


@dataclass(frozen=True, slots=True)
class Eligibility:
    """The profiles that may launch a number of rows, by index; see this module's text."""

    owners: tuple[int, ...]
    guests: tuple[int, ...]


class Router:
    """Routes the requests of one model. Pure: the same shapes always get the same route."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._route = functools.lru_cache(CACHED_ROUTES)(self._find_route)
        self._eligibility = functools.lru_cache(CACHED_ROUTES)(self._find_eligibility)

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
        return self._route(self.in_order(shapes), profile)

    def eligibility(self, fits: tuple[int, ...], rows: int) -> Eligibility:
        """Get the profiles, among those of index `fits`, that may launch `rows` rows."""
        return self._eligibility(fits, rows)

    def in_order(self, shapes: Mapping[str, Shape]) -> tuple[Shape, ...]:
        """Put the shapes in the order of the model's inputs.

        Raises:
            UnknownTensor: an input is missing or not the model's.
        """
        known = [tensor.name for tensor in self.spec.inputs]
        listed = ", ".join(f"'{name}'" for name in known)
        for name in known:
            if name not in shapes:
                raise UnknownTensor(
                    f"model '{self.spec.name}': input '{name}' is missing; its inputs are: {listed}"
                )
        for name in shapes:
            if name not in known:
                raise UnknownTensor(
                    f"model '{self.spec.name}' has no input '{name}'; its inputs are: {listed}"
                )
        return tuple(shapes[name] for name in known)

    def pinned(self, profile: str | int | None) -> Profile | None:
        """Get the profile of that name or index; None for None.

        Raises:
            UnknownProfile: there is none.
        """
        if profile is None:
            return None
        found = self.spec.find_profile(profile)
        if found is None:
            listed = ", ".join(f"'{p.name}' (index {p.index})" for p in self.spec.profiles)
            raise UnknownProfile(
                f"model '{self.spec.name}' has no profile '{profile}'; it has: {listed}"
            )
        return found

    def count_rows(self, shapes: tuple[Shape, ...]) -> int:
        """Count the rows of a request; 1 for a model without batching.

        Raises:
            ShapeMismatch: a shape contradicts the model, or the inputs disagree on rows.
        """
        counted: dict[str, int] = {}
        for tensor, shape in zip(self.spec.inputs, shapes, strict=True):
            first = self._first_item_dim(tensor.name)
            if len(shape) != len(tensor.shape) or any(
                size not in (DYNAMIC, got)
                for size, got in zip(tensor.shape[first:], shape[first:], strict=True)
            ):
                raise ShapeMismatch(
                    f"model '{self.spec.name}', input '{tensor.name}': shape "
                    f"{format_shape(shape)} does not match the model's "
                    f"{format_shape(tensor.shape)} (-1 is any size)"
                )
            if first:
                counted[tensor.name] = shape[0]
        if len(set(counted.values())) > 1:
            listed = ", ".join(f"'{name}' has {rows}" for name, rows in counted.items())
            raise ShapeMismatch(
                f"model '{self.spec.name}': the inputs disagree on the number of rows "
                f"(dimension 0): {listed}; send the same number in each"
            )
        return next(iter(counted.values()), 1)

    def find_problem(self, profile: Profile, shapes: tuple[Shape, ...], rows: int) -> str:
        """Say why `profile` cannot run a request however it is split or padded; "" if it can."""
        if rows == 0:
            return "0 rows were sent, at least 1 is needed"
        for name, dim, size in self._item_dims(shapes):
            low, high = profile.ranges[name].min[dim], profile.ranges[name].max[dim]
            if not low <= size <= high:
                allowed = str(low) if low == high else f"{low} to {high}"
                return f"dimension {dim} of '{name}' is {size}, it admits {allowed}"
        return ""

    def _find_route(self, shapes: tuple[Shape, ...], pin: str | int | None) -> Route:
        only = self.pinned(pin)
        rows = self.count_rows(shapes)
        allowed = self.spec.profiles if only is None else (only,)
        fits = [p for p in allowed if not self.find_problem(p, shapes, rows)]
        if not fits:
            raise self._no_profile_admits(shapes, rows, allowed)
        return Route(
            rows=rows,
            shapes=tuple(
                shape[self._first_item_dim(tensor.name) :]
                for tensor, shape in zip(self.spec.inputs, shapes, strict=True)
            ),
            fits=tuple(profile.index for profile in fits),
            distances=tuple(self._item_distance(profile, shapes) for profile in fits),
        )

    def _find_eligibility(self, fits: tuple[int, ...], rows: int) -> Eligibility:
        ranges = {index: self.spec.profiles[index].rows for index in fits}
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

    def _first_item_dim(self, name: str) -> int:
        return 1 if name in self.spec.rowwise else 0

    def _item_dims(self, shapes: tuple[Shape, ...]) -> Iterator[tuple[str, int, int]]:
        """Iterate over (input name, dimension, size), without those that count rows."""
        for tensor, shape in zip(self.spec.inputs, shapes, strict=True):
            for dim in range(self._first_item_dim(tensor.name), len(shape)):
                yield tensor.name, dim, shape[dim]

    def _item_distance(self, profile: Profile, shapes: tuple[Shape, ...]) -> float:
        return sum(
            abs(math.log2(max(1, size) / max(1, profile.ranges[name].opt[dim])))
            for name, dim, size in self._item_dims(shapes)
        )

    def _no_profile_admits(
        self, shapes: tuple[Shape, ...], rows: int, allowed: tuple[Profile, ...]
    ) -> NoProfileAdmits:
        sent = ", ".join(
            f"'{tensor.name}' {format_shape(shape)}"
            for tensor, shape in zip(self.spec.inputs, shapes, strict=True)
        )
        reasons = "; ".join(
            f"'{profile.name}' (index {profile.index}) admits {_describe_ranges(profile)}: "
            + self.find_problem(profile, shapes, rows)
            for profile in allowed
        )
        which = "" if allowed == self.spec.profiles else "of those the request is pinned to "
        return NoProfileAdmits(
            f"model '{self.spec.name}': no profile {which}admits {sent}; {reasons}; "
            "send a shape within a range, or add a profile for this one"
        )


def _describe_ranges(profile: Profile) -> str:
    return ", ".join(
        f"'{name}' {format_shape(limits.min)} to {format_shape(limits.max)}"
        for name, limits in profile.ranges.items()
    )
