"""What front ends and the engine tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lanewise.ipc.tensors import Packed
from lanewise.model.regions import RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.registry import ModelState
from lanewise.scheduler.results import LaunchReport


class Infer(NamedTuple):
    """Front end to engine: run a request; see `Lanes.submit`.

    Attributes:
        call: a number that no open call of the link has.
        model: position among the models the engine told of.
        inputs: in the order of the model's, but for those in regions.
        in_regions: by input of the model, what lies in a region; empty if nothing does.
        options: the fields of a `RequestOptions`: without its class, they are pickled faster.
    """

    call: int
    model: int
    inputs: Packed
    in_regions: tuple[RegionTensor | None, ...]
    options: tuple[Any, ...]


class Ask(NamedTuple):
    """Front end to engine: answer a call, by the name of its method, as it came."""

    call: int
    method: str
    request: bytes


class Cancel(NamedTuple):
    """Front end to engine: nobody waits for a request any more; it gets no answer."""

    call: int


class Count(NamedTuple):
    """Front end to engine: a request has ended; see `WhenFinished`."""

    model: str
    version: str
    profile: str
    error: str
    latency_ns: int


class Listening(NamedTuple):
    """Front end to engine: clients can reach it, and see the models it was last told of."""


class Result(NamedTuple):
    """Engine to front end: the end of a request that succeeded; see `InferResult`.

    Attributes:
        outputs: in the order of the model's, but for those that were written to regions.
        placed: those that were, by name.
        launches: the position of its profile, and what else `LaunchReport` has, in its order.
    """

    call: int
    outputs: Packed
    launches: tuple[tuple[int, ...], ...]
    was_cold: bool
    placed: Mapping[str, RegionTensor]


class Answer(NamedTuple):
    """Engine to front end: the response to a call that was forwarded."""

    call: int
    response: bytes


class Failure(NamedTuple):
    """Engine to front end: the end of a request, or of a forwarded call, that failed.

    Attributes:
        error: the class of the error; empty for one that is no ServingError.
    """

    call: int
    error: str
    message: str


class Free(NamedTuple):
    """Either way: a block of the other end's arena is not read any more."""

    block: int


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A version of a model as it is now; `spec` is None until it has been loaded."""

    name: str
    version: str
    state: ModelState
    reason: str
    spec: ModelSpec | None
    lost_profiles: tuple[str, ...]
    hung_profiles: tuple[str, ...] = ()


class Models(NamedTuple):
    """Engine to front end: every model, at the beginning and whenever one has changed."""

    models: tuple[ModelSnapshot, ...]
    is_draining: bool


class Stop(NamedTuple):
    """Engine to front end: every request has ended; let clients read their responses and go."""


Message = (
    Infer | Ask | Cancel | Count | Listening | Result | Answer | Failure | Free | Models | Stop
)


def report_of(launch: LaunchReport) -> tuple[int, ...]:
    """Write a launch for `Result`."""
    return (
        launch.profile.index,
        launch.rows,
        launch.batch_rows,
        launch.padded_rows,
        launch.queue_ns,
        launch.execution_ns,
        launch.padded_length,
    )


def read_report(report: tuple[int, ...], spec: ModelSpec) -> LaunchReport:
    """Read a launch of `Result`."""
    return LaunchReport(spec.profiles[report[0]], *report[1:])
