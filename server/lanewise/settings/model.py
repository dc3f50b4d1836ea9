"""What an operator may say about a model in its model.toml: validated plain data."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from lanewise.errors import ConfigError
from lanewise.settings.server import BackendName

EntriesT = TypeVar("EntriesT", bound=Sized)


def _require_entries(entries: EntriesT) -> EntriesT:
    if not entries:
        raise PydanticCustomError("empty", "must have at least one entry")
    return entries


def _require_capability(text: str) -> str:
    if not re.fullmatch(r"[0-9]+\.[0-9]", text):
        raise PydanticCustomError("capability", 'must be a compute capability such as "8.9"')
    return text


def _require_separate_groups(groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    names = [name for group in groups for name in group]
    if any(len(group) < 2 for group in groups):
        raise PydanticCustomError("groups", "must be lists of two or more profiles each")
    if repeated := {name for name in names if names.count(name) > 1}:
        listed = ", ".join(sorted(repeated))
        raise PydanticCustomError("groups", f"must name each profile once; repeated: {listed}")
    return groups


def _require_level(priority: int, info: ValidationInfo) -> int:
    levels = info.data.get("priority_levels")  # missing if it is wrong itself
    if levels is not None and priority > levels:
        raise PydanticCustomError("level", f"must be at most priority_levels, which is {levels}")
    return priority


NonEmpty = AfterValidator(_require_entries)

# TOML lists become tuples; their numbers stay strict, so 1.5 or true is no dimension.
Dims = Annotated[tuple[int, ...], Field(strict=False)]
DelayMs = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = int | Annotated[float, Field(allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
NameGroups = Annotated[
    tuple[Names, ...], Field(strict=False), AfterValidator(_require_separate_groups)
]
ComputeCapability = Annotated[str, AfterValidator(_require_capability)]


class Table(BaseModel):
    """A table of a settings file: unknown keys are refused, and types are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ShapeRangeSettings(Table):
    """The shapes a profile admits for one input, dimension 0 first."""

    min: Dims
    opt: Dims
    max: Dims


class ProfileSettings(Table):
    """One entry of [[profiles]]; what is None or missing is decided from the model."""

    name: str | None = None
    tensors: dict[str, ShapeRangeSettings] = Field(default_factory=dict)
    max_queue_delay_ms: DelayMs | None = None


Profiles = Annotated[tuple[ProfileSettings, ...], Field(strict=False), NonEmpty]


class OnnxRuntimeSettings(Table):
    """The table [onnxruntime].

    Attributes:
        threads: threads that one execution may use; None: one for each core that the process
            may use.
    """

    threads: Annotated[int, Field(ge=1)] | None = None


class TensorRTSettings(Table):
    """The table [tensorrt], for backends "tensorrt" and "tensorrt-rtx".

    Attributes:
        runners: how many runners a profile has, by its name; 1 for those not named.
        shared_scratch: groups of profiles, by their names, whose runners share scratch
            memory and therefore execute one after the other.
        workspace_mib: scratch memory that a layer may use, in units of 2^20 bytes; None for
            all there is. Read when a plan is built.
        optimization_level: from 0, built fast, to 5, built long; None for TensorRT's
            default. Read when a plan is built.
        compute_capabilities: devices that TensorRT-RTX builds for, such as "8.9"; empty for
            all it supports from 8.0 on. Read when a plan is built.
        allow_host_code: whether a plan may bring code that runs on the host, as
            version-compatible plans do. Only for plans from a source that is trusted.
        self_check: whether lanes must give the same outputs for the same row before the
            model is ready. False for a model that draws random numbers, say.
        poll: whether to wait for short launches by polling, which takes a CPU core while one
            runs, but neither a thread nor its waking up.
    """

    BUILD_KEYS: ClassVar = ("workspace_mib", "optimization_level", "compute_capabilities")

    runners: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    shared_scratch: NameGroups = ()
    workspace_mib: Annotated[int, Field(ge=1)] | None = None
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    compute_capabilities: Annotated[tuple[ComputeCapability, ...], Field(strict=False)] = ()
    allow_host_code: bool = False
    self_check: bool = True
    poll: bool = True


