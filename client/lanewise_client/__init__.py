"""Lanewise's client: numpy arrays to a KServe v2 server and back, blocking or with asyncio.

Needs grpcio, protobuf and numpy, and nothing of the server.
Promises that every call ends with an answer or with an error that tells why.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanewise_client.aio import AsyncClient
    from lanewise_client.calls import CLIENT_TIMEOUT
    from lanewise_client.client import Client
    from lanewise_client.errors import (
        DeadlineExpired,
        DeviceLost,
        Draining,
        DTypeMismatch,
        EngineLost,
        ExecutionFailed,
        InvalidRegion,
        InvalidRequest,
        MalformedContents,
        MessageTooLarge,
        ModelFailed,
        ModelLoading,
        ModelNotFound,
        NoProfileAdmits,
        NotAllowed,
        Overloaded,
        QueueFull,
        RegionExists,
        RegionNotFound,
        RunnerLost,
        ServingError,
        ShapeMismatch,
        Unavailable,
        UnknownProfile,
        UnknownTensor,
        UnsoundOutputs,
        Unsupported,
    )
    from lanewise_client.messages import InferRequest
    from lanewise_client.results import (
        Candidate,
        InferResult,
        Lane,
        LaneCounters,
        LaneGraphs,
        LaneMemory,
        LaneState,
        LaunchCost,
        ModelCosts,
        ModelLanes,
        ModelMetadata,
        ModelStatus,
        PairCost,
        PlannedLaunch,
        Profile,
        Route,
        RowRange,
        ServerMetadata,
        ShapeRange,
        TensorMetadata,
    )
    from lanewise_client.shared_memory import SharedMemory

__all__ = [
    "CLIENT_TIMEOUT",
    "AsyncClient",
    "Candidate",
    "Client",
    "DTypeMismatch",
    "DeadlineExpired",
    "DeviceLost",
    "Draining",
    "EngineLost",
    "ExecutionFailed",
    "InferRequest",
    "InferResult",
    "InvalidRegion",
    "InvalidRequest",
    "Lane",
    "LaneCounters",
    "LaneGraphs",
    "LaneMemory",
    "LaneState",
    "LaunchCost",
    "MalformedContents",
    "MessageTooLarge",
    "ModelCosts",
    "ModelFailed",
    "ModelLanes",
    "ModelLoading",
    "ModelMetadata",
    "ModelNotFound",
    "ModelStatus",
    "NoProfileAdmits",
    "NotAllowed",
    "Overloaded",
    "PairCost",
    "PlannedLaunch",
    "Profile",
    "QueueFull",
    "RegionExists",
    "RegionNotFound",
    "Route",
    "RowRange",
    "RunnerLost",
    "ServerMetadata",
    "ServingError",
    "ShapeMismatch",
    "ShapeRange",
    "SharedMemory",
    "TensorMetadata",
    "Unavailable",
    "UnknownProfile",
    "UnknownTensor",
    "UnsoundOutputs",
    "Unsupported",
]

_MODULES = ("aio", "calls", "client", "errors", "messages", "results", "shared_memory")

if not TYPE_CHECKING:
    # Imports happen at the first use of a name: the server reads its datatypes from this package
    # in processes that load no gRPC.
    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name in __all__:
            modules = (importlib.import_module(f"{__name__}.{each}") for each in _MODULES)
            found = next(getattr(module, name) for module in modules if hasattr(module, name))
            return globals().setdefault(name, found)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES, *__all__})
