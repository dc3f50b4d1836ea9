"""Serve the same traces on real lanes under several policies, and see whether the simulator knew.

    python -m benchmarks.scheduler.real_lanes --backend onnxruntime

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from benchmarks.scheduler import lane_report
from benchmarks.scheduler.lane_models import BACKENDS
from benchmarks.scheduler.lane_runs import POLICIES, Plan, run_lanes
from lanewise.simulator.trace import TraceFile
from lanewise.telemetry.logs import configure_logging


def main() -> None:
    """Measure, print the tables, write them where asked."""
    options = _parse()
    configure_logging(level="warning")
    plan = Plan(
        options.backend,
        tuple(options.loads),
        options.seconds,
        options.repeats,
        options.seed,
        tuple(options.policies),
        () if options.trace is None else tuple(TraceFile(options.trace)),
    )
    runs = asyncio.run(run_lanes(plan, lambda line: print(line, file=sys.stderr, flush=True)))
    circumstances = lane_report.describe_run(plan.backend, sys.argv[1:])
    text = lane_report.as_markdown(runs, circumstances)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
        document = json.dumps(lane_report.as_json(runs, circumstances), indent=1)
        options.output.with_suffix(".json").write_text(document + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scheduler.real_lanes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Plan("")
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime")
    parser.add_argument(
        "--loads", type=float, nargs="+", default=default.loads, help="shares of capacity"
    )
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of each trace")
    parser.add_argument("--repeats", type=int, default=default.repeats)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--trace", type=Path, help="a trace file to send instead")
    parser.add_argument("--output", type=Path, help="write the results here, .md and .json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
