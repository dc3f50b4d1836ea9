"""Makes the virtual environment of each server, once, and lists what is in it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.peers.subjects import REPOSITORY, Environment

INSTALL_S = 900
STAMP = "made-from.txt"


class NotInstalled(Exception):
    """An environment that could not be made; the text says why."""


def prepare(environment: Environment, work: Path) -> Path:
    """Make the environment in `work` unless it is there, and get its Python.

    Raises:
        NotInstalled: uv or an interpreter is missing, or a package cannot be installed.
    """
    uv = shutil.which("uv")
    if uv is None:
        raise NotInstalled("uv is not installed: pip install uv")
    folder = work / environment.name
    python = folder / "bin" / "python"
    made_from = _fingerprint(environment)
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == made_from:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _make(uv, environment, folder)
    _run([uv, "pip", "install", "--python", python, *_packages(environment)])
    stamp.write_text(made_from)
    return python


def versions(python: Path) -> dict[str, str]:
    """Get the versions of the packages of an environment, by name."""
    code = (
        "import importlib.metadata as m, json, platform;"
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}"
        " | {'python': platform.python_version()}))"
    )
    found: dict[str, str] = json.loads(_run([python, "-c", code]))
    return found


def _fingerprint(environment: Environment) -> str:
    """What the environment is made from; another text makes it anew."""
    text = repr(environment)
    for file in (environment.constraints, REPOSITORY / "pyproject.toml"):
        if file is not None and "lanewise" in environment.name:
            text += hashlib.sha256(file.read_bytes()).hexdigest()
    return text


def _make(uv: str, environment: Environment, folder: Path) -> None:
    problems = []
    for version in environment.python:
        for interpreter in (version, *_of_pyenv(version)):
            try:
                _run([uv, "venv", "--python", interpreter, folder])
            except NotInstalled as error:
                problems.append(f"Python {interpreter}: {error}")
            else:
                return
    raise NotInstalled("; ".join(problems))


def _of_pyenv(version: str) -> list[Path]:
    """Find interpreters that only pyenv knows, whose shims uv cannot ask."""
    return sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))


def _packages(environment: Environment) -> list[str | Path]:
    ours = [p for p in environment.packages if p.startswith(str(REPOSITORY))]
    others: list[str | Path] = [p for p in environment.packages if p not in ours]
    for package in ours:
        others += ["--editable", package]
    if environment.constraints is not None:
        others += ["--constraint", environment.constraints]
    return others


def _run(command: list[str | Path]) -> str:
    try:
        done = subprocess.run(
            [str(part) for part in command],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        raise NotInstalled(" ".join(lines[-3:])) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    return done.stdout
