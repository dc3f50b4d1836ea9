"""Tests on a device: skipped, and counted as skipped, where there is none."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

REQUIRED = "LANEWISE_REQUIRE_GPU"


def _why_not() -> str:
    for package in ("tensorrt_rtx", "cuda"):
        if not importlib.util.find_spec(package):
            return f"{package} is not installed"
    from lanewise.memory.device import device_count

    return "" if device_count() else "there is no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = _why_not() if here else ""
    if reason and os.environ.get(REQUIRED) == "1":
        raise pytest.UsageError(f"{REQUIRED}=1, but {reason}")
    if reason:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))
