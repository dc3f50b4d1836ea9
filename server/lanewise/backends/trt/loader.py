"""Turns the plan in a file into an engine, or says why that is not possible here."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import structlog

from lanewise.backends.trt.binding import Binding, TrtObject
from lanewise.backends.trt.build.plan_header import HEADER_BYTES, PlanHeader, read_plan_header
from lanewise.backends.trt.messages import join_reasons
from lanewise.errors import ConfigError
from lanewise.memory.device import require_device

_log = structlog.get_logger(__name__)

_REBUILD = "Build it again with: lanewise build MODEL.onnx -o MODEL.plan"
_REMEDIES = {
    "VERSION_MISMATCH": "it was built by another version",
    "UNSUPPORTED_CC": "it was not built for this device's compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old; update it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old; update it",
    "INSUFFICIENT_GPU_MEMORY": "the device has too little memory",
    "MALFORMED_ENGINE": "it is damaged, or was built by another version",
}
"""By TensorRT-RTX's diagnostics."""

_UNSUPPORTED_DEVICE = "UNSUPPORTED_CC"
"""1.6 says so of every plan on an H200, which it does not support, and runs them all."""


@dataclass(slots=True)
class LoadedEngine:
    """A plan deserialised on the current device, and the runtime that must outlive it.

    Attributes:
        engine: an ICudaEngine.
        header: who built its plan.
    """

    engine: TrtObject
    runtime: TrtObject
    header: PlanHeader

    def close(self) -> None:
        """Free the plan and its weights once its last execution context is gone, too."""
        self.engine = None
        self.runtime = None


def load_engine(binding: Binding, file: Path, *, allow_host_code: bool = False) -> LoadedEngine:
    """Deserialise the plan in `file` on the current device. Blocks.

    Args:
        binding: of the backend that is to run it.
        file: a plan.
        allow_host_code: whether the plan may bring code that runs on the host, as
            version-compatible plans do. Only for plans from a source that is trusted.

    Raises:
        ConfigError: there is no device, or the plan is not for this backend, version or
            device; the message has TensorRT's own reasons.
    """
    header = read_plan_header(file)
    if header.backend != binding.backend:
        raise ConfigError(
            f"{file}: was built for backend '{header.backend}' (version {header.version}), but "
            f"the backend is '{binding.backend}'; set backend to '{header.backend}' or 'auto', "
            "or build the plan again for this one"
        )
    runtime = _make_runtime(binding, file)
    objections: tuple[str, ...] = ()
    if binding.is_rtx:
        objections = _ask_for_objections(binding, runtime, file, header)
    elif allow_host_code:
        runtime.engine_host_code_allowed = True
    with file.open("rb") as plan, binding.messages.collecting() as lines:
        # Mapped, so that a plan of gigabytes is not held twice.
        with mmap.mmap(plan.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise _refused(binding, file, header, (*objections, *lines.errors))
    if objections:
        _log.warning("plan is not made for this device", file=str(file), reasons=objections)
    return LoadedEngine(engine, runtime, header)


def _make_runtime(binding: Binding, file: Path) -> TrtObject:
    # Without a usable driver, 11.4 returns a runtime whose first use, and even whose end,
    # ends the process. TensorRT-RTX's can be asked for the reason.
    if not binding.is_rtx:
        require_device()
    with binding.messages.collecting() as lines:
        runtime = binding.module.Runtime(binding.logger)
        if lines.errors:
            raise ConfigError(
                f"{file}: {binding.name} cannot run here: {join_reasons(lines.errors, '')}"
            )
    return runtime


def _ask_for_objections(
    binding: Binding, runtime: TrtObject, file: Path, header: PlanHeader
) -> tuple[str, ...]:
    """Ask TensorRT-RTX, which needs no more than the header, what speaks against the plan.

    Returns:
        What speaks against it, but does not keep it from being tried.

    Raises:
        ConfigError: it cannot be loaded.
    """
    known = binding.module.EngineInvalidityDiagnostics
    with file.open("rb") as plan:
        head = plan.read(HEADER_BYTES)
    with binding.messages.collecting() as lines:
        _, diagnostics = runtime.get_engine_validity(head)
    found = [name for name in _REMEDIES if diagnostics & int(getattr(known, name))]
    objections = (*(_REMEDIES[name] for name in found), *lines.errors)
    if found and found != [_UNSUPPORTED_DEVICE]:
        raise _refused(binding, file, header, objections)
    return objections


def _refused(
    binding: Binding, file: Path, header: PlanHeader, reasons: tuple[str, ...]
) -> ConfigError:
    return ConfigError(
        f"{file}: {binding.name} cannot load this plan, which was built by version "
        f"{header.version}: {join_reasons(reasons, 'it gives no reason')}\n{_REBUILD}"
    )
