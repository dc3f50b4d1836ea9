"""The files beside an ONNX model that hold its weights, read into memory."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from lanewise.backends.onnx_graph import external_files
from lanewise.errors import ConfigError


def read_whole(file: Path) -> bytes:
    """Read a file of a model.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def add_external_data(options: Any, file: Path, model: bytes) -> list[bytes]:  # noqa: ANN401
    """Give a session the files that its model names, so that it opens none of them itself.

    Args:
        options: `onnxruntime.SessionOptions`.
        file: of the model, which is in the folder of the others.
        model: what is in it.

    Returns:
        What must be kept until the session has been made.

    Raises:
        ConfigError: a file cannot be read, or is outside the folder of the model.
    """
    names = external_files(model)
    if not names:
        return []
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(
                f"{file}: its external data are in '{name}', outside its folder; "
                "save the model with its data beside it"
            )
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        raise ConfigError(
            f"{file}: this ONNX Runtime cannot take external data from memory; install a newer "
            "one (1.32 can), or save the model as a single file"
        )
    held = [read_whole(file.parent / name) for name in names]
    lengths = [len(data) for data in held]
    options.add_external_initializers_from_files_in_memory(list(names), held, lengths)
    return held
