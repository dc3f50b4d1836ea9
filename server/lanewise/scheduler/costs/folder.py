"""The folder in which a server keeps what launches cost from one start to the next."""

from __future__ import annotations

from pathlib import Path

import structlog

from lanewise.errors import ConfigError
from lanewise.model.spec import ModelSpec
from lanewise.scheduler.costs.file import MeasuredModel, find_difference, load_costs, save_costs
from lanewise.scheduler.costs.table import CostTable

_log = structlog.get_logger(__name__)


class CostFolder:
    """Cost files, one for each version of a model: `<model>-<version>.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, model: MeasuredModel) -> CostTable | None:
        """Get the costs of `model` from its file; None, with a line in the log, if they do not fit.

        Whether the device and the plan are those that were measured is not checked.
        """
        path, spec = self._path(model.spec), model.spec
        try:
            if not path.exists():
                return None
            stored = load_costs(path)
            difference = find_difference(stored, model)
        except OSError as error:  # the folder cannot be searched
            reason = f"{path}: cannot be read: {error.strerror}"
        except ConfigError as error:
            reason = str(error)
        else:
            if not difference:
                _log.info("costs loaded", model=spec.name, version=spec.version, file=str(path))
                return stored.costs
            reason = f"they are of a model with other {difference}"
        _log.warning(
            "costs are measured anew",
            model=spec.name,
            version=spec.version,
            file=str(path),
            reason=reason,
        )
        return None

    def save(self, model: MeasuredModel) -> None:
        """Write the file of `model`, replacing what is there; makes the folder if need be.

        Raises:
            ConfigError: it cannot be written.
        """
        path = self._path(model.spec)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_costs(path, model)
        except OSError as error:
            raise ConfigError(
                f"--costs {self._folder}: {path} cannot be written: {error.strerror}; "
                "choose another folder"
            ) from error

    def _path(self, spec: ModelSpec) -> Path:
        return self._folder / f"{spec.name}-{spec.version}.json"
