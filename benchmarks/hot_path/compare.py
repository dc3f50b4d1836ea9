"""Measure two checkouts by turns: `python -m benchmarks.hot_path.compare BEFORE AFTER`.

Each turn runs `python -m benchmarks.hot_path` of one checkout, with its own code and this Python.
Printed are medians over the turns, for every place and number in flight: the whole, the rate, and
the stages that both have under one name.
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
    found: dict[Path, dict[Key, list[float]]] = {
        options.before: defaultdict(list),
        options.after: defaultdict(list),
    }
    for turn in range(options.turns):
        order = list(found) if turn % 2 == 0 else list(reversed(found))
        for checkout in order:
            for key, value in measure(checkout, arguments).items():
                found[checkout][key].append(value)
    before, after = found.values()
    print("| place | in flight | | before | after | after / before |")
    print("|---|---:|---|---:|---:|---:|")
    for place, in_flight, name in before:
        values = after.get((place, in_flight, name))
        if values:
            was, now = statistics.median(before[place, in_flight, name]), statistics.median(values)
            ratio = f"{now / was:.2f}" if was else ""
            print(f"| {place} | {in_flight} | {name} | {was:.1f} | {now:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
