"""The settings of a server. Times and sizes name their unit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_GRPC_PORT = 8001
DEFAULT_METRICS_PORT = 8002
DEFAULT_MAX_MESSAGE_MB = 256
"""Room for six bulk requests of 128 FP16 images of 3x224x224 (38.5 MB) in one."""
DEFAULT_MAX_QUEUE_REQUESTS = 1024
DEFAULT_DRAIN_GRACE_S = 30.0
"""What Kubernetes leaves a container between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What `lanewise serve` was asked for.

    Attributes:
        path: a model repository or one model file.
        host: address to listen on, for gRPC and HTTP.
        grpc_port, metrics_port: 0 for any free port.
        backend: for every model, whatever its model.toml says; None to go by that.
        max_message_mb: largest request, in units of 2^20 bytes.
        max_queue_requests: requests that may wait at a time, per version of a model.
        drain_grace_s: how long waiting requests may still run after SIGTERM.
    """

    path: Path
    host: str = "0.0.0.0"
    grpc_port: int = DEFAULT_GRPC_PORT
    metrics_port: int = DEFAULT_METRICS_PORT
    backend: str | None = None
    max_message_mb: int = DEFAULT_MAX_MESSAGE_MB
    max_queue_requests: int = DEFAULT_MAX_QUEUE_REQUESTS
    drain_grace_s: float = DEFAULT_DRAIN_GRACE_S
