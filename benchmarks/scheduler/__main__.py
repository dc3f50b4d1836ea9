"""Compare the policies and say whether ours holds what it promises; see README.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.scheduler import checks, comparison, report


def main() -> int:
    """Run the comparison; return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__)
    parser.add_argument("--short", action="store_true", help="three scenarios, coarse tuning")
    parser.add_argument("--output", type=Path, help="write a report here, .md and .json")
    options = parser.parse_args()
    plan = comparison.SHORT if options.short else comparison.FULL
    results = comparison.compare(plan, lambda line: print(line, file=sys.stderr, flush=True))
    verdicts = checks.check(results)
    command = "python -m benchmarks.scheduler" + (" --short" if options.short else "")
    text = report.as_markdown(results, verdicts, command)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
        document = report.as_json(results, verdicts, command)
        options.output.with_suffix(".json").write_text(
            json.dumps(document, indent=1) + "\n", encoding="utf-8"
        )
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
