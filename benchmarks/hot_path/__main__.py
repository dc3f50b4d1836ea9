"""Say where the CPU time of a small request goes; see README.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

import structlog

from benchmarks.hot_path import frames, in_process, over_grpc, over_link, report, transports
from benchmarks.hot_path.stopwatch import calibrate
from lanewise.processes import event_loop


def main() -> None:
    """Measure, print a report and write it if asked to."""
    options = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    if options.core >= 0:
        os.sched_setaffinity(0, {options.core})
    overhead = calibrate()
    plan = (options.models, options.in_flight, options.requests, options.repeats, overhead)
    found, messages = event_loop.run(in_process.measure(*plan))
    found += event_loop.run(over_link.measure(*plan))
    core = max(options.core, 0)
    real, threads = event_loop.run(over_grpc.measure(*plan[:-1], messages, core))
    floor = transports.measure_floor(core, options.in_flight) if options.floor else []
    calls = event_loop.run(frames.count(options.models, options.in_flight))
    result = report.Result(found + real, threads, calls, floor)
    command = shlex.join(["python", "-m", "benchmarks.hot_path", *sys.argv[1:]])
    facts = report.Facts.gather(command, overhead)
    text = report.as_markdown(facts, result)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
        document = json.dumps(report.as_json(facts, result), indent=1)
        options.output.with_suffix(".json").write_text(document + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description=__doc__)
    parser.add_argument(
        "models", type=Path, nargs="?", default=in_process.MODELS, help="its first is used"
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--requests", type=int, default=4096, help="of one run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--core", type=int, default=0, help="to pin the server to; -1: none, 0 over gRPC"
    )
    parser.add_argument("--floor", action="store_true", help="measure a bare grpc.aio echo, too")
    parser.add_argument("--output", type=Path, help="write .md and .json here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
