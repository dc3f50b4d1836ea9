"""The messages between the processes: how much is sent, for how long, and the outcome.

Imports no gRPC: its settings are made once a process has read these.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from lanewise.bench.buckets import Buckets


@dataclass(frozen=True, slots=True)
class Payload:
    """One kind of request: what is sent, and how often.

    Attributes:
        rows: of each request, for counting; 1 where the model has no rows.
        share: of all requests.
        data: the serialised ModelInferRequest.
    """

    name: str
    rows: int
    share: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Load:
    """One point of a run: a closed loop if `rate` is None, else an open one.

    Attributes:
        concurrency: requests in flight at all times, over all processes.
        rate: requests a second that fall due whether or not others were answered.
        burst: how many times the rate there is during bursts; 1 for a steady stream.
    """

    concurrency: int = 0
    rate: float | None = None
    burst: float = 1.0

    @property
    def name(self) -> str:
        """What reports call it."""
        if self.rate is None:
            return f"{self.concurrency} in flight"
        bursts = f" in bursts of {self.burst:g}x" if self.burst > 1 else ""
        return f"{self.rate:g}/s{bursts}"


@dataclass(frozen=True, slots=True)
class Target:
    """The server to send to, and the requests.

    Attributes:
        address: HOST:PORT.
        method: gRPC's path of the call.
        channels: connections of each process.
        timeout_ns: from when a request is due to its deadline; None for none.
    """

    address: str
    payloads: tuple[Payload, ...]
    method: str = "/inference.GRPCInferenceService/ModelInfer"
    channels: int = 1
    timeout_ns: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One load as a process gets it: its part of it, and when, in CLOCK_MONOTONIC.

    Attributes:
        part: which of the `parts` processes this is for.
        begin_ns: when requests begin.
        measure_ns: when the warm-up is over.
        end_ns: from then on none falls due.
        grace_ns: how long answers are waited for after that.
    """

    load: Load
    part: int
    parts: int
    begin_ns: int
    measure_ns: int
    end_ns: int
    grace_ns: int


@dataclass(slots=True)
class KindTally:
    """What became of requests of one kind.

    Attributes:
        latencies: of those that were answered, from when they were due.
        good: of these, how many were answered by their deadline.
        failures: how many got what else, by status and reason.
    """

    latencies: Buckets = field(default_factory=Buckets)
    good: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def merge(self, other: KindTally) -> None:
        self.latencies.merge(other.latencies)
        self.good += other.good
        self.failures.update(other.failures)


@dataclass(slots=True)
class Tally:
    """What one process has seen since its last one.

    Attributes:
        tick: the half second of the measurement that it is of.
        kinds: in the order of the payloads.
        delays: from when each request was due until it was sent; of open loops.
        examples: what a server said with a failure, by status and reason.
    """

    tick: int
    kinds: list[KindTally]
    delays: Buckets = field(default_factory=Buckets)
    examples: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageEnd:
    """The last message of a process on a stage: the share of one core it used."""

    cpu_share: float
