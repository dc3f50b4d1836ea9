"""What Lanewise is to reach on each transport, and whether it did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.peers.measuring import BULK_ROWS, CONCURRENCIES, LOOP, Results
from benchmarks.peers.subjects import KSERVE, MLSERVER, PYTRITON, SUBJECTS, Subject, Transport

OF_FLOOR = 0.8
OF_LOOP = 0.85
OPEN_P50_MS, OPEN_P99_MS = 2.0, 8.0
READY_S = 2.0
FIRST_MB, FURTHER_MB = 150.0, 60.0
EDGE_TIMES, EDGE_FROM, EDGE_P99 = 2.5, 32, 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was measured.

    Attributes:
        is_held: None if it could not be measured.
    """

    subject: str
    goal: str
    wanted: str
    measured: str
    is_held: bool | None

    @property
    def word(self) -> str:
        """What the report says."""
        return {True: "held", False: "**missed**", None: "not measured"}[self.is_held]


def check(results: Results) -> list[Verdict]:
    """Compare what was measured of Lanewise with every goal for it."""
    ours = [each for each in SUBJECTS if each.transport and each.name in results.samples]
    return [verdict for subject in ours for verdict in _check(subject, results)]


def floor(subject: Subject, concurrency: int, results: Results) -> float:
    """Get the requests a second that the echo and the model's own time allow together.

    The model's time is that of a row in the best batch of up to as many rows as requests are
    in flight.
    """
    echo = results.median(subject.floor, f"c{concurrency} /s")
    batches = [rows for rows in (1, 4, 8, 16, 32) if rows <= concurrency]
    rows_per_s = [rows * results.median(LOOP, f"calls/s of {rows}") for rows in batches]
    return 1 / (1 / echo + 1 / max(rows_per_s))


def _check(subject: Subject, results: Results) -> Iterator[Verdict]:
    name = subject.name
    if subject.transport is Transport.EDGE:
        yield from _edge_goals(subject, results)
    else:
        yield from _floor_goals(subject, results)
    rows_per_s = results.median(LOOP, f"calls/s of {BULK_ROWS}") * BULK_ROWS
    yield _at_least(
        name,
        f"rows/s of {BULK_ROWS}-row requests, of those of the loop",
        results.median(name, "bulk rows/s") / rows_per_s,
        OF_LOOP,
    )
    for quantile, most in (("p50", OPEN_P50_MS), ("p99", OPEN_P99_MS)):
        measured = results.median(name, f"open {quantile} ms")
        yield _at_most(name, f"open loop at 800/s, {quantile}, ms", measured, most)
    yield _at_most(name, "start to first answer, s", results.median(name, "ready s"), READY_S)
    most_mb = FIRST_MB + FURTHER_MB * max(0, subject.frontends - 1)
    yield _at_most(name, "memory (PSS), MB", results.median(name, "PSS MB"), most_mb)


def _floor_goals(subject: Subject, results: Results) -> Iterator[Verdict]:
    for concurrency in CONCURRENCIES:
        figure = f"c{concurrency} /s"
        measured = results.median(subject.name, figure)
        of = f"requests/s at {concurrency} in flight, of"
        allowed = floor(subject, concurrency, results)
        yield _at_least(
            subject.name, f"{of} what echo and model allow", measured / allowed, OF_FLOOR
        )
        for peer in (KSERVE, MLSERVER, PYTRITON):
            theirs = results.median(peer, figure)
            yield _at_least(subject.name, f"{of} {peer}'s", measured / theirs, 1.0)


def _edge_goals(subject: Subject, results: Results) -> Iterator[Verdict]:
    for concurrency in CONCURRENCIES:
        if concurrency < EDGE_FROM:
            continue
        for other in (subject.floor, PYTRITON):
            at = f"at {concurrency} in flight, of {other}'s"
            rate, tail = f"c{concurrency} /s", f"c{concurrency} p99 ms"
            times = results.median(subject.name, rate) / results.median(other, rate)
            yield _at_least(subject.name, f"requests/s {at}", times, EDGE_TIMES)
            share = results.median(subject.name, tail) / results.median(other, tail)
            yield _at_most(subject.name, f"p99 {at}", share, EDGE_P99)


def _at_least(subject: str, goal: str, measured: float, least: float) -> Verdict:
    is_held = None if math.isnan(measured) else measured >= least
    return Verdict(subject, goal, f"at least {least:g}", f"{measured:.3g}", is_held)


def _at_most(subject: str, goal: str, measured: float, most: float) -> Verdict:
    is_held = None if math.isnan(measured) else measured <= most
    return Verdict(subject, goal, f"at most {most:g}", f"{measured:.3g}", is_held)
