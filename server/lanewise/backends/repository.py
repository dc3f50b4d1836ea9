"""Finds models on disk and loads each with its backend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import structlog

from lanewise.backends.registry import MODEL_SUFFIXES, choose_backend, model_suffix
from lanewise.backends.row_names import rows_names
from lanewise.backends.rows import Trial, find_mixing, try_rows
from lanewise.backends.runner import LoadedModel, ModelSource
from lanewise.clock import Clock
from lanewise.errors import ConfigError, printable
from lanewise.settings.model import ModelSettings

_log = structlog.get_logger(__name__)

SETTINGS_FILE = "model.toml"
MODEL_FILES = tuple(f"model{suffix}" for suffix in MODEL_SUFFIXES)
NO_VERSION = ""
TRITON_SETTINGS_FILE = "config.pbtxt"
_VERSION = re.compile(r"[1-9][0-9]*")
_LAYOUT = (
    f"expected <repository>/<model>/<version>/<file>, where <version> is 1, 2, ... and <file> "
    f"one of {', '.join(MODEL_FILES)}; or one model file"
)


def find_models(path: Path) -> list[ModelSource]:
    """List every version of every model at `path`, by name and ascending version.

    `path` is a repository folder or one model file. The file makes a model of its name
    without the ending, version 1, with the settings in model.toml beside it if there are
    any. In a repository every folder with a version, or with anything else of a model's, is
    one; hidden files are skipped silently, others that have no place in the layout, or that
    cannot be read or named, with a warning if there is any model.

    A model without a version, or a version without exactly one model file, is listed
    with its problem, so that the others can be served.

    Raises:
        ConfigError: `path` cannot be read, is no model file, or no folder in it has versions;
            the message names the path that may have been meant.
    """
    try:
        if path.is_dir():
            return _find_in_repository(path)
        if path.exists():
            return [_single_file(path)]
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from error
    raise ConfigError(f"{path}: does not exist; {_LAYOUT}")


def load_model(
    source: ModelSource,
    settings: ModelSettings,
    *,
    backend_override: str | None = None,
    clock: Clock,
) -> LoadedModel:
    """Load a model and make its runners; they are not warmed up. Blocks.

    Args:
        source: from `find_models`.
        settings: from `source.settings_file`.
        backend_override: a backend, or "auto", to use whatever the settings say.
        clock: the time of simulated models.

    Raises:
        ConfigError: the model cannot be served; the message says why.
    """
    if source.problem:
        raise ConfigError(source.problem)
    backend = choose_backend(source.file, backend_override or settings.backend)
    mixing = find_mixing(source.file)
    if mixing and _may_stop_stacking(settings):
        settings = settings.model_copy(update={"batching": False})
    loaded = backend.import_load()(source, settings, clock)
    return _explain(loaded, mixing) if mixing else loaded


def prove_rows(
    loaded: LoadedModel,
    source: ModelSource,
    settings: ModelSettings,
    *,
    backend_override: str | None = None,
    clock: Clock,
) -> LoadedModel:
    """Get a model that stacks requests only where that changes no answer. Blocks.

    Executes rows alone and among others, see `try_rows`. A model whose rows depend on each other
    is loaded again without batching, unless the settings insist on it. One that cannot be tried is
    stacked if the names of its dimensions agree. What was decided, and why, is logged.

    Args:
        loaded: from `load_model`, not warmed up, and not to be used any more.
        source: as given to `load_model`; so are all that follow.
        settings: of the model.
        backend_override: whatever the settings say.
        clock: the time of simulated models.

    Raises:
        ConfigError: see `load_model`.
    """
    spec = loaded.spec
    log = _log.bind(model=spec.name, version=spec.version)
    if not spec.batching:
        if settings.batching is None:
            log.info("requests are not stacked", batching=False, reason=spec.batching_reason)
        return loaded
    if spec.backend == "simulated":
        return loaded
    mixing = spec.batching_reason
    try:
        trial = Trial(False, mixing) if mixing else try_rows(spec, loaded.runners)
    except BaseException:
        for runner in loaded.runners:
            runner.close()
        raise
    if trial.independent:
        reason = "the same row has the same answer alone and among others"
        log.info("requests are stacked", batching=True, reason=reason)
        return _explain(loaded, reason)
    is_agreed = len(rows_names((*spec.inputs, *spec.outputs))) <= 1
    if trial.independent is None and (is_agreed or not _may_stop_stacking(settings)):
        reason = f"rows are taken to be independent, which was not tried: {trial.found}"
        hint = "set `batching = false` if the answer for a row depends on the others"
        log.warning("requests are stacked", batching=True, reason=reason, hint=hint)
        return _explain(loaded, reason)
    reason = f"rows are not known to be independent: {trial.found}"
    if trial.independent is False:
        reason = f"the answer for a row depends on the others: {trial.found}"
    if not _may_stop_stacking(settings):
        hint = "set `batching = false`, and leave out [padding], for right answers"
        log.warning("requests are stacked", batching=True, reason=reason, hint=hint)
        return _explain(loaded, reason)
    hint = "set `batching = true` in model.toml to stack them all the same"
    log.warning("requests are not stacked", batching=False, reason=reason, hint=hint)
    for runner in loaded.runners:
        runner.close()
    alone = settings.model_copy(update={"batching": False})
    loaded = load_model(source, alone, backend_override=backend_override, clock=clock)
    return _explain(loaded, reason)


def _may_stop_stacking(settings: ModelSettings) -> bool:
    """Whether nothing in the settings asks for stacking: neither `batching` nor [padding]."""
    return settings.batching is None and settings.padding is None


def _explain(loaded: LoadedModel, reason: str) -> LoadedModel:
    return replace(loaded, spec=replace(loaded.spec, batching_reason=reason))


def runs_on_device(
    source: ModelSource, settings: ModelSettings, backend_override: str | None = None
) -> bool:
    """Whether a model shares a device with others, so that they are loaded one after the other.

    Raises:
        ConfigError: no backend can load it; the message says why.
    """
    if source.problem:
        raise ConfigError(source.problem)
    return bool(choose_backend(source.file, backend_override or settings.backend).needs)


def _single_file(file: Path) -> ModelSource:
    suffix = model_suffix(file)
    if suffix is None:
        raise ConfigError(f"{file}: is not a model file; {_LAYOUT}")
    name = file.name.removesuffix(suffix)
    if printable(name) != name:
        raise ConfigError(f"{file}: its name, which names the model, is not UTF-8; rename it")
    if not name:
        raise ConfigError(f"{file}: needs a name before '{suffix}', which names the model")
    return ModelSource(name, "1", file, file.parent / SETTINGS_FILE)


def _find_in_repository(repository: Path) -> list[ModelSource]:
    sources = []
    ignored: dict[Path, str] = {}
    for entry in _visible(repository):
        if printable(entry.name) != entry.name:
            ignored[entry] = "its name is not UTF-8, so no client could ask for it; rename it"
            continue
        try:
            if entry.is_dir():
                sources += _find_versions(entry, ignored)
            else:
                dangling = entry.is_symlink() and not entry.exists()
                ignored[entry] = "a link to nothing" if dangling else "a repository holds folders"
        except OSError as error:
            ignored[entry] = f"it cannot be read: {error.strerror}"
    if all(source.version == NO_VERSION for source in sources):
        problem = _describe_misplaced(repository)
        raise ConfigError(f"{repository}: {problem}{' ' if problem[-1] == '?' else '; '}{_LAYOUT}")
    for path, reason in ignored.items():
        _log.warning("path ignored", path=printable(path), reason=reason)
    return sources


def _find_versions(folder: Path, ignored: dict[Path, str]) -> list[ModelSource]:
    """List the versions of the model in `folder`, or the one problem it has.

    What has no place there is added to `ignored`, with the reason; that is `folder` itself if
    nothing in it is a model's.

    Raises:
        OSError: the folder cannot be read.
    """
    versions = []
    strays = {}
    is_model = False
    for entry in _visible(folder):
        if entry.is_dir() and _is_version(entry):
            versions.append(entry)
        elif entry.name == TRITON_SETTINGS_FILE:
            is_model = True
            strays[entry] = (
                f"it is not read; what it says goes into {SETTINGS_FILE} in other words: "
                "see 'Coming from Triton' in docs/models.md"
            )
        elif entry.name == SETTINGS_FILE:
            is_model = True
        else:
            is_model |= entry.name in MODEL_FILES
            strays[entry] = "not a version: 1, 2, ..."
    if not versions and not is_model:
        ignored[folder] = "it holds no version: 1, 2, ..."
        return []
    ignored |= strays
    settings_file = folder / SETTINGS_FILE
    if not versions:
        loose = "".join(f"move {file} to {folder / '1'}; " for file in _model_files(folder))
        problem = f"{folder}: has no version; {loose}{_LAYOUT}"
        return [ModelSource(folder.name, NO_VERSION, folder, settings_file, problem)]
    versions.sort(key=lambda version: int(version.name))
    return [_version_source(folder.name, version, settings_file) for version in versions]


def _version_source(name: str, version: Path, settings_file: Path) -> ModelSource:
    try:
        files = _model_files(version)
    except OSError as error:
        problem = f"{version}: cannot be read: {error.strerror}"
        return ModelSource(name, version.name, version, settings_file, problem)
    if len(files) == 1:
        return ModelSource(name, version.name, files[0], settings_file)
    if files:
        found = " and ".join(file.name for file in files)
        problem = f"{version}: holds {found}; keep one of them"
    else:
        problem = f"{version}: holds no model file; add one of {', '.join(MODEL_FILES)}"
    return ModelSource(name, version.name, version, settings_file, problem)


def _describe_misplaced(folder: Path) -> str:
    """Say what `folder`, which is no repository, seems to be, and what was meant instead."""
    here = folder.resolve()
    if files := _model_files(folder):
        repository = f"{here.parent.parent} or " if _is_version(here) else ""
        return f"is not a repository, but holds a model file; did you mean {repository}{files[0]}?"
    if any(_is_version(each) and _model_files(each) for each in _folders(folder)):
        return f"is the folder of one model; did you mean {here.parent}?"
    if _is_repository(folder / "models"):
        return f"holds no models; did you mean {folder / 'models'}?"
    for each in _folders(folder):
        if files := _model_files(each):
            return f"holds no models; did you mean to put {files[0]} into {each / '1'}?"
    return "holds no models"


def _is_repository(folder: Path) -> bool:
    return folder.is_dir() and any(
        _is_version(version) and _model_files(version)
        for model in _folders(folder)
        for version in _folders(model)
    )


def _is_version(folder: Path) -> bool:
    return _VERSION.fullmatch(folder.name) is not None


def _model_files(folder: Path) -> list[Path]:
    return [folder / file for file in MODEL_FILES if (folder / file).is_file()]


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in sorted(folder.iterdir()) if not entry.name.startswith("."))
