"""The page about the architecture speaks of what is there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "server" / "lanewise"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = re.findall(r"^\| `([\w/]+)`(?:, `(\w+)`)? \|", PAGE, re.MULTILINE)
PATH = PAGE.partition("## The path of one request")[2]
NAMES = sorted(set(re.findall(r"`(\w+(?:\.\w+)+)`", PATH)))


def resolve(name: str) -> object:
    """Get what a dotted name below `lanewise` stands for; raises AttributeError if nothing."""
    module, attributes = importlib.import_module("lanewise"), name.split(".")
    while attributes:
        try:
            module = importlib.import_module(f"{module.__name__}.{attributes[0]}")
        except ModuleNotFoundError:
            break
        del attributes[0]
    found: object = module
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


def test_the_path_of_a_request_names_functions():
    assert len(NAMES) >= 10
    with pytest.raises(AttributeError):
        resolve("rpc.aio.AioServer.no_such_method")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_on_the_path_of_a_request_exists(name):
    resolve(name)


def test_every_room_has_its_row_and_every_row_its_room():
    listed = {name.strip("/") for row in ROOMS for name in row if name}
    folders = {
        str(path.parent.relative_to(PACKAGE))
        for path in PACKAGE.rglob("__init__.py")
        if path.parent != PACKAGE
    }
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}

    assert listed == (folders - {"backends/trt/build", "simulator/rivals"}) | modules


def test_the_drawing_is_up_to_date():
    script = ROOT / "docs" / "pictures" / "architecture.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)
