"""The settings of a server. Times and sizes name their unit."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lanewise.errors import ConfigError

DEFAULT_GRPC_PORT = 8001
DEFAULT_METRICS_PORT = 8002
DEFAULT_MAX_MESSAGE_MB = 256
"""Room for six bulk requests of 128 FP16 images of 3x224x224 (38.5 MB) in one."""
DEFAULT_MAX_QUEUE_REQUESTS = 1024
DEFAULT_DRAIN_GRACE_S = 20.0
"""Kubernetes leaves a container 30 s between SIGTERM and SIGKILL; stopping takes up to 6 s more
than this, for launches in flight and for responses to be read."""

BackendName = Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "simulated"]
SharedMemory = Literal["auto", "on", "off"]
"""Which calls may use shared memory: those over loopback, all, none."""
DEFAULT_SHARED_MEMORY: SharedMemory = "auto"

MAX_FRONTENDS = 64


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What `lanewise serve` was asked for.

    Attributes:
        path: a model repository or one model file.
        host: address to listen on, for gRPC and HTTP.
        grpc_port, metrics_port: 0 for any free port.
        backend: for every model, whatever its model.toml says; None to go by that.
        frontends: processes that speak gRPC with clients, beside one that runs the models; 0 for
            one process that does everything.
        transport: "aio" for grpc.aio, "edge" for Envoy with Python inside.
        tls_cert, tls_key: PEM files, the certificate with its chain; both, or neither to
            serve without TLS. They are for gRPC; HTTP has no TLS.
        max_message_mb: largest request, in units of 2^20 bytes.
        max_queue_requests: requests that may wait at a time for the same profiles of a
            version of a model.
        shared_memory: which calls may register and use it.
        drain_grace_s: how long waiting requests may still run after SIGTERM.
        ready_when: which models must be ready for the server to be: "all" of them, "any", or
            their names with commas between.
        costs: folder in which what launches cost is kept from one start to the next; None to
            measure it at every start.
        record_traces: folder for a trace of each model's requests; None for none.
    """

    path: Path
    host: str = "0.0.0.0"
    grpc_port: int = DEFAULT_GRPC_PORT
    metrics_port: int = DEFAULT_METRICS_PORT
    backend: BackendName | None = None
    frontends: int = 0
    transport: str = "aio"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_message_mb: int = DEFAULT_MAX_MESSAGE_MB
    max_queue_requests: int = DEFAULT_MAX_QUEUE_REQUESTS
    shared_memory: SharedMemory = DEFAULT_SHARED_MEMORY
    drain_grace_s: float = DEFAULT_DRAIN_GRACE_S
    ready_when: str = "all"
    costs: Path | None = None
    record_traces: Path | None = None


def default_frontends(transport: str, cores: int) -> int:
    """Choose how many front-end processes there are.

    Fewer than 4 cores are better used by one process: a front end shares a core with the
    engine there and costs a request another hop. With more, grpc.aio gains up to a front end
    for every other core, and the edge transport up to one for every fourth, from where the engine
    is the limit (16 cores of an H200's host, see benchmarks/gpu/wire.py).
    """
    if cores < 4:
        return 0
    return min(8, cores // 2) if transport == "aio" else min(4, cores // 4)


def read_tls_files(cert: Path | None, key: Path | None) -> tuple[bytes, bytes] | None:
    """Read the certificate chain and the private key; None if neither is given.

    Raises:
        ConfigError: only one is given, a file cannot be read or is not what it should be, or
            they do not belong together.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = (
            ("--tls-key", "--tls-cert") if cert is None else ("--tls-cert", "--tls-key")
        )
        raise ConfigError(f"{given}: requires {missing}; give both, or neither")
    files = _read("--tls-cert", cert), _read("--tls-key", key)
    _require_pair(cert, key, files[0])
    return files


def _require_pair(cert: Path, key: Path, chain: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=chain.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"--tls-cert {cert}: holds no certificate in PEM; give the file that begins with "
            "-----BEGIN CERTIFICATE-----"
        ) from error
    try:
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            problem = f"is not the key of --tls-cert {cert}; give the one it was made with"
        else:
            problem = (
                "holds no private key in PEM that can be read without a password; give the file "
                "that begins with -----BEGIN PRIVATE KEY-----"
            )
        raise ConfigError(f"--tls-key {key}: {problem}") from error


def _read(option: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {file}: cannot be read: {error.strerror}") from error
