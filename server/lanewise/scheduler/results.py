"""What a request gets back, and what a lane tells of itself: plain data."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lanewise.model.regions import RegionTensor
from lanewise.model.runner_status import GraphCounts, RunnerMemory
from lanewise.model.spec import Profile
from lanewise.model.tensors import Array


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """One launch that ran rows of a request.

    Attributes:
        rows: rows of this request in the launch.
        batch_rows: rows of all its requests together.
        padded_rows: rows executed.
        padded_length: executed, see `Padding`; 0 for a model without padding.
        queue_ns: from the request's arrival to the launch.
        execution_ns: from the launch until the outputs could be read in host memory.
    """

    profile: Profile
    rows: int
    batch_rows: int
    padded_rows: int
    queue_ns: int
    execution_ns: int
    padded_length: int = 0


@dataclass(frozen=True, slots=True)
class InferResult:
    """Every output of the model for one request, and the launches that made them, in row order.

    Attributes:
        outputs: by name. The arrays are the caller's; they may be views of a larger batch.
        launches: one or more.
        was_cold: whether the request had to wait for its shapes to be compiled for.
        placed: the outputs that were written to shared memory, by name; not among `outputs`.
    """

    outputs: dict[str, Array]
    launches: tuple[LaunchReport, ...]
    was_cold: bool = False
    placed: Mapping[str, RegionTensor] = field(default_factory=dict)


WhenEnded = Callable[[InferResult | None, BaseException | None], None]
"""Told of the end of a request: its result, or the error in its place. Must not raise."""


WhenFinished = Callable[[str, str, str, str, int], None]
"""Told of every inference request once, when it ends, for metrics. Called on the event loop; must
not block or raise. Its arguments:

- the model's name, and the version asked for, or the default; both empty if the server has no such
  model or version: clients must not be able to make up label values;
- the profile that served it, as in the response; empty if it failed;
- the class of the error, "Cancelled" or "InternalError"; empty on success;
- nanoseconds from its arrival in the rpc layer until its response was built."""


class LaneState(enum.Enum):
    """What a lane is doing."""

    IDLE = "idle"
    BUSY = "busy"
    RETIRED = "retired"


@dataclass(slots=True)
class LaneCounters:
    """Totals of one lane since its model was loaded.

    Attributes:
        repeated_launches: launches of requests whose shared launch had failed; their rows and
            requests are not counted anew.
        requests: parts of requests: one split over three launches counts three times.
        rows: rows that clients sent; `padded_rows` were executed.
        orphaned_rows: rows whose request was cancelled or expired while they ran.
        queue_ns: summed over requests.
        execution_ns: summed over launches that are over.
        predicted_ns: what the same launches were expected to take; 0 is counted for one that
            the policy could not tell it of.
    """

    launches: int = 0
    failed_launches: int = 0
    requests: int = 0
    rows: int = 0
    padded_rows: int = 0
    orphaned_rows: int = 0
    queue_ns: int = 0
    execution_ns: int = 0
    predicted_ns: int = 0
    repeated_launches: int = 0


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """A lane as it is now; the counters are a copy.

    Attributes:
        graphs: None for a lane that has no use for CUDA graphs.
        hangs: whether a launch holds it that nobody waits for and that cannot be ended.
    """

    lane_id: int
    profile: Profile
    state: LaneState
    counters: LaneCounters
    memory: RunnerMemory
    graphs: GraphCounts | None = None
    hangs: bool = False


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """Whether one profile admits a request, and why or why not, in words."""

    profile: Profile
    admits: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedLaunch:
    """One launch that a request would take if nothing else were waiting."""

    lane_id: int
    profile: Profile
    first_row: int
    rows: int
    padded_rows: int


@dataclass(frozen=True, slots=True)
class RouteReport:
    """Where a request of given shapes would run, and why.

    Attributes:
        rows: 0 if the shapes do not tell.
        candidates: one for each profile, in the order of their indexes.
        launches: empty if nothing admits the request.
    """

    admitted: bool
    reason: str
    rows: int
    candidates: tuple[CandidateReport, ...]
    launches: tuple[PlannedLaunch, ...]
