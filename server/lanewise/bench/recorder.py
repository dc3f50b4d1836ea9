"""Records the outcomes of the requests of one process until they are reported."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import grpc

from lanewise.bench.loads import KindTally, Stage, Tally

UNANSWERED = "UNANSWERED"
"""Requests given up because no answer came within the grace after the run."""

NOT_SENT = "NOT_SENT"
"""Requests that fell due while too many were in flight, or past their deadline."""

_REASON = "error-reason"
"""The trailer in which Lanewise names the class of a failure; other servers have none."""

_OK = grpc.StatusCode.OK
_T = TypeVar("_T")


class Recorder:
    """Notes requests from gRPC's thread; another thread takes the notes.

    Its lists only ever get a value appended, or lose the values at their front that were
    copied before: each is one step under the interpreter lock, so nothing gets lost.
    """

    def __init__(self, stage: Stage, kinds: int, timeout_ns: int | None) -> None:
        self._stage = stage
        self._is_closed = stage.load.rate is None
        self._timeout_ns = timeout_ns
        self._latencies: list[list[int]] = [[] for _ in range(kinds)]
        self._failures: list[tuple[int, str]] = []
        self._delays: list[int] = []
        self._examples: dict[str, str] = {}
        self._is_giving_up = False

    def note_delay(self, due_ns: int, sent_ns: int) -> None:
        if due_ns >= self._stage.measure_ns:
            self._delays.append(sent_ns - due_ns)

    def note_end(self, kind: int, due_ns: int, call: Any) -> None:  # noqa: ANN401
        """Note how a call ended that was due at `due_ns`.

        In a closed loop those count that end during the measurement, which makes a rate; in
        an open one those that fall due in it, so that the slowest are not left out.
        """
        ended_ns = time.monotonic_ns()
        decisive_ns = ended_ns if self._is_closed else due_ns
        if not self._stage.measure_ns <= decisive_ns < self._stage.end_ns:
            return
        code = call.code()
        if code is _OK:
            self._latencies[kind].append(ended_ns - due_ns)
        elif self._is_giving_up:
            self._failures.append((kind, UNANSWERED))
        else:
            label = _label(code, call)
            self._examples.setdefault(label, call.details() or "")
            self._failures.append((kind, label))

    def note_not_sent(self, kind: int, due_ns: int) -> None:
        """Note a request of an open loop that no call was made for."""
        if due_ns >= self._stage.measure_ns:
            self._failures.append((kind, NOT_SENT))

    def note_unanswered(self, kind: int) -> None:
        """Note a request of a closed loop that has not ended though the run has."""
        self._failures.append((kind, UNANSWERED))

    def give_up(self) -> None:
        """From now on, calls that fail do so because they are cancelled."""
        self._is_giving_up = True

    def take(self, tick: int) -> Tally:
        """Get what was recorded since the last call."""
        tally = Tally(tick, [KindTally() for _ in self._latencies])
        for kind, latencies in zip(tally.kinds, self._latencies, strict=True):
            taken = _take(latencies)
            kind.latencies.add(taken)
            kind.good = self._count_good(taken)
        for place, label in _take(self._failures):
            tally.kinds[place].failures[label] += 1
        tally.delays.add(_take(self._delays))
        tally.examples = dict(self._examples)
        return tally

    def _count_good(self, latencies: list[int]) -> int:
        if self._timeout_ns is None:
            return len(latencies)
        timeout_ns = self._timeout_ns
        return sum(latency <= timeout_ns for latency in latencies)


def _take(values: list[_T]) -> list[_T]:
    taken = values[:]
    del values[: len(taken)]
    return taken


def _label(code: grpc.StatusCode, call: Any) -> str:  # noqa: ANN401
    for key, value in call.trailing_metadata() or ():
        if key == _REASON:
            return f"{code.name} {value}"
    return code.name
