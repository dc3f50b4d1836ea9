"""Sends the requests of one stage from one process, as cheaply as gRPC's Python lets it.

Calls are made with callbacks on blocking channels, without serializers: at 32 in flight that
takes 47 us of CPU a request, where asyncio and threads take 65 us each (grpcio 1.85.1).
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import numpy as np

from lanewise.bench.arrivals import draw_arrivals
from lanewise.bench.loads import Stage, Target
from lanewise.bench.recorder import Recorder
from lanewise.clock import NS_PER_S

MAX_IN_FLIGHT = 20_000
"""Requests of an open loop in one process: a bound for memory; what is due beyond is NOT_SENT."""

REST_NS = 20_000_000
"""How long a request in a closed loop waits after the server could not be reached."""

KINDS_DRAWN = 4096
"""The requests after which a closed loop repeats its sequence of kinds."""

APART = 61
"""Places in that sequence between one request in flight and the next."""

_Call = Any
_Stub = Any


class ClosedLoop:
    """A fixed number of requests in flight at all times: an answer sends the next one.

    gRPC's threads run the callbacks, one thread all the methods.
    """

    def __init__(
        self, stubs: Sequence[_Stub], target: Target, stage: Stage, recorder: Recorder
    ) -> None:
        whole, left = divmod(stage.load.concurrency, stage.parts)
        self._resting: deque[tuple[int, _Chain]] = deque()
        way = _Way(
            payloads=[payload.data for payload in target.payloads],
            kinds=draw_kinds(target, KINDS_DRAWN, target.seed + stage.part),
            timeout_s=None if target.timeout_ns is None else target.timeout_ns / NS_PER_S,
            end_ns=stage.end_ns,
            recorder=recorder,
            resting=self._resting,
        )
        self._chains = [
            # No two send the same sequence of kinds at the same time.
            _Chain(stubs[number % len(stubs)], way, number * APART)
            for number in range(whole + (stage.part < left))
        ]

    def start(self) -> None:
        """Send the first requests; called when the stage begins."""
        for chain in self._chains:
            chain.send()

    def work_until(self, until_ns: int) -> None:
        """Send what falls due until then."""
        while (now_ns := time.monotonic_ns()) < until_ns:
            while self._resting and now_ns - self._resting[0][0] >= REST_NS:
                self._resting.popleft()[1].send()
            time.sleep(min(until_ns - now_ns, REST_NS) / NS_PER_S)

    def in_flight(self) -> int:
        return sum(chain.call is not None for chain in self._chains)

    def give_up(self) -> None:
        for chain in self._chains:
            chain.give_up()


@dataclass(frozen=True, slots=True)
class _Way:
    payloads: list[bytes]
    kinds: list[int]
    timeout_s: float | None
    end_ns: int
    recorder: Recorder
    resting: deque[tuple[int, _Chain]]


class _Chain:
    """One request after the other, each sent by the end of the one before it."""

    __slots__ = ("_due_ns", "_kind", "_place", "_stub", "_way", "call")

    def __init__(self, stub: _Stub, way: _Way, place: int) -> None:
        self._stub = stub
        self._way = way
        self._place = place
        self._kind = 0
        self._due_ns = 0
        self.call: _Call = None

    def send(self) -> None:
        way = self._way
        self._due_ns = time.monotonic_ns()
        if self._due_ns >= way.end_ns:
            self.call = None
            return
        self._place = (self._place + 1) % len(way.kinds)
        self._kind = way.kinds[self._place]
        self.call = self._stub.future(way.payloads[self._kind], timeout=way.timeout_s)
        self.call.add_done_callback(self._end)

    def give_up(self) -> None:
        if self.call is not None:
            self._way.recorder.note_unanswered(self._kind)
            self.call.cancel()

    def _end(self, call: _Call) -> None:
        self._way.recorder.note_end(self._kind, self._due_ns, call)
        if call.code() is grpc.StatusCode.UNAVAILABLE:
            self.call = None
            self._way.resting.append((time.monotonic_ns(), self))
        else:
            self.send()


class OpenLoop:
    """Requests sent when they are due, however many are in flight. Used as `ClosedLoop` is."""

    def __init__(
        self,
        stubs: Sequence[_Stub],
        target: Target,
        stage: Stage,
        recorder: Recorder,
    ) -> None:
        rate = stage.load.rate
        assert rate is not None
        seconds = (stage.end_ns - stage.begin_ns) / NS_PER_S
        # Every process draws the same requests and takes its share of them, so that bursts
        # are those of the run and the requests do not depend on how many processes there are.
        arrivals = draw_arrivals(rate, seconds, stage.load.burst, target.seed)
        kinds = draw_kinds(target, len(arrivals), target.seed)
        mine = slice(stage.part, None, stage.parts)
        self._due_ns = (stage.begin_ns + arrivals[mine] * NS_PER_S).astype(np.int64).tolist()
        self._kinds = kinds[mine]
        self._payloads = [payload.data for payload in target.payloads]
        self._timeout_ns = target.timeout_ns
        self._stubs = stubs
        self._recorder = recorder
        self._next = 0
        self._calls: set[_Call] = set()

    def start(self) -> None:
        """Do nothing: each request has its time."""

    def work_until(self, until_ns: int) -> None:
        while self._next < len(self._due_ns):
            due_ns = self._due_ns[self._next]
            wait_ns = min(due_ns, until_ns) - time.monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / NS_PER_S)
            if due_ns >= until_ns:
                return
            self._send(self._kinds[self._next], due_ns)
            self._next += 1
        _sleep_until(until_ns)

    def in_flight(self) -> int:
        return len(self._calls)

    def give_up(self) -> None:
        self._recorder.give_up()
        for call in list(self._calls):
            call.cancel()

    def _send(self, kind: int, due_ns: int) -> None:
        now_ns = time.monotonic_ns()
        self._recorder.note_delay(due_ns, now_ns)
        timeout_s = None
        if self._timeout_ns is not None:
            timeout_s = (due_ns + self._timeout_ns - now_ns) / NS_PER_S
        if len(self._calls) >= MAX_IN_FLIGHT or (timeout_s is not None and timeout_s <= 0):
            self._recorder.note_not_sent(kind, due_ns)
            return
        stub = self._stubs[self._next % len(self._stubs)]
        call = stub.future(self._payloads[kind], timeout=timeout_s)
        self._calls.add(call)
        call.add_done_callback(functools.partial(self._end, kind, due_ns))

    def _end(self, kind: int, due_ns: int, call: _Call) -> None:
        self._calls.discard(call)
        self._recorder.note_end(kind, due_ns, call)


Sender: TypeAlias = ClosedLoop | OpenLoop


def draw_kinds(target: Target, count: int, seed: int) -> list[int]:
    """Draw which payload each of `count` requests has, by their shares."""
    shares = [payload.share for payload in target.payloads]
    generator = np.random.default_rng((seed, 1))  # not the generator of the arrivals
    drawn: list[int] = generator.choice(len(shares), count, p=shares).tolist()
    return drawn


def _sleep_until(until_ns: int) -> None:
    left_ns = until_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / NS_PER_S)