class PaddingSettings(Table):
    """The table [padding]: a dimension in which requests of different sizes may be stacked.

    Attributes:
        dimension: what it is called in messages.
        inputs: which dimension of an input it is, by name.
        values: what inputs are padded with, by name; zeros, false or empty strings for others.
        outputs: which dimension of an output is cut back to the request's own size, by name.
        buckets: sizes to pad to, besides the max of each profile; None to choose some.
    """

    dimension: Annotated[str, Field(min_length=1)] = "length"
    inputs: Annotated[dict[str, int], NonEmpty]
    values: dict[str, object] = Field(default_factory=dict)
    outputs: dict[str, int] = Field(default_factory=dict)
    buckets: Annotated[tuple[int, ...], Field(strict=False), NonEmpty] | None = None


class SampleSettings(Table):
    """An input of [samples] that is not written out; one of the two.

    Attributes:
        file: a .npy file, relative to the folder of model.toml.
        random: the least and the greatest of random numbers.
    """

    file: Annotated[str, Field(min_length=1)] | None = None
    random: Annotated[tuple[Number, Number], Field(strict=False)] | None = None


def _require_sample(given: object) -> object:
    """Check one input of [samples]: a value, lists of values, or `SampleSettings`."""
    if not isinstance(given, dict):
        if isinstance(given, bool | int | float | str | list):
            return given
        raise PydanticCustomError(
            "sample", "must be a value, a list of values, or a table with file or random"
        )
    try:
        table = SampleSettings.model_validate(given)
    except ValidationError as error:
        listed = "; ".join(describe_problems(error, SampleSettings))
        raise PydanticCustomError(
            "sample", "must be right: {listed}", {"listed": listed}
        ) from error
    if (table.file is None) == (table.random is None):
        raise PydanticCustomError(
            "sample", 'must have either file = "x.npy" or random = [low, high]'
        )
    if table.random is not None and table.random[0] > table.random[1]:
        raise PydanticCustomError("sample", "must have random = [low, high] with low <= high")
    return table


SampleValue = Annotated[object, AfterValidator(_require_sample)]


class SchedulingSettings(Table):
    """The table [scheduling].

    Attributes:
        latency_target_ms: how long a request without a deadline should take. It orders the
            requests that wait and bounds how long one is held; none is refused for it. None:
            a second.
        priority_levels: requests may ask for the priorities 1, the most important, to this.
        default_priority: of requests that ask for none of them; by default 2, or the last
            level if there are fewer.
    """

    latency_target_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    priority_levels: Annotated[int, Field(ge=1, le=100)] = 3
    default_priority: Annotated[int, Field(ge=1), AfterValidator(_require_level)] = 2

    def resolve_priority(self, asked: int) -> int:
        """Get the priority of a request; one it cannot have, such as 0, is the default."""
        if 1 <= asked <= self.priority_levels:
            return asked
        return min(self.default_priority, self.priority_levels)


class ModelSettings(Table):
    """A whole model.toml; the defaults are those of a model without one.

    Attributes:
        batching: None lets the model's dynamic dimensions decide.
        padding: None stacks requests of equal shapes alone.
        samples: what inputs hold in warm-up, measurements and padding rows, by name: values, lists
            of them or `SampleSettings`; zeros, false or empty strings for others.
    """

    backend: BackendName = "auto"
    batching: bool | None = None
    max_queue_delay_ms: DelayMs = 2.0
    profiles: Profiles | None = None
    padding: PaddingSettings | None = None
    samples: dict[str, SampleValue] = Field(default_factory=dict)
    onnxruntime: OnnxRuntimeSettings = Field(default_factory=OnnxRuntimeSettings)
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    tensorrt: TensorRTSettings = Field(default_factory=TensorRTSettings)


