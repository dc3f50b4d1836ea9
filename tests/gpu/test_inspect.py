"""`lanewise inspect` of a plan, where it can be loaded."""

from __future__ import annotations

import io
import shutil

import pytest
from rich.console import Console

from helpers.serving import DIGITS
from helpers.trt_models import bind_rtx, save_plan
from lanewise.backends.repository import find_models
from lanewise.backends.trt.build.builder import build_plan
from lanewise.cli.inspect import inspect_path
from lanewise.settings.model import read_model_settings


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The digits model as a plan, with its settings beside it."""
    folder = tmp_path_factory.mktemp("digits")
    (source,) = find_models(DIGITS)
    settings = read_model_settings(source.settings_file)
    built = build_plan(bind_rtx(), source.file, settings, source.settings_file)
    shutil.copy(source.settings_file, folder)
    return save_plan(folder, built.data)


@pytest.mark.timeout(300)
def test_a_plan_is_told_with_builder_precision_and_the_memory_of_every_profile(plan):
    console = Console(file=io.StringIO(), width=200)

    assert inspect_path(plan, None, console), console.file.getvalue()

    shown = console.file.getvalue()
    version = bind_rtx().version
    assert f"plan built by tensorrt-rtx {version}; its inputs and outputs are FP32\n" in shown
    rows = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in shown.split("\n")
    ]
    low, opt, high = "[1, 3, 28, 28]", "[4, 3, 28, 28]", "[32, 3, 28, 28]"
    assert ["1", "dynamic", "X", low, opt, high] in [row[:6] for row in rows]
    memory = {row[0]: row[1:] for row in rows if len(row) == 4}
    # Two sets of buffers, each for the maximum: rows x 3 x 28 x 28 numbers of 4 bytes.
    assert {name: memory[name][0] for name in ("online", "dynamic", "offline")} == {
        "online": "18.38 KiB",
        "dynamic": "588 KiB",
        "offline": "2.297 MiB",
    }
