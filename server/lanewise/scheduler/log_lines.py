"""The lines of the log that explain launches and refusals, and the words for late requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import structlog

from lanewise.clock import NS_PER_MS
from lanewise.errors import DeadlineExpired, ServingError
from lanewise.model.spec import ModelSpec, Profile
from lanewise.scheduler.decisions import Launch
from lanewise.scheduler.request import QueuedRequest

_log = structlog.get_logger("lanewise.scheduler")


def is_debugged() -> bool:
    """Whether lines of level debug are wanted; asked because making one up takes 12 us."""
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def log_launch(spec: ModelSpec, profile: Profile, launch: Launch, execution_ns: int) -> None:
    """Write why a launch that is over was made so, and what it was expected to take and took."""
    _log.debug(
        "launch finished",
        model=spec.name,
        version=spec.version,
        profile=profile.name,
        lane=launch.lane_id,
        reason=launch.reason.value,
        requests=len(launch.slices),
        rows=launch.rows,
        padded_rows=launch.padded_rows,
        **({"padded_length": launch.length} if launch.length else {}),
        execution_ms=execution_ns / NS_PER_MS,
        predicted_ms=launch.predicted_ns / NS_PER_MS,
        slowdown=round(launch.slowdown, 3),
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was known of a request when it was decided not to run it, or what is left of it.

    Attributes:
        waited_ns: since it was admitted; 0 for one that was refused at arrival.
        needed_ns: what it would have taken to run it from then on; 0 if that was not why.
        left_ns: until its deadline, below 0 if that had passed; None without a deadline.
    """

    request: QueuedRequest
    waited_ns: int
    needed_ns: int
    left_ns: int | None


def log_refusal(spec: ModelSpec, refusal: Refusal, error: ServingError) -> None:
    """Write why a request, or what is left of it, is not run."""
    needed, left = refusal.needed_ns, refusal.left_ns
    _log.debug(
        "request not run",
        model=spec.name,
        version=spec.version,
        reason=type(error).__name__,
        rows=refusal.request.route.rows,
        priority=refusal.request.priority,
        waited_ms=refusal.waited_ns / NS_PER_MS,
        **({"needed_ms": needed / NS_PER_MS} if needed else {}),
        **({} if left is None else {"left_ms": left / NS_PER_MS}),
        text=error.message,
    )


def describe_expiry(spec: ModelSpec, refusal: Refusal) -> DeadlineExpired:
    """Make the error of a request whose deadline has passed or cannot be met."""
    title, waited = f"model '{spec.name}'", f"{refusal.waited_ns / NS_PER_MS:.1f} ms"
    if not refusal.needed_ns:
        return DeadlineExpired(
            f"{title}: the deadline passed after {waited} in the queue, before the request could "
            "run; allow more time or send less load"
        )
    when = f"after {waited} in the queue" if refusal.waited_ns else "at arrival"
    left_ms = max(0, refusal.left_ns or 0) / NS_PER_MS
    return DeadlineExpired(
        f"{title}: the deadline cannot be met: {when} the request needs "
        f"{refusal.needed_ns / NS_PER_MS:.1f} ms, and {left_ms:.1f} ms are left; it was not run. "
        "Allow more time or send less load"
    )
