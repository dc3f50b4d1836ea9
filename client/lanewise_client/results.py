"""What the server answers, as plain data."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lanewise_client.datatypes import Array

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class InferResult(Mapping[str, Array]):
    """The outputs of one request, and how it was served. A mapping of output name to array.

    Compares by identity, because arrays have no single truth value.

    Attributes:
        outputs: by name; the arrays are the caller's, but may be read-only: `array.copy()`
            gives one to write to. `codec.decode` tells how datatypes are mapped.
        profile: the profile that served it; several, separated by commas, if it was split.
        padded_rows: rows executed, in all launches together.
        batch_rows: rows of all the requests that shared its launches.
        launches: how many launches served it; more than 1 if it was split.

    Of a server that does not tell, `profile` is empty and the numbers are 0.
    """

    model: str
    model_version: str
    request_id: str
    outputs: dict[str, Array]
    profile: str = ""
    padded_rows: int = 0
    batch_rows: int = 0
    launches: int = 0

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """Who answers, and which extensions of the protocol it offers."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model the server knows of.

    Attributes:
        state: in lower case, "ready" if it can serve.
        reason: why it is in that state; may be empty.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output of a model; -1 in `shape` stands for a dimension of any size."""

    name: str
    datatype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes a profile admits for one input: min <= shape <= max in every dimension."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimization profile of a model.

    Attributes:
        ranges: by input name.
        max_queue_delay_ms: how long a request may be held back to fill a batch.
    """

    index: int
    name: str
    ranges: dict[str, ShapeRange]
    max_queue_delay_ms: float


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives.

    Attributes:
        versions: those the server has.
        profiles: in the order of their indexes; empty if the server does not tell.
        backend: what runs it; empty if the server does not tell.
        batching: whether rows of several requests may be stacked; None if it does not tell.
        properties: every fact the server gave as text, the ones above included.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    profiles: tuple[Profile, ...]
    backend: str
    batching: bool | None
    properties: dict[str, str]


class LaneState(enum.Enum):
    """What a lane is doing. A retired lane lost its runner and takes no more work."""

    UNKNOWN = "unknown"
    IDLE = "idle"
    BUSY = "busy"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class LaneCounters:
    """Totals of one lane since its model was loaded.

    Attributes:
        requests: parts of requests: one split over three launches counts three times.
        rows: rows that clients sent; `padded_rows` were executed.
        repeated_launches: launches of requests whose shared launch had failed.
        orphaned_rows: rows whose request was cancelled or expired while they ran.
        queue_ns: summed over requests.
        execution_ns: summed over launches that are over.
        predicted_ns: what the same launches were expected to take; 0 from servers that do
            not tell.
    """

    launches: int
    failed_launches: int
    requests: int
    rows: int
    padded_rows: int
    orphaned_rows: int
    execution_ns: int
    queue_ns: int
    predicted_ns: int
    repeated_launches: int = 0


@dataclass(frozen=True, slots=True)
class RowRange:
    """How many rows one launch may execute, and how many it is tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True, slots=True)
class LaneMemory:
    """Bytes a lane holds for its own buffers, the model's weights not counted.

    Attributes:
        pageable_bytes: ordinary host memory.
        pinned_bytes: host memory that the device copies from and to by itself.
        tensor_bytes: inputs and outputs on the device.
        scratch_bytes: what an execution needs on the device besides its tensors.
        graph_bytes: CUDA graphs.
    """

    pageable_bytes: int
    pinned_bytes: int
    tensor_bytes: int
    scratch_bytes: int
    graph_bytes: int


@dataclass(frozen=True, slots=True)
class LaneGraphs:
    """How often a lane launched CUDA graphs since its model was loaded, warm-up included.

    Attributes:
        launches: executions that were the launch of a graph captured before.
        misses: executions that were not, by reason.
        held: graphs kept when asked.
    """

    launches: int
    misses: dict[str, int]
    held: int


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane as it was when asked for: its profile, what it does, and what it has done.

    Attributes:
        host_bytes: all host memory of its own buffers; `memory` has the parts.
        device_bytes: all device memory of its own buffers.
        graphs: None for a lane that has no use for CUDA graphs.
    """

    lane_id: int
    profile: Profile
    rows: RowRange
    state: LaneState
    counters: LaneCounters
    host_bytes: int
    device_bytes: int
    memory: LaneMemory
    graphs: LaneGraphs | None


@dataclass(frozen=True, slots=True)
class ModelLanes:
    """The lanes of one version of a model, and how many requests wait for one."""

    name: str
    version: str
    backend: str
    batching: bool
    lanes: tuple[Lane, ...]
    waiting_requests: int


@dataclass(frozen=True, slots=True)
class LaunchCost:
    """The time of launches of one kind that run alone, from launch to readable outputs.

    Attributes:
        rows: executed, padding included.
        bucket: log2 of the elements of all inputs without rows, rounded; shapes of one bucket
            should cost the same.
        typical_ns: half of the latest that waited for no other took no longer.
        safe_ns: 95 % of those took no longer.
        samples: how many of those are kept.
        behind_ns: half of the latest that waited for the one before them in their lane took
            no longer once that was over; 0 if too few have waited.
    """

    profile_index: int
    profile: str
    rows: int
    bucket: int
    typical_ns: int
    safe_ns: int
    samples: int
    behind_ns: int


@dataclass(frozen=True, slots=True)
class PairCost:
    """How many times longer launches of `profile` take while `other` runs `other_rows`, too.

    There may be several of a pair, for different `other_rows`; 0 is a server that does not tell.
    """

    profile_index: int
    profile: str
    other_index: int
    other: str
    slowdown: float
    other_rows: int


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """What the launches of one version of a model cost, as measured.

    Attributes:
        launches: by profile, then bucket, then rows.
        pairs: those that were measured; others are taken not to disturb each other.
    """

    name: str
    version: str
    launches: tuple[LaunchCost, ...]
    pairs: tuple[PairCost, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Whether one profile admits the shapes, and why or why not, in words."""

    profile_index: int
    profile: str
    admits: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedLaunch:
    """One launch that the request would take if nothing else were waiting."""

    lane_id: int
    profile: str
    first_row: int
    rows: int
    padded_rows: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request of given shapes would run, and why.

    Attributes:
        reason: in words: what would be launched, or why nothing can be.
        rows: 0 if the shapes do not tell.
        candidates: one for each profile, in the order of their indexes.
        launches: empty if nothing admits the request.
    """

    admitted: bool
    reason: str
    rows: int
    candidates: tuple[Candidate, ...]
    launches: tuple[PlannedLaunch, ...]
