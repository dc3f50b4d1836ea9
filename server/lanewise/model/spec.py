"""Models and their optimization profiles: plain data shared by all layers."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field

from lanewise.model.samples import Sample
from lanewise.model.tensors import NO_LIMIT, Shape, TensorSpec


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes a profile admits for one input: min <= shape <= max in every dimension.

    Or the values it admits for a shape tensor, row-major; a scalar has one.
    """

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True, slots=True)
class RowRange:
    """How many rows one launch may execute, and how many it is tuned for."""

    min: int
    opt: int
    max: int

    @property
    def powers_of_two(self) -> set[int]:
        """The powers of two in the range, and both of its ends."""
        powers = {1 << bit for bit in range(self.max.bit_length()) if self.min <= 1 << bit}
        return powers | {self.min, self.max}


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimization profile of a model.

    Attributes:
        index: position in the plan, from 0; unique in the model.
        name: unique in the model; clients may pin a request to it.
        ranges: a range for every input of the model, by input name.
        rows: rows a launch may execute: what the ranges of the row-wise inputs have in
            common. A model without batching runs one request a launch, whatever its
            shapes, and counts it as one row: (1, 1, 1).
        max_queue_delay_ns: how long a request may be held back to fill a batch.
        values: the values admitted, by input that is a shape tensor: one whose values, not
            its shape alone, decide the shapes of other tensors. Only TensorRT tells them
            from others.
        lengths: ascending; requests are padded up to the next of them. Empty for a model
            without padding.
    """

    index: int
    name: str
    ranges: Mapping[str, ShapeRange]
    rows: RowRange
    max_queue_delay_ns: int
    values: Mapping[str, ShapeRange] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether an input may have any size in some dimension; rows always have a maximum."""
        return any(NO_LIMIT in limits.max for limits in self.ranges.values())

    def padded_length(self, length: int) -> int:
        """Get the length that is executed for requests of `length`; 0 if none is long enough."""
        at_least = bisect.bisect_left(self.lengths, length)
        return self.lengths[at_least] if at_least < len(self.lengths) else 0


@dataclass(frozen=True, slots=True)
class Padding:
    """A dimension, beside rows, in which requests of different sizes may share a launch.

    A request's size there is its length. In a launch all have the length of the longest,
    padded up to the next of `Profile.lengths`.

    Attributes:
        dimension: what it is called in messages.
        inputs: which dimension of an input it is, by name; 1 or more. All are row-wise.
        values: what follows the data of a request in these inputs, by name.
        outputs: which dimension of an output has the length and is cut back, by name.
    """

    dimension: str
    inputs: Mapping[str, int]
    values: Mapping[str, bytes | bool | int | float]
    outputs: Mapping[str, int] = field(default_factory=dict)

    def item_shape(self, name: str, item: Shape, length: int) -> Shape:
        """Get the shape of a row of input `name`, which is `item`, at another length."""
        dim = self.inputs.get(name)
        return item if dim is None else (*item[: dim - 1], length, *item[dim:])


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of one model, as it is served.

    Attributes:
        backend: the backend that runs it, never "auto".
        batching: whether rows of several requests may be stacked along dimension 0.
        batching_reason: why, for people; "" if nothing has been found out.
        rowwise: names of the inputs whose dimension 0 counts rows. With batching, the
            other inputs are shared by a whole batch: requests are stacked only if their
            bytes are equal. Empty without batching.
        profiles: in the order of their indexes; at least one.
        text_inputs: names of the BYTES inputs whose elements the backend takes as UTF-8.
        padding: None for a model whose requests share launches only if their shapes are equal.
        samples: what inputs hold when no request has sent any, by name: in warm-up, while costs are
            measured, and in padding rows. Others hold zeros or empty strings.
    """

    name: str
    version: str
    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: bool
    rowwise: frozenset[str]
    profiles: tuple[Profile, ...]
    text_inputs: frozenset[str] = frozenset()
    padding: Padding | None = None
    samples: Mapping[str, Sample] = field(default_factory=dict, compare=False, repr=False)
    batching_reason: str = field(default="", compare=False)

    def find_profile(self, name_or_index: str | int) -> Profile | None:
        """Get the profile of that name, or else of that index; None if there is none."""
        text = str(name_or_index)
        for profile in self.profiles:
            if text in (profile.name, str(profile.index)):  # no name is a number
                return profile
        return None