def read_model_settings(path: Path) -> ModelSettings:
    """Get the settings in the file `path`, or the defaults if there is no such file.

    Raises:
        ConfigError: see `read_settings_file`.
    """
    try:
        exists = path.is_symlink() or path.exists()
    except OSError as error:
        raise settings_error(path, [f"cannot be read: {error.strerror}"]) from error
    return read_settings_file(path, ModelSettings) if exists else ModelSettings()


TableT = TypeVar("TableT", bound=Table)


def read_settings_file(path: Path, table: type[TableT]) -> TableT:
    """Read the TOML file `path` as a `table`.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or holds keys or values that are
            not allowed; the message lists every one with what is.
    """
    try:
        return table.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise settings_error(path, [f"cannot be read: {error.strerror}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise settings_error(path, [f"is not valid TOML: {error}"]) from error
    except ValidationError as error:
        raise settings_error(path, describe_problems(error, table)) from error


def describe_problems(error: ValidationError, table: type[Table]) -> list[str]:
    """List the problems of a `table`, each with its key, what it holds and what is allowed."""
    return [_describe(problem, table) for problem in error.errors(include_url=False)]


def settings_error(file: Path, problems: Sequence[str]) -> ConfigError:
    """Make the error that lists all `problems` of `file`, each `key: what is wrong`."""
    if len(problems) == 1:
        return ConfigError(f"{file}: {problems[0]}")
    listed = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(f"{file}: {len(problems)} problems{listed}")


def quote_key(key: str) -> str:
    """Write `key` as a TOML key, quoted if it has to be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


_WANTED = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "model_type": "must be a table",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
}
"""What pydantic's types of error ask for, in the words of TOML."""


def _describe(problem: ErrorDetails, table: type[Table]) -> str:
    location = problem["loc"]
    key = _key_path(location)
    if problem["type"] == "extra_forbidden":
        known = _keys_allowed_beside(table, location)
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        guess = f"did you mean '{near[0]}'? " if near else ""
        return f"{key}: unknown key; {guess}allowed here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{key}: is missing"
    wanted = _WANTED.get(problem["type"], problem["msg"].replace("Input should be", "must be"))
    if problem["type"] == "tuple_type" and (sizes := _read_sizes(problem["input"])):
        wanted += f", such as {sizes}"
    return f"{key}: is {_show(problem['input'])}, but {wanted}"


def _read_sizes(value: object) -> list[int]:
    """Get the sizes from a shape written as text, such as "1x8"; empty if it is none."""
    text = value if isinstance(value, str) else ""
    return [int(size) for size in re.findall(r"-?[0-9]+", text)]


def _key_path(location: tuple[int | str, ...]) -> str:
    """Write a location as profiles[1].tensors.X.min."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{quote_key(step)}" for step in location)
    return "".join(steps).removeprefix(".")


def _show(value: object, limit: int = 60) -> str:
    """Write `value` much as it stands in the file, cut off if it is long."""
    if isinstance(value, Mapping):
        return "a table"
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _keys_allowed_beside(table: type[Table], location: tuple[int | str, ...]) -> list[str]:
    """List the keys that the table holding the last step of `location` knows."""
    annotation: object = table
    for step in location[:-1]:
        annotation = _step_into(annotation, step)
    return list(_table_of(annotation).model_fields)


def _step_into(annotation: object, step: int | str) -> object:
    """Get the type of what `step` leads to: a field of a table, or an element of a container."""
    if typing.get_origin(annotation) in (dict, tuple):
        arguments = typing.get_args(annotation)
        return arguments[1] if typing.get_origin(annotation) is dict else arguments[0]
    inner = _strip(annotation)
    if inner is not annotation:
        return _step_into(inner, step)
    return _table_of(annotation).model_fields[str(step)].annotation


def _table_of(annotation: object) -> type[Table]:
    return typing.cast(type[Table], _strip(annotation))


def _strip(annotation: object) -> object:
    """Take the type out of Annotated[...] and ... | None."""
    while typing.get_origin(annotation) not in (None, dict, tuple):
        annotation = typing.get_args(annotation)[0]
    return annotation
