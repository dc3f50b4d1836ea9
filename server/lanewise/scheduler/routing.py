"""Which profiles can run a request, and which of them should.

A request's dimensions other than rows must lie within a profile. Its rows need not:

1. A profile whose row range holds the request's rows *owns* it.
2. If there is none, but one with a higher minimum, the request is padded up to the lowest
   such minimum.
3. If there is none of either, the request is larger than every profile: the profile with
   the most rows takes a full launch of it, and the rest is routed again.

A profile with a higher minimum than the request's rows may take it, too, padded: what that is
worth the policy decides.

Where a model may be padded, a request's length need not lie within a profile either: one that
executes a greater length admits it.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lanewise.errors import NoProfileAdmits, ShapeMismatch, UnknownProfile, UnknownTensor
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import DYNAMIC, Piece, Shape, TensorSpec, format_shape, on_host
from lanewise.scheduler.costs.table import Bucket, bucket_of

MAX_LAUNCHES = 1000
"""Launches that one request may be split over. More would keep a lane from everybody else, and
rows of a few bytes make millions of launches out of one message."""

CACHED_ROUTES = 4096
"""Routes remembered per model: more distinct shapes than live traffic has, a few MB at most."""

_NO_ROWS = "0 rows were sent, at least 1 is needed"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request of given shapes can run.

    Attributes:
        rows: rows to run; 1 for a model without batching.
        shapes: what must be equal for requests to be stacked: per input in the model's
            order its shape, without dimension 0 if that counts rows. With padding, at the
            least length that is executed for it anywhere.
        fits: indexes of the profiles that admit every dimension but rows, ascending.
        buckets: by profile index, of the shapes it executes for the request, for their costs.
        owners: of `fits`, the profiles made for that many rows; see this module's text.
        length: of the request, see `Padding`; 0 without padding.
        lengths: by profile index, what is executed for it, 0 if nothing is long enough;
            empty without padding.
        of_any_length: what must be equal for requests of any length to be stacked; None without
            padding.
    """

    rows: int
    shapes: tuple[Shape, ...]
    fits: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    owners: tuple[int, ...] = ()
    length: int = 0
    lengths: tuple[int, ...] = ()
    of_any_length: tuple[Shape, ...] | None = None


