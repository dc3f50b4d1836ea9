"""Keeps what TensorRT says, because that is the only place where it gives its reasons."""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

_log = structlog.get_logger(__name__)

RECENT_LINES = 100
"""How many lines of each severity are kept; a build at full verbosity writes thousands."""


class Severity(enum.IntEnum):
    """How bad a line is; the numbers are TensorRT's."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class OperationLines:
    """What was said during one operation. Bounded; older lines are dropped."""

    def __init__(self) -> None:
        self._lines: dict[Severity, deque[str]] = _bounded()

    @property
    def errors(self) -> tuple[str, ...]:
        """The lines that say what failed, oldest first within a severity, without repetition."""
        said = (*self._lines[Severity.ERROR], *self._lines[Severity.INTERNAL_ERROR])
        return tuple(dict.fromkeys(said))

    @property
    def notes(self) -> tuple[str, ...]:
        """The lines of severity INFO, where TensorRT tells some of its reasons."""
        return tuple(self._lines[Severity.INFO])

    def add(self, severity: Severity, text: str) -> None:
        self._lines[severity].append(text)


class Messages:
    """The lines of one TensorRT module in this process. May be used from any thread.

    Warnings go to the log as they come, and so do errors unless an operation collects them:
    the collector reports them. Everything below goes to the log at level debug.
    """

    def __init__(self, library: str) -> None:
        self._log = _log.bind(library=library)
        self._lock = threading.Lock()
        self._recent = _bounded()
        self._collecting: list[OperationLines] = []

    def recent(self, severity: Severity) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._recent[severity])

    def add(self, severity: Severity, text: str) -> None:
        text = text.strip()
        with self._lock:
            self._recent[severity].append(text)
            for lines in self._collecting:
                lines.add(severity, text)
            told_elsewhere = bool(self._collecting)
        if severity <= Severity.ERROR:
            if not told_elsewhere:
                self._log.error(text)
        elif severity == Severity.WARNING:
            self._log.warning(text)
        else:
            self._log.debug(text)

    @contextmanager
    def collecting(self) -> Iterator[OperationLines]:
        """Collect the lines of one operation.

        TensorRT writes from threads of its own, so operations that overlap in time collect
        each other's lines, too. If the operation raises nothing, its errors are logged as
        warnings: TensorRT got over them.
        """
        lines = OperationLines()
        with self._lock:
            self._collecting.append(lines)
        try:
            yield lines
        finally:
            with self._lock:
                self._collecting = [each for each in self._collecting if each is not lines]
        for line in lines.errors:
            self._log.warning(line)


def join_reasons(lines: Sequence[str], otherwise: str) -> str:
    """Write `lines` as one text, or `otherwise` if there are none."""
    if len(lines) <= 1:
        return lines[0] if lines else otherwise
    return "".join(f"\n  {line}" for line in lines)


def _bounded() -> dict[Severity, deque[str]]:
    return {severity: deque(maxlen=RECENT_LINES) for severity in Severity}
