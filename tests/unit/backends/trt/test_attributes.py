"""Every part of TensorRT's API that is used exists in the editions at hand."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from helpers.trt_attributes import (
    BUILDER_ATTRIBUTES,
    RTX_ATTRIBUTES,
    RUNTIME_ATTRIBUTES,
    USED_ATTRIBUTES,
)
from helpers.trt_models import FakeEngine, import_tensorrt
from lanewise.backends import trt

SOURCES = sorted(Path(trt.__file__).parent.rglob("*.py"))
LISTED = {attribute for attributes in USED_ATTRIBUTES.values() for attribute in attributes}


def missing(module, table):
    classes = [name for name in table if not hasattr(module, name)]
    attributes = [
        f"{name}.{attribute}"
        for name, attributes in table.items()
        for attribute in attributes
        if name not in classes and not hasattr(getattr(module, name), attribute)
    ]
    return classes + attributes


@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_rtx"])
def test_what_runs_plans_exists_in_every_edition(name):
    assert missing(import_tensorrt(name), RUNTIME_ATTRIBUTES) == []


@pytest.mark.parametrize("table", [BUILDER_ATTRIBUTES, RTX_ATTRIBUTES], ids=["build", "rtx"])
def test_what_builds_plans_and_what_is_special_exists_in_tensorrt_rtx(table):
    assert missing(import_tensorrt("tensorrt_rtx"), table) == []


def test_nothing_of_tensorrt_is_used_that_the_table_does_not_list():
    """As far as can be seen: names without an underscore are too common to tell whose they are."""
    of_tensorrt = {
        attribute
        for each in vars(import_tensorrt("tensorrt_rtx")).values()
        if isinstance(each, type) and each.__module__.startswith("tensorrt")
        for attribute in vars(each)
        if "_" in attribute.strip("_")
    }

    unlisted = [
        f"{source.name}:{node.lineno} {node.attr}"
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in of_tensorrt - LISTED
    ]

    assert len(of_tensorrt) > len(LISTED)
    assert unlisted == []


def test_the_table_lists_nothing_that_is_not_used():
    code = "\n".join(each.read_text() for each in SOURCES)

    assert [each for each in sorted(LISTED) if not re.search(rf"\b{each}\b", code)] == []


@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_rtx"])
def test_the_fake_engine_has_nothing_that_an_engine_has_not(name):
    engine = import_tensorrt(name).ICudaEngine
    fake = FakeEngine(None, [], {0: 0})

    answers = [each for each in dir(fake) if not each.startswith("_")]

    assert answers
    assert [each for each in answers if not hasattr(engine, each)] == []