class Router:
    """Routes the requests of one model. Pure: the same shapes always get the same route."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._names = {tensor.name: None for tensor in spec.inputs}  # in order, as a set
        self._lengths = sorted({length for each in spec.profiles for length in each.lengths})
        self._route = functools.lru_cache(CACHED_ROUTES)(self._find_route)
        find_owners = functools.partial(_find_owners, spec.profiles)
        self._owners = functools.lru_cache(CACHED_ROUTES)(find_owners)

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

    def owners(self, fits: tuple[int, ...], rows: int) -> tuple[int, ...]:
        """Get the profiles made for `rows` rows, among those of index `fits`."""
        return self._owners(fits, rows)

    def in_order(self, shapes: Mapping[str, Shape]) -> tuple[Shape, ...]:
        """Put the shapes in the order of the model's inputs.

        Raises:
            UnknownTensor: an input is missing or not the model's.
        """
        known = self._names
        if shapes.keys() == known.keys():
            return tuple(map(shapes.__getitem__, known))
        listed = ", ".join(f"'{name}'" for name in known)
        for name in known:
            if name not in shapes:
                raise UnknownTensor(
                    f"model '{self.spec.name}': input '{name}' is missing; its inputs are: {listed}"
                )
        extra = next(name for name in shapes if name not in known)
        raise UnknownTensor(
            f"model '{self.spec.name}' has no input '{extra}'; its inputs are: {listed}"
        )

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
            if any(size < 0 for size in shape):
                raise ShapeMismatch(
                    f"model '{self.spec.name}', input '{tensor.name}': shape "
                    f"{format_shape(shape)} has a negative dimension; sizes are 0 or more"
                )
            first = self._first_item_dim(tensor.name)
            if len(shape) != len(tensor.shape) or _differs(tensor.shape[first:], shape[first:]):
                raise self._shape_mismatch(tensor, shape)
            if first:
                counted[tensor.name] = shape[0]
        if len(set(counted.values())) > 1:
            listed = ", ".join(f"'{name}' has {rows}" for name, rows in counted.items())
            raise ShapeMismatch(
                f"model '{self.spec.name}': the inputs disagree on the number of rows "
                f"(dimension 0): {listed}; send the same number in each"
            )
        return next(iter(counted.values()), 1)

    def items(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        """Take the dimensions that count rows off the shapes."""
        return tuple(
            shape[self._first_item_dim(tensor.name) :]
            for tensor, shape in zip(self.spec.inputs, shapes, strict=True)
        )

    def length_of(self, shapes: tuple[Shape, ...]) -> int:
        """Get the size in the dimension that may be padded; 0 if there is none.

        Args:
            shapes: with the dimensions of the model.

        Raises:
            ShapeMismatch: the inputs disagree on it.
        """
        padding = self.spec.padding
        if padding is None:
            return 0
        by_name = dict(zip(self._names, shapes, strict=True))
        found = {name: by_name[name][dim] for name, dim in padding.inputs.items()}
        if len(set(found.values())) > 1:
            listed = ", ".join(
                f"'{name}' has {size} (dimension {padding.inputs[name]})"
                for name, size in found.items()
            )
            raise ShapeMismatch(
                f"model '{self.spec.name}': the inputs disagree on {padding.dimension}: {listed}; "
                "send the same in each"
            )
        return next(iter(found.values()))

    def at_length(self, items: tuple[Shape, ...], length: int) -> tuple[Shape, ...]:
        """Get the shapes without rows that are executed at a length; 0 leaves them as they are."""
        padding = self.spec.padding
        if padding is None or not length:
            return items
        named = zip(self._names, items, strict=True)
        return tuple(padding.item_shape(name, item, length) for name, item in named)

    def bucket_in(self, profile: Profile, shapes: tuple[Shape, ...]) -> Bucket:
        """Get the bucket of what `profile` executes for a request of `shapes`."""
        length = profile.padded_length(self.length_of(shapes))
        return bucket_of(self.at_length(self.items(shapes), length))

    def find_problem(self, profile: Profile, shapes: tuple[Shape, ...], rows: int) -> str:
        """Say why `profile` cannot run a request however it is split or padded; "" if it can."""
        if rows == 0:
            return _NO_ROWS
        for name, dim, size in self._item_dims(shapes):
            low, high = self._limits(profile, name, dim)
            if not low <= size <= high:
                return f"dimension {dim} of '{name}' is {size}, it admits {_span(low, high)}"
        return ""

    def _find_route(self, shapes: tuple[Shape, ...], pin: str | int | None) -> Route:
        only = self.pinned(pin)
        rows = self.count_rows(shapes)
        length = self.length_of(shapes)
        allowed = self.spec.profiles if only is None else (only,)
        fits = [p for p in allowed if not self.find_problem(p, shapes, rows)]
        if not fits:
            raise self._no_profile_admits(shapes, rows, allowed)
        most_rows = MAX_LAUNCHES * max(profile.rows.max for profile in fits)
        if rows > most_rows:
            raise NoProfileAdmits(
                f"model '{self.spec.name}': {rows} rows would be split over more than "
                f"{MAX_LAUNCHES} launches; send at most {most_rows} rows in a request"
            )
        items = self.items(shapes)
        indexes = tuple(profile.index for profile in fits)
        if self.spec.padding is None:
            buckets = (bucket_of(items),) * len(self.spec.profiles)
            return Route(rows, items, indexes, buckets, self.owners(indexes, rows))
        lengths = tuple(profile.padded_length(length) for profile in self.spec.profiles)
        least = self._lengths[bisect.bisect_left(self._lengths, length)]
        return Route(
            rows=rows,
            shapes=self.at_length(items, least),
            fits=indexes,
            buckets=tuple(bucket_of(self.at_length(items, each)) for each in lengths),
            owners=self.owners(indexes, rows),
            length=length,
            lengths=lengths,
            of_any_length=self.at_length(items, 1),
        )

    def _limits(self, profile: Profile, name: str, dim: int) -> tuple[int, int]:
        """Get the least and the greatest size of a dimension that `profile` admits."""
        if self.spec.padding is not None and self.spec.padding.inputs.get(name) == dim:
            return 1, profile.lengths[-1]
        return profile.ranges[name].min[dim], profile.ranges[name].max[dim]

    def _first_item_dim(self, name: str) -> int:
        return 1 if name in self.spec.rowwise else 0

    def _item_dims(self, shapes: tuple[Shape, ...]) -> Iterator[tuple[str, int, int]]:
        """Iterate over (input name, dimension, size), without those that count rows."""
        for tensor, shape in zip(self.spec.inputs, shapes, strict=True):
            for dim in range(self._first_item_dim(tensor.name), len(shape)):
                yield tensor.name, dim, shape[dim]

    def _shape_mismatch(self, tensor: TensorSpec, shape: Shape) -> ShapeMismatch:
        legend = " (-1 is any size)" if DYNAMIC in tensor.shape else ""
        only_rows = (
            not self.spec.batching
            and len(shape) == len(tensor.shape) > 0
            and shape[0] != tensor.shape[0]
            and not _differs(tensor.shape[1:], shape[1:])
        )
        hint = (
            "; if dimension 0 counts independent rows, `batching = true` in model.toml lets "
            "requests have any number of them"
        )
        return ShapeMismatch(
            f"model '{self.spec.name}', input '{tensor.name}': shape {format_shape(shape)} does "
            f"not match the model's {format_shape(tensor.shape)}{legend}{hint if only_rows else ''}"
        )

    def _no_profile_admits(
        self, shapes: tuple[Shape, ...], rows: int, allowed: tuple[Profile, ...]
    ) -> NoProfileAdmits:
        title = f"model '{self.spec.name}'"
        if rows == 0:
            return NoProfileAdmits(f"{title}: {_NO_ROWS}")
        if allowed == self.spec.profiles:
            which = "no profile admits"
        else:
            which = f"the request is pinned to profile '{allowed[0].name}', which does not admit"
        sent = ", ".join(
            f"'{tensor.name}' {format_shape(shape)}"
            for tensor, shape in zip(self.spec.inputs, shapes, strict=True)
        )
        reasons = "".join(
            f"\n  '{each.name}' (index {each.index}) admits {self._describe_ranges(each)}: "
            + self.find_problem(each, shapes, rows)
            for each in allowed
        )
        return NoProfileAdmits(
            f"{title}: {which} {sent}; {self._summarize(shapes, allowed)}; "
            f"send a shape within a range, or add a profile for this one{reasons}"
        )

    def _describe_ranges(self, profile: Profile) -> str:
        described = []
        for name, limits in profile.ranges.items():
            low, high = limits.min, limits.max
            if self.spec.padding is not None:
                low = (*low[:1], *self.spec.padding.item_shape(name, low[1:], 1))
                high = (
                    *high[:1],
                    *self.spec.padding.item_shape(name, high[1:], profile.lengths[-1]),
                )
            described.append(f"'{name}' {format_shape(low)} to {format_shape(high)}")
        return ", ".join(described)

    def _summarize(self, shapes: tuple[Shape, ...], allowed: tuple[Profile, ...]) -> str:
        """Say which dimensions are at fault, and what all of `allowed` together admit there."""
        faults = []
        for name, dim, size in self._item_dims(shapes):
            limits = [self._limits(profile, name, dim) for profile in allowed]
            if not any(low <= size <= high for low, high in limits):
                admitted = " or ".join(_span(low, high) for low, high in _merge(limits))
                faults.append(f"dimension {dim} of '{name}' is {size}, admitted are {admitted}")
        return "; ".join(faults) or "each of its sizes is admitted, but by no profile all of them"


def narrow(route: Route, fits: tuple[int, ...], spec: ModelSpec) -> Route:
    """Leave the profiles out of `route` that are not in `fits`: some of its own, at least one."""
    return replace(route, fits=fits, owners=_find_owners(spec.profiles, fits, route.rows))


def _find_owners(profiles: Sequence[Profile], fits: tuple[int, ...], rows: int) -> tuple[int, ...]:
    ranges = {index: profiles[index].rows for index in fits}
    within = tuple(i for i, r in ranges.items() if r.min <= rows <= r.max)
    if within:
        return within
    lowest = min((r.min for r in ranges.values() if rows < r.min), default=None)
    if lowest is not None:
        return tuple(i for i, r in ranges.items() if r.min == lowest)
    highest = max(r.max for r in ranges.values())
    return tuple(i for i, r in ranges.items() if r.max == highest)


def _differs(known: Shape, sent: Shape) -> bool:
    """Whether `sent`, of as many dimensions, contradicts `known`."""
    return any(size not in (DYNAMIC, got) for size, got in zip(known, sent, strict=True))


def _merge(limits: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges of integers that overlap or touch; ascending."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(limits):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def admit_values(route: Route, spec: ModelSpec, inputs: Mapping[str, Piece]) -> Route:
    """Leave the profiles out of `route` that do not admit the values of the shape tensors.

    Args:
        route: of a request to the model, by its shapes.
        spec: of the model.
        inputs: of the request, by name. Only shape tensors are read.

    Raises:
        NoProfileAdmits: none is left; the message lists what each profile of `route` admits.
    """
    names = spec.profiles[0].values  # the same for every profile: a property of the plan
    if not names:
        return route
    sent = {name: tuple(on_host(inputs[name]).reshape(-1).tolist()) for name in names}
    problems = {index: _find_value_problem(spec.profiles[index], sent) for index in route.fits}
    fits = tuple(index for index, problem in problems.items() if not problem)
    if fits:
        return narrow(route, fits, spec)
    listed = ", ".join(f"'{name}' {format_shape(values)}" for name, values in sent.items())
    reasons = "".join(
        f"\n  '{spec.profiles[index].name}' (index {index}): {problem}"
        for index, problem in problems.items()
    )
    raise NoProfileAdmits(
        f"model '{spec.name}': no profile that admits the request's shapes admits the values of "
        f"its shape tensors, {listed}; send values within a range, or add a profile for "
        f"these{reasons}"
    )


def _find_value_problem(profile: Profile, sent: Mapping[str, tuple[int, ...]]) -> str:
    """Say which value `profile` does not admit; "" if it admits all."""
    for name, values in sent.items():
        limits = profile.values[name]
        triples = zip(limits.min, values, limits.max, strict=True)
        for place, (low, value, high) in enumerate(triples):
            if not low <= value <= high:
                return f"value {place} of '{name}' is {value}, it admits {low} to {high}"
    return ""
