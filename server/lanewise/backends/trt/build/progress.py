"""The progress of a build, for people who wait for it."""

from __future__ import annotations

import structlog

from lanewise.backends.trt.binding import Binding, TrtObject

_log = structlog.get_logger(__name__)


class LoggedProgress:
    """Logs the outermost phases of a build; for servers, and for others to show more.

    Called from threads of TensorRT, one call at a time or not. Phases nest; their names are
    TensorRT's and come again once a phase of that name is over.
    """

    def __init__(self) -> None:
        self._outermost: set[str] = set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        if parent is None:
            self._outermost.add(phase)
            _log.info("build phase begins", phase=phase)

    def advance(self, phase: str, step: int) -> bool:
        """Record that step number `step` is done; return False to stop the build."""
        return True

    def finish(self, phase: str) -> None:
        if phase in self._outermost:
            self._outermost.discard(phase)
            _log.info("build phase is over", phase=phase)


def make_monitor(binding: Binding, progress: LoggedProgress) -> TrtObject:
    """Make an IProgressMonitor that calls `progress`.

    An exception must not pass through TensorRT: it is logged and stops the build.
    """

    class Monitor(binding.module.IProgressMonitor):  # type: ignore[misc,name-defined]
        """Hands every call on."""

        def __init__(self) -> None:
            # Without the explicit call pybind11 refuses the object.
            binding.module.IProgressMonitor.__init__(self)
            self._broken = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                progress.start(phase_name, parent_phase or None, num_steps)
            except Exception:
                self._give_up()

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                return progress.advance(phase_name, step) and not self._broken
            except Exception:
                self._give_up()
                return False

        def phase_finish(self, phase_name: str) -> None:
            try:
                progress.finish(phase_name)
            except Exception:
                self._give_up()

        def _give_up(self) -> None:
            self._broken = True
            _log.exception("build is stopped: its progress cannot be shown")

    return Monitor()
