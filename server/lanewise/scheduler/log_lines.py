"""The lines of the log that explain launches and refusals."""

from __future__ import annotations

import logging

import structlog

from lanewise.clock import NS_PER_MS
from lanewise.errors import ServingError
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.request import End, Launch

_log = structlog.get_logger("lanewise.scheduler")
_root = logging.getLogger()


def is_debugged() -> bool:
    """Whether lines of level debug are wanted; asked because making one up takes 12 us."""
    return _root.isEnabledFor(logging.DEBUG)


def launch_facts(spec: ModelSpec, launch: Launch) -> dict[str, object]:
    """Get what every line about a launch says of it."""
    return {
        "model": spec.name,
        "version": spec.version,
        "profile": launch.lane.profile.name,
        "rows": launch.rows,
    }


def log_launch(spec: ModelSpec, launch: Launch, execution_ns: int) -> None:
    """Write why a launch that is over was made so, and what it was expected to take and took."""
    _log.debug(
        "launch finished",
        **launch_facts(spec, launch),
        lane=launch.lane.lane_id,
        reason=launch.reason.value,
        requests=len(launch.parts),
        padded_rows=launch.padded_rows,
        **({"padded_length": launch.length} if launch.length else {}),
        execution_ms=execution_ns / NS_PER_MS,
        predicted_ms=launch.predicted_ns / NS_PER_MS,
        slowdown=round(launch.slowdown, 3),
    )


def log_refusal(spec: ModelSpec, end: End, error: ServingError, now_ns: int) -> None:
    """Write why a request, or what is left of it, is not run."""
    request = end.request
    waited_ns = now_ns - request.arrived_ns if end.was_admitted else 0
    deadline_ns = request.deadline_ns
    _log.debug(
        "request not run",
        model=spec.name,
        version=spec.version,
        reason=type(error).__name__,
        rows=request.route.rows,
        priority=request.priority,
        waited_ms=waited_ns / NS_PER_MS,
        **({"needed_ms": end.needed_ns / NS_PER_MS} if end.needed_ns else {}),
        **({} if deadline_ns is None else {"left_ms": (deadline_ns - now_ns) / NS_PER_MS}),
        text=error.message,
    )
