from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LaneState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LANE_STATE_UNSPECIFIED: _ClassVar[LaneState]
    LANE_STATE_IDLE: _ClassVar[LaneState]
    LANE_STATE_BUSY: _ClassVar[LaneState]
    LANE_STATE_RETIRED: _ClassVar[LaneState]
LANE_STATE_UNSPECIFIED: LaneState
LANE_STATE_IDLE: LaneState
LANE_STATE_BUSY: LaneState
LANE_STATE_RETIRED: LaneState

class ShapeRange(_message.Message):
    __slots__ = ("tensor", "min", "opt", "max")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    OPT_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    min: _containers.RepeatedScalarFieldContainer[int]
    opt: _containers.RepeatedScalarFieldContainer[int]
    max: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tensor: _Optional[str] = ..., min: _Optional[_Iterable[int]] = ..., opt: _Optional[_Iterable[int]] = ..., max: _Optional[_Iterable[int]] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("index", "name", "ranges", "max_queue_delay_ms", "min_rows", "opt_rows", "max_rows")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    MIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    OPT_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    ranges: _containers.RepeatedCompositeFieldContainer[ShapeRange]
    max_queue_delay_ms: float
    min_rows: int
    opt_rows: int
    max_rows: int
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., ranges: _Optional[_Iterable[_Union[ShapeRange, _Mapping]]] = ..., max_queue_delay_ms: _Optional[float] = ..., min_rows: _Optional[int] = ..., opt_rows: _Optional[int] = ..., max_rows: _Optional[int] = ...) -> None: ...

class LaneCounters(_message.Message):
    __slots__ = ("launches", "failed_launches", "requests", "rows", "padded_rows", "orphaned_rows", "execution_ns", "queue_ns", "predicted_ns", "repeated_launches")
    LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    FAILED_LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PADDED_ROWS_FIELD_NUMBER: _ClassVar[int]
    ORPHANED_ROWS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_NS_FIELD_NUMBER: _ClassVar[int]
    REPEATED_LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    launches: int
    failed_launches: int
    requests: int
    rows: int
    padded_rows: int
    orphaned_rows: int
    execution_ns: int
    queue_ns: int
    predicted_ns: int
    repeated_launches: int
    def __init__(self, launches: _Optional[int] = ..., failed_launches: _Optional[int] = ..., requests: _Optional[int] = ..., rows: _Optional[int] = ..., padded_rows: _Optional[int] = ..., orphaned_rows: _Optional[int] = ..., execution_ns: _Optional[int] = ..., queue_ns: _Optional[int] = ..., predicted_ns: _Optional[int] = ..., repeated_launches: _Optional[int] = ...) -> None: ...

class LaneMemory(_message.Message):
    __slots__ = ("pageable_bytes", "pinned_bytes", "tensor_bytes", "scratch_bytes", "graph_bytes")
    PAGEABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PINNED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    SCRATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    GRAPH_BYTES_FIELD_NUMBER: _ClassVar[int]
    pageable_bytes: int
    pinned_bytes: int
    tensor_bytes: int
    scratch_bytes: int
    graph_bytes: int
    def __init__(self, pageable_bytes: _Optional[int] = ..., pinned_bytes: _Optional[int] = ..., tensor_bytes: _Optional[int] = ..., scratch_bytes: _Optional[int] = ..., graph_bytes: _Optional[int] = ...) -> None: ...

class LaneGraphs(_message.Message):
    __slots__ = ("launches", "misses", "held")
    class MissesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    launches: int
    misses: _containers.ScalarMap[str, int]
    held: int
    def __init__(self, launches: _Optional[int] = ..., misses: _Optional[_Mapping[str, int]] = ..., held: _Optional[int] = ...) -> None: ...

class Lane(_message.Message):
    __slots__ = ("id", "profile", "state", "counters", "host_bytes", "device_bytes", "memory", "graphs")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    id: int
    profile: Profile
    state: LaneState
    counters: LaneCounters
    host_bytes: int
    device_bytes: int
    memory: LaneMemory
    graphs: LaneGraphs
    def __init__(self, id: _Optional[int] = ..., profile: _Optional[_Union[Profile, _Mapping]] = ..., state: _Optional[_Union[LaneState, str]] = ..., counters: _Optional[_Union[LaneCounters, _Mapping]] = ..., host_bytes: _Optional[int] = ..., device_bytes: _Optional[int] = ..., memory: _Optional[_Union[LaneMemory, _Mapping]] = ..., graphs: _Optional[_Union[LaneGraphs, _Mapping]] = ...) -> None: ...

class ListLanesRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ListLanesResponse(_message.Message):
    __slots__ = ("name", "version", "backend", "batching", "lanes", "waiting_requests")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    backend: str
    batching: bool
    lanes: _containers.RepeatedCompositeFieldContainer[Lane]
    waiting_requests: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., backend: _Optional[str] = ..., batching: bool = ..., lanes: _Optional[_Iterable[_Union[Lane, _Mapping]]] = ..., waiting_requests: _Optional[int] = ...) -> None: ...

class InputShape(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ExplainRouteRequest(_message.Message):
    __slots__ = ("name", "version", "inputs", "profile")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    inputs: _containers.RepeatedCompositeFieldContainer[InputShape]
    profile: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[InputShape, _Mapping]]] = ..., profile: _Optional[str] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("profile_index", "profile", "admits", "reason")
    PROFILE_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ADMITS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    profile_index: int
    profile: str
    admits: bool
    reason: str
    def __init__(self, profile_index: _Optional[int] = ..., profile: _Optional[str] = ..., admits: bool = ..., reason: _Optional[str] = ...) -> None: ...

class PlannedLaunch(_message.Message):
    __slots__ = ("profile", "first_row", "rows", "padded_rows", "lane_id")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PADDED_ROWS_FIELD_NUMBER: _ClassVar[int]
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    profile: str
    first_row: int
    rows: int
    padded_rows: int
    lane_id: int
    def __init__(self, profile: _Optional[str] = ..., first_row: _Optional[int] = ..., rows: _Optional[int] = ..., padded_rows: _Optional[int] = ..., lane_id: _Optional[int] = ...) -> None: ...

class ExplainRouteResponse(_message.Message):
    __slots__ = ("admitted", "reason", "rows", "candidates", "launches")
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    admitted: bool
    reason: str
    rows: int
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    launches: _containers.RepeatedCompositeFieldContainer[PlannedLaunch]
    def __init__(self, admitted: bool = ..., reason: _Optional[str] = ..., rows: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., launches: _Optional[_Iterable[_Union[PlannedLaunch, _Mapping]]] = ...) -> None: ...

class ListCostsRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class LaunchCost(_message.Message):
    __slots__ = ("profile_index", "profile", "rows", "bucket", "typical_ns", "safe_ns", "samples", "behind_ns")
    PROFILE_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_NS_FIELD_NUMBER: _ClassVar[int]
    SAFE_NS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BEHIND_NS_FIELD_NUMBER: _ClassVar[int]
    profile_index: int
    profile: str
    rows: int
    bucket: int
    typical_ns: int
    safe_ns: int
    samples: int
    behind_ns: int
    def __init__(self, profile_index: _Optional[int] = ..., profile: _Optional[str] = ..., rows: _Optional[int] = ..., bucket: _Optional[int] = ..., typical_ns: _Optional[int] = ..., safe_ns: _Optional[int] = ..., samples: _Optional[int] = ..., behind_ns: _Optional[int] = ...) -> None: ...

class PairCost(_message.Message):
    __slots__ = ("profile_index", "profile", "other_index", "other", "slowdown", "other_rows")
    PROFILE_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    OTHER_INDEX_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    OTHER_ROWS_FIELD_NUMBER: _ClassVar[int]
    profile_index: int
    profile: str
    other_index: int
    other: str
    slowdown: float
    other_rows: int
    def __init__(self, profile_index: _Optional[int] = ..., profile: _Optional[str] = ..., other_index: _Optional[int] = ..., other: _Optional[str] = ..., slowdown: _Optional[float] = ..., other_rows: _Optional[int] = ...) -> None: ...

class ListCostsResponse(_message.Message):
    __slots__ = ("name", "version", "launches", "pairs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    launches: _containers.RepeatedCompositeFieldContainer[LaunchCost]
    pairs: _containers.RepeatedCompositeFieldContainer[PairCost]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., launches: _Optional[_Iterable[_Union[LaunchCost, _Mapping]]] = ..., pairs: _Optional[_Iterable[_Union[PairCost, _Mapping]]] = ...) -> None: ...
