"""The format of cost files, version 1: validated plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from lanewise.model.tensors import DType, Shape
from lanewise.settings.model import NonEmpty, Table

Nanoseconds = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class InputTable(Table):
    """An input of the model; -1 is a dimension of any size."""

    name: str
    dtype: DType
    shape: Shape


class RangeTable(Table):
    """The shapes a profile admits for one input, dimension 0 first."""

    min: Shape
    opt: Shape
    max: Shape


class RowsTable(Table):
    """Rows that one launch of a profile may execute."""

    min: Count
    opt: Count
    max: Count


class ProfileTable(Table):
    """A profile; its index is its position."""

    name: str
    ranges: dict[str, RangeTable]
    rows: RowsTable
    max_queue_delay_ns: Nanoseconds = 0
    lengths: tuple[Count, ...] = ()


class PaddingTable(Table):
    """A dimension that may be padded, by input; see `Padding`."""

    dimension: str
    inputs: Annotated[dict[str, Count], NonEmpty]


class ModelTable(Table):
    """What routing has to know of a model."""

    name: str
    version: str = ""
    backend: str = "simulated"
    batching: bool
    inputs: Annotated[tuple[InputTable, ...], NonEmpty]
    rowwise: tuple[str, ...] = ()
    profiles: Annotated[tuple[ProfileTable, ...], NonEmpty]
    padding: PaddingTable | None = None


class LaneTable(Table):
    """A lane; its id is its position."""

    profile: Index
    depth: Count = 1
    row_counts: tuple[Count, ...] = ()


class KindTable(Table):
    """The latest times of launches that should cost the same; `behind_ns`: see `Estimate`."""

    profile: Index
    rows: Count
    bucket: int
    samples_ns: Annotated[tuple[Nanoseconds, ...], NonEmpty]
    behind_ns: tuple[Nanoseconds, ...] = ()


class PairTable(Table):
    """How many times longer `profile` takes while `other` runs `rows`, too."""

    profile: Index
    other: Index
    rows: Count = 1
    slowdown: Annotated[float, Field(ge=1, allow_inf_nan=False)]


class CostsTable(Table):
    """See `CostTable`."""

    launches: tuple[KindTable, ...]
    beside: tuple[PairTable, ...] = ()
    change_ns: dict[Index, Nanoseconds] = Field(default_factory=dict)
    switch_ns: Nanoseconds = 0
    ahead: dict[Index, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)


class HostTable(Table):
    """See `HostCosts`."""

    request_ns: Nanoseconds = 0
    launch_ns: Nanoseconds = 0
    late_ns: tuple[Nanoseconds, ...] = ()
    back_ns: tuple[Nanoseconds, ...] = ()


class CostFileTable(Table):
    """A whole cost file; see docs/simulator.md."""

    format: Literal["lanewise-costs"]
    version: Literal[1]
    source: str = ""
    model: ModelTable
    lanes: Annotated[tuple[LaneTable, ...], NonEmpty]
    costs: CostsTable
    host: HostTable = Field(default_factory=HostTable)

    def contradictions(self) -> Iterator[str]:
        """Find what no field can tell alone, each as `key: what is wrong`."""
        inputs = {one.name: one for one in self.model.inputs}
        for name in self.model.rowwise:
            if name not in inputs:
                yield f"model.rowwise: '{name}' is no input"
        yield from _padding_problems(self.model)
        for i, profile in enumerate(self.model.profiles):
            key = f"model.profiles[{i}]"
            if profile.ranges.keys() != inputs.keys():
                yield f"{key}.ranges: has {_listed(profile.ranges)}, the model {_listed(inputs)}"
            elif any(len(r.opt) != len(inputs[n].shape) for n, r in profile.ranges.items()):
                yield f"{key}.ranges: as many dimensions as the input has are needed"
            if not profile.rows.min <= profile.rows.opt <= profile.rows.max:
                yield f"{key}.rows: must be min <= opt <= max"
        count = len(self.model.profiles)
        for i, lane in enumerate(self.lanes):
            if lane.profile >= count:
                yield f"lanes[{i}].profile: is {lane.profile}, there are {count} profiles"
            elif problem := _misfit(lane, self.model.profiles[lane.profile].rows):
                yield f"lanes[{i}].row_counts: {problem}"
        for i, kind in enumerate(self.costs.launches):
            if kind.profile >= count:
                yield f"costs.launches[{i}].profile: is {kind.profile}, there are {count} profiles"


def _padding_problems(model: ModelTable) -> Iterator[str]:
    ranks = {one.name: len(one.shape) for one in model.inputs}
    for name, dim in model.padding.inputs.items() if model.padding else ():
        if name not in model.rowwise or dim >= ranks.get(name, 0):
            yield f"model.padding.inputs: '{name}' has no rows with a dimension {dim}"
    for i, profile in enumerate(model.profiles):
        if list(profile.lengths) != sorted(set(profile.lengths)):
            yield f"model.profiles[{i}].lengths: must ascend"
        elif bool(profile.lengths) != (model.padding is not None):
            yield f"model.profiles[{i}].lengths: go with model.padding, and with it alone"


def _misfit(lane: LaneTable, rows: RowsTable) -> str:
    counts = lane.row_counts
    if not counts:
        return ""
    if list(counts) != sorted(set(counts)):
        return "must ascend"
    if counts[0] < rows.min or counts[-1] != rows.max:
        return f"must be at least {rows.min} and end with {rows.max}, as its profile does"
    return ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
