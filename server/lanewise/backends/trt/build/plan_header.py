"""The first bytes of a plan, which tell who can load it before anybody tries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lanewise.backends.trt.binding import TrtBackend
from lanewise.errors import ConfigError

HEADER_BYTES = 64
"""As `Runtime.engine_header_size` of TensorRT-RTX 1.6; more than is read here."""

_TAGS: dict[bytes, TrtBackend] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_VERSION = slice(24, 28)
"""Four numbers; seen in plans of TensorRT-RTX 1.6, and what trtexec 10 reads from TensorRT's."""


@dataclass(frozen=True, slots=True)
class PlanHeader:
    """Who built a plan.

    Attributes:
        backend: the one that can load it.
        version: of the builder, such as "1.6.1.120".
    """

    backend: TrtBackend
    version: str


def read_plan_header(file: Path) -> PlanHeader:
    """Read who built the plan in `file`.

    Raises:
        ConfigError: the file cannot be read, or is no plan.
    """
    try:
        with file.open("rb") as plan:
            head = plan.read(HEADER_BYTES)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    backend = _TAGS.get(head[:4])
    if backend is None or len(head) < HEADER_BYTES:
        raise ConfigError(
            f"{file}: is not a TensorRT plan, or is cut off; it begins with {head[:8]!r}. "
            "Build it again with: lanewise build MODEL.onnx -o MODEL.plan"
        )
    return PlanHeader(backend, ".".join(str(number) for number in head[_VERSION]))
