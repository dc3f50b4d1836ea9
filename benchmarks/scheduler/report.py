"""The results as tables for people and as plain data for programs."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.scheduler.checks import Verdict
from benchmarks.scheduler.comparison import MISTAKEN, Results, best_rival
from benchmarks.scheduler.contenders import OURS
from benchmarks.scheduler.goodput import LOADS
from lanewise.bench.report import markdown_table


def as_json(results: Results, verdicts: Iterable[Verdict], command: str) -> dict[str, Any]:
    """Get everything that was measured."""
    return {
        **_circumstances(command),
        **dataclasses.asdict(results),
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
    }


def as_markdown(results: Results, verdicts: Iterable[Verdict], command: str) -> str:
    """Get the report as text."""
    title = ", ".join(f"{key}: {value}" for key, value in _circumstances(command).items())
    sections = [f"# Scheduling policies in the simulator\n\n{title}"]
    sections += [_sustained(results), _mistaken(results), _overload(results)]
    sections += _by_load(results)
    sections += [_interference(results), _optimum(results), _core(results), _checks(verdicts)]
    return "\n\n".join(sections) + "\n"


def _circumstances(command: str) -> dict[str, str]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "command": command,
    }


def _sustained(results: Results) -> str:
    names = list(next(iter(results.scores.values())))
    rows = [
        [scenario, f"{results.capacities[scenario]:.0f}"]
        + [f"{scores[name].sustained.goodput:.0f}" for name in names]
        for scenario, scores in results.scores.items()
    ]
    settings = [
        f"- {scenario}: {name} with {scores[name].settings}"
        for scenario, scores in results.scores.items()
        for name in names
        if scores[name].settings
    ]
    return (
        "## Goodput at 99 % attainment\n\nRequests a second that met their deadlines, at the "
        "highest rate at which 99 % of all do.\n\n"
        + markdown_table(["scenario", "capacity", *names], rows)
        + "\n\nSettings found by search:\n\n"
        + "\n".join(settings)
    )


def _mistaken(results: Results) -> str:
    rows = []
    for scenario, wrong in results.mistaken.items():
        right = results.scores[scenario][OURS].sustained.goodput
        rival, theirs = best_rival(results.scores[scenario])
        best = f"{theirs.sustained.goodput:.0f} ({rival})"
        share = f"{wrong.goodput / (right or 1):.0%}"
        rows.append([scenario, f"{right:.0f}", f"{wrong.goodput:.0f}", share, best])
    head = ["scenario", "right costs", "wrong costs", "share", "best rival"]
    return (
        f"## With wrong costs\n\nThe same goodput of {OURS} if the time of each kind of launch is "
        f"wrong by up to {MISTAKEN:.0%} at first.\n\n{markdown_table(head, rows)}"
    )


def _overload(results: Results) -> str:
    rows = [
        [
            scenario,
            name,
            f"{one.peak:.0f}",
            f"{one.loads[-1].goodput:.0f}",
            f"{one.loads[-1].goodput / (one.peak or 1):.0%}",
        ]
        for scenario, scores in results.scores.items()
        for name, one in scores.items()
    ]
    head = ["scenario", "policy", "peak", f"at {LOADS[-1]:.0%} of capacity", "of peak"]
    return f"## Overload\n\n{markdown_table(head, rows)}"


def _by_load(results: Results) -> Iterator[str]:
    head = ["policy", *(f"{load:.0%}" for load in LOADS)]
    for scenario, scores in results.scores.items():
        rows = [
            [name, *(f"{one.goodput:.0f} ({one.attainment:.1%})" for one in each.loads)]
            for name, each in scores.items()
        ]
        yield f"## {scenario}\n\nGoodput (attainment) by load.\n\n{markdown_table(head, rows)}"


def _interference(results: Results) -> str:
    rows = [
        [
            name,
            f"{one.alone_p99_ms:.2f}",
            f"{one.beside_p99_ms:.2f}",
            f"{one.slowdown:.2f}",
            f"{one.alone_bulk:.0f}",
            f"{one.beside_bulk:.0f}",
            f"{one.bulk_share:.0%}",
        ]
        for name, one in results.interference.items()
    ]
    head = ["policy", "p99 alone, ms", "beside bulk", "times"]
    head += ["bulk alone, requests/s", "beside interactive", "share"]
    return (
        f"## Interactive work while bulk work saturates the device\n\n{markdown_table(head, rows)}"
    )


def _optimum(results: Results) -> str:
    rows = [[name, f"{share:.1%}"] for name, share in results.shares_of_optimum.items()]
    return (
        "## Of the best possible schedule\n\nMean share of the requests that the best schedule "
        "completes on time, up to 10 requests on a device that runs one launch at a time.\n\n"
        + markdown_table(["policy", "share"], rows)
    )


def _core(results: Results) -> str:
    return (
        f"## The core itself\n\n{OURS}, 256 requests waiting for 8 lanes: median "
        f"{results.core_us:.1f} us and {results.core_calls:.0f} calls a request."
    )


def _checks(verdicts: Iterable[Verdict]) -> str:
    rows = [[one.promise, one.measured, "yes" if one.is_met else "**no**"] for one in verdicts]
    return f"## Promises\n\n{markdown_table(['promise', 'measured', 'kept'], rows)}"
