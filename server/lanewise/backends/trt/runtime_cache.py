"""Kernels that TensorRT-RTX compiles when it first meets a shape, kept for the next start."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from lanewise.backends.trt.binding import Binding, TrtObject
from lanewise.backends.trt.build.plan_cache import write_atomically
from lanewise.errors import ConfigError

_log = structlog.get_logger(__name__)


class RuntimeCache:
    """Makes the execution contexts of one engine, which share their compiled kernels.

    Other editions of TensorRT compile when they build; for them nothing is kept.

    Args:
        file: where the kernels are kept. One that does not fit this device or version is
            passed over, and replaced by `save`.
    """

    def __init__(self, binding: Binding, engine: TrtObject, file: Path) -> None:
        self._binding = binding
        self._engine = engine
        self._file = file
        self._lock = threading.Lock()
        self._saved_bytes = 0
        self._config = engine.create_runtime_config()
        strategies = binding.module.ExecutionContextAllocationStrategy
        self._config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
        self._kernels: TrtObject = None
        if binding.is_rtx:
            self._kernels = self._config.create_runtime_cache()
            self._load()
            self._config.set_runtime_cache(self._kernels)
            # A request never waits for a better kernel than the one it has warmed up.
            eager = binding.module.DynamicShapesKernelSpecializationStrategy.EAGER
            self._config.dynamic_shapes_kernel_specialization_strategy = eager

    def make_context(self) -> TrtObject:
        """Make an execution context whose memory its owner provides.

        Raises:
            ConfigError: TensorRT gives its reason.
        """
        with self._binding.messages.collecting() as lines:
            context = self._engine.create_execution_context(self._config)
            if context is None:
                raise ConfigError(
                    f"no execution context can be made: {' '.join(lines.errors) or 'no reason'}"
                )
        return context

    def save(self) -> None:
        """Write what has been compiled since the last time. A failure is only logged."""
        if self._kernels is None:
            return
        with self._lock:
            data = bytes(self._kernels.serialize())
            if len(data) == self._saved_bytes:
                return
            try:
                write_atomically(self._file, data)
            except ConfigError as error:
                _log.warning("kernels cannot be kept for the next start", reason=str(error))
            self._saved_bytes = len(data)

    def _load(self) -> None:
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("kernels cannot be read", file=str(self._file), reason=error.strerror)
            return
        with self._binding.messages.collecting():
            fits = self._kernels.deserialize(data)
        self._saved_bytes = len(data) if fits else 0
        if not fits:
            _log.info("kernels are of another version or device", file=str(self._file))
