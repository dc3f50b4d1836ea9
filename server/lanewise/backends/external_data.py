"""The files beside an ONNX model that hold its weights, read into memory."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from lanewise.errors import ConfigError

# A StringStringEntryProto of key "location": its value follows, a length and that many bytes.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]*[\x00-\x7f])")


def read_whole(file: Path) -> bytes:
    """Read a file of a model.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def external_files(model: bytes) -> tuple[str, ...]:
    """List the files that an ONNX model, as it is on disk, names for its external data."""
    found: dict[str, None] = {}
    for match in _LOCATION.finditer(model):
        length = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(match[1]))
        found[model[match.end() : match.end() + length].decode(errors="surrogateescape")] = None
    return tuple(found)


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
