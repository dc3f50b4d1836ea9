"""Each fault that docs/faults.md tells of is brought about by a test."""

from __future__ import annotations

import ast
import re

from helpers.serving import REPOSITORY

PAGE = REPOSITORY / "docs" / "faults.md"
SERVER = REPOSITORY / "server" / "lanewise"


def rows():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(path):
    """Names of the tests in a file, as pytest writes them behind its path."""
    names = set()
    for node in ast.parse((REPOSITORY / path).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = (each for each in node.body if isinstance(each, ast.FunctionDef))
            names |= {f"{node.name}::{each.name}" for each in inner}
    return names


def test_each_row_names_a_test_that_exists_and_no_two_the_same():
    named = [row[-1].strip("`").partition("::") for row in rows()]

    assert len(named) > 20
    assert [f"{path}::{test}" for path, _, test in named if test not in names_in(path)] == []
    assert len(set(named)) == len(named)


def test_each_line_of_the_log_that_is_named_is_one_the_server_writes():
    source = "\n".join(path.read_text() for path in SERVER.rglob("*.py"))
    events = [
        event
        for row in rows()
        for part in re.findall(r"log ((?:`[^`]+`(?:, )?)+)", row[2])
        for event in re.findall(r"`([^`]+)`", part)
    ]

    assert len(events) > 10
    assert [event for event in events if f'"{event}"' not in source] == []


def test_each_metric_that_is_named_is_one_the_server_has():
    named = set(re.findall(r"`(lanewise_\w+)`", PAGE.read_text()))
    source = (SERVER / "telemetry" / "metrics.py").read_text()

    assert [name for name in named if f'"{name.removesuffix("_total")}"' not in source] == []
