"""Measure Lanewise beside the servers its users would pick instead; see README.md."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from benchmarks.peers import goals, measuring, report
from benchmarks.peers.subjects import SUBJECTS

WORK = Path.home() / ".cache" / "lanewise" / "bench-peers"


def main() -> int:
    """Run the comparison; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one repeat, shorter points")
    parser.add_argument("--repeats", type=int, help="instead of the plan's")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="subjects; default: all")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for environments")
    parser.add_argument("--output", type=Path, help="write a report here, .md and .json")
    options = parser.parse_args()
    plan = measuring.SHORT if options.short else measuring.FULL
    if options.repeats:
        plan = measuring.Plan(options.repeats, plan.warmup_s, plan.seconds)
    chosen = [s for s in SUBJECTS if not options.only or s.name in options.only]
    options.work.mkdir(parents=True, exist_ok=True)
    results = measuring.measure(
        chosen, plan, options.work, lambda line: print(line, file=sys.stderr, flush=True)
    )
    command = " ".join(["python -m benchmarks.peers", *map(shlex.quote, sys.argv[1:])])
    text = report.as_markdown(results, plan, command)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
        document = json.dumps(report.as_json(results, plan, command), indent=1)
        options.output.with_suffix(".json").write_text(document + "\n", encoding="utf-8")
    return 0 if all(verdict.is_held is not False for verdict in goals.check(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
