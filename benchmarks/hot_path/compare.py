"""Measure two checkouts by turns: `python -m benchmarks.hot_path.compare BEFORE AFTER`.

Each turn runs `python -m benchmarks.hot_path` of one checkout, with its own code and this Python.
Printed are medians over the turns, for every place and number in flight: the whole, the rate, and
the stages that both have under one name. Other arguments are passed on to the benchmark. Give one
checkout twice to see how far two runs of the same code differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

Key = tuple[str, int, str]
"""Place, requests in flight, and what was measured."""


def measure(checkout: Path, arguments: list[str]) -> dict[Key, float]:
    """Run the benchmark of a checkout once."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result"
        subprocess.run(
            [sys.executable, "-m", "benchmarks.hot_path", *arguments, "--output", str(output)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": "server:client:."},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        result = json.loads(output.with_suffix(".json").read_text())
    figures: dict[Key, float] = {}
    for each in result["breakdowns"]:
        place, in_flight = each["place"], each["in_flight"]
        figures[place, in_flight, "requests/s"] = each["requests_per_s"]
        figures[place, in_flight, "whole, us"] = each["whole_us"]
        figures |= {(place, in_flight, name): us for name, us in each["stages_us"].items()}
    for each in result["threads"]:
        key = ("process over gRPC", each["in_flight"], "whole, us")
        figures[key] = figures.get(key, 0.0) + each["cpu_us"]
    for each in result["frames"]:
        figures["calls", each["in_flight"], "Python frames"] = each["python"]
        figures["calls", each["in_flight"], "C calls"] = each["c"]
    return figures


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path.compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    options, arguments = parser.parse_known_args()
    before: dict[Key, list[float]] = defaultdict(list)
    after: dict[Key, list[float]] = defaultdict(list)
    sides = [(options.before, before), (options.after, after)]
    for _ in range(options.turns):
        for checkout, found in sides:
            for key, value in measure(checkout, arguments).items():
                found[key].append(value)
        sides.reverse()  # neither is always the first of a turn
    print("| place | in flight | | before | after | after / before |")
    print("|---|---:|---|---:|---:|---:|")
    for key in [key for key in before if key in after]:
        was, now = statistics.median(before[key]), statistics.median(after[key])
        ratio = f"{now / was:.2f}" if was else ""
        place, in_flight, name = key
        print(f"| {place} | {in_flight} | {name} | {was:.1f} | {now:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
