"""The import rules of pyproject.toml hold, and each of them catches what it is there for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
RUN = "from importlinter.cli import lint_imports_command; lint_imports_command()"

WRONG_ARROWS = {
    "layers": ("lanewise/memory/__init__.py", "import lanewise.scheduler.results"),
    "neighbours": ("lanewise/rpc/__init__.py", "import lanewise.backends.runner"),
    "dispatcher": ("lanewise/scheduler/results.py", "import lanewise.backends.runner"),
    "pure-core": ("lanewise/scheduler/results.py", "import time"),
    "grpc-home": ("lanewise/backends/runner.py", "import grpc"),
    "protocol-home": ("lanewise/backends/runner.py", "import lanewise_client.protos"),
    "onnxruntime-home": ("lanewise/scheduler/dispatcher.py", "import onnxruntime"),
    "tensorrt-home": ("lanewise/processes/app.py", "def late():\n    import tensorrt_rtx"),
    "cuda-home": ("lanewise/backends/runner.py", "from cuda.bindings import runtime"),
    "edge-home": ("lanewise/rpc/edge/server.py", "import pyvoy"),
    "prometheus-home": ("lanewise/rpc/__init__.py", "import prometheus_client"),
    "terminal-home": ("lanewise/processes/app.py", "import rich.console"),
    "matplotlib-home": ("lanewise/simulator/report.py", "import matplotlib"),
    "simulator": ("lanewise/simulator/device.py", "import time"),
    "client-alone": ("lanewise_client/__init__.py", "import lanewise.errors"),
}


@pytest.fixture
def sources(tmp_path):
    """Copy the packages to a place of their own, where a test may break them."""
    for package in ("server/lanewise", "client/lanewise_client"):
        shutil.copytree(
            ROOT / package,
            tmp_path / Path(package).name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path


def lint(sources):
    """Get {contract id: "KEPT" or "BROKEN"} and everything that was printed."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": str(sources), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = {}
    for contract in CONTRACTS:
        found = re.search(
            rf"^{re.escape(contract['name'])} (KEPT|BROKEN)", done.stdout, re.MULTILINE
        )
        verdicts[contract["id"]] = found[1] if found else "not reported"
    return verdicts, done.stdout + done.stderr


def test_every_import_keeps_the_rules(sources):
    verdicts, printed = lint(sources)

    assert set(verdicts.values()) == {"KEPT"}, printed


def test_every_rule_breaks_on_an_import_it_forbids(sources):
    for path, wrong in WRONG_ARROWS.values():
        with (sources / path).open("a") as file:
            file.write(f"\n{wrong}\n")

    verdicts, printed = lint(sources)

    assert verdicts == dict.fromkeys(WRONG_ARROWS, "BROKEN"), printed


def test_a_new_module_needs_a_place_in_the_layers(sources):
    (sources / "lanewise" / "misplaced.py").touch()

    verdicts, printed = lint(sources)

    assert verdicts["layers"] == "BROKEN", printed
    assert "lanewise.misplaced" in printed
