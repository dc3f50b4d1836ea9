"""Where a version of a model was found: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One version of a model on disk.

    Attributes:
        version: a positive number; empty for a model that has no version at all.
        file: the model file; where it was looked for, if there is a problem.
        settings_file: its model.toml, which need not exist.
        problem: why it cannot be loaded; empty if it may be tried.
    """

    name: str
    version: str
    file: Path
    settings_file: Path
    problem: str = ""
