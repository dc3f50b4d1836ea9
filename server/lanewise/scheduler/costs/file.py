"""Cost files: what the launches of a model cost, and on which lanes, to be simulated later.

The tables below are the format, version 1; see docs/simulator.md.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from lanewise.errors import ConfigError
from lanewise.model.spec import ModelSpec, Padding, Profile, RowRange, ShapeRange
from lanewise.model.tensors import DType, Shape, TensorSpec
from lanewise.scheduler.costs.table import CostTable, Kind
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.settings.model import NonEmpty, Table, describe_problems, settings_error

Nanoseconds = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class HostCosts:
    """What the thread that decides spends, during which it sees nothing else; and its delays.

    Attributes:
        request_ns: to take in one request.
        launch_ns: to give one launch to its lane.
        late_ns: samples of how long it takes until the thread sees a request, or the time
            to look again, if it is not busy: what wakes it up is never at once.
        back_ns: samples of the time from when it sees the end of a request's last launch until
            the caller has the outputs.
    """

    request_ns: int = 0
    launch_ns: int = 0
    late_ns: tuple[int, ...] = ()
    back_ns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """What a cost file holds.

    Attributes:
        lanes: in the order of their ids; a Scheduler needs lanes of its own, see `new_lanes`.
        source: where the figures come from, for people.
    """

    spec: ModelSpec
    lanes: tuple[Lane, ...]
    costs: CostTable
    host: HostCosts = HostCosts()
    source: str = ""

    def new_lanes(self) -> tuple[Lane, ...]:
        """Make lanes like these on which nothing has run yet."""
        return tuple(
            Lane(lane.lane_id, lane.profile, lane.depth, lane.row_counts) for lane in self.lanes
        )


def save_costs(path: Path, model: MeasuredModel) -> None:
    """Write `model` to the file `path` atomically, replacing what is there.

    Raises:
        OSError: the file cannot be written.
    """
    text = _write(model).model_dump_json(indent=1, exclude_defaults=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_costs(path: Path) -> MeasuredModel:
    """Read a cost file.

    Raises:
        ConfigError: the file cannot be read, is no cost file of this version, or contradicts
            itself; the message lists every problem found.
    """
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        file = CostFileTable.model_validate_json(text)
    except OSError as error:
        raise settings_error(path, [f"cannot be read: {error.strerror}"]) from error
    except ValidationError as error:
        raise settings_error(path, describe_problems(error, CostFileTable)) from error
    except ValueError as error:  # neither UTF-8 nor JSON; a ValidationError is one too
        raise ConfigError(f"{path}: is not valid JSON: {error}") from error
    if problems := list(file.contradictions()):
        raise settings_error(path, problems)
    return _read(file)


def find_difference(one: MeasuredModel, other: MeasuredModel) -> str:
    """Name what makes the costs of `one` unfit for `other`; empty if nothing does.

    Compared are the models, without queue delays, which cost nothing, and their lanes.
    """
    first, second = _write_model(one.spec), _write_model(other.spec)
    for key in ModelTable.model_fields:
        if key != "profiles" and getattr(first, key) != getattr(second, key):
            return key
    if _without_delays(first) != _without_delays(second):
        return "profiles"
    return "" if _write_lanes(one.lanes) == _write_lanes(other.lanes) else "lanes"


def _without_delays(model: ModelTable) -> list[ProfileTable]:
    return [each.model_copy(update={"max_queue_delay_ns": 0}) for each in model.profiles]


def _write(model: MeasuredModel) -> CostFileTable:
    return CostFileTable(
        format="lanewise-costs",
        version=1,
        source=model.source,
        model=_write_model(model.spec),
        lanes=_write_lanes(model.lanes),
        costs=_write_costs(model.costs),
        host=HostTable.model_validate(model.host, from_attributes=True),
    )


def _read(file: CostFileTable) -> MeasuredModel:
    spec = _read_model(file.model)
    lanes = tuple(
        Lane(LaneId(i), spec.profiles[lane.profile], lane.depth, lane.row_counts)
        for i, lane in enumerate(file.lanes)
    )
    host = HostCosts(**file.host.model_dump())
    return MeasuredModel(spec, lanes, _read_costs(file.costs), host, file.source)


def _write_model(spec: ModelSpec) -> ModelTable:
    return ModelTable.model_validate(spec, from_attributes=True)


def _write_lanes(lanes: Iterable[Lane]) -> tuple[LaneTable, ...]:
    return tuple(
        LaneTable(profile=lane.profile.index, depth=lane.depth, row_counts=lane.row_counts)
        for lane in lanes
    )


def _read_model(model: ModelTable) -> ModelSpec:
    """Make the spec; without outputs, which cost nothing that is not in the launches' times."""
    profiles = tuple(
        Profile(
            index=i,
            name=profile.name,
            ranges={n: ShapeRange(r.min, r.opt, r.max) for n, r in profile.ranges.items()},
            rows=RowRange(profile.rows.min, profile.rows.opt, profile.rows.max),
            max_queue_delay_ns=profile.max_queue_delay_ns,
            lengths=profile.lengths,
        )
        for i, profile in enumerate(model.profiles)
    )
    return ModelSpec(
        name=model.name,
        version=model.version,
        backend=model.backend,
        inputs=tuple(TensorSpec(i.name, i.dtype, i.shape) for i in model.inputs),
        outputs=(),
        batching=model.batching,
        rowwise=frozenset(model.rowwise),
        profiles=profiles,
        padding=None if model.padding is None else _read_padding(model.padding),
    )


def _read_padding(table: PaddingTable) -> Padding:
    """Make the padding; without values and outputs, which cost nothing."""
    return Padding(table.dimension, table.inputs, dict.fromkeys(table.inputs, 0))


def _write_costs(costs: CostTable) -> CostsTable:
    return CostsTable(
        launches=tuple(
            KindTable(
                profile=kind.profile,
                rows=kind.rows,
                bucket=kind.bucket,
                samples_ns=estimate.samples_ns,
                behind_ns=estimate.behind_samples_ns,
            )
            for kind, estimate in costs.kinds()
        ),
        beside=tuple(PairTable(**pair._asdict()) for pair in costs.pairs()),
        change_ns=dict(costs.change_ns),
        switch_ns=costs.switch_ns,
        ahead=dict(costs.ahead),
    )


def _read_costs(stored: CostsTable) -> CostTable:
    costs = CostTable()
    for kind in stored.launches:
        costs.restore(Kind(kind.profile, kind.rows, kind.bucket), kind.samples_ns, kind.behind_ns)
    for pair in stored.beside:
        costs.record_beside(pair.profile, pair.other, pair.rows, pair.slowdown)
    costs.change_ns = dict(stored.change_ns)
    costs.switch_ns = stored.switch_ns
    costs.ahead = dict(stored.ahead)
    return costs


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


def _in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(names))


class ModelTable(Table):
    """What routing has to know of a model."""

    name: str
    version: str = ""
    backend: str = "simulated"
    batching: bool
    inputs: Annotated[tuple[InputTable, ...], NonEmpty]
    rowwise: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_in_order)] = ()
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
    """A whole cost file."""

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
