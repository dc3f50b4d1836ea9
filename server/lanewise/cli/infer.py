"""Sends one request from the command line and prints what came back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from lanewise.errors import ConfigError
from lanewise.model.tensors import Array, DType
from lanewise_client import Client

SEED = 0


def infer(
    address: str,
    model: str,
    *,
    version: str,
    inputs: Mapping[str, str],
    profile: str | None,
    timeout_s: float,
    save_to: Path | None,
    console: Console,
) -> None:
    """Run `model` once and print its outputs, the lane that served it and the latency.

    Args:
        address: HOST:PORT of the server.
        model: its name.
        version: empty for the highest.
        inputs: by name, a file of numpy's `.npy` format, or a shape as "1,3,28,28", which
            is filled with random values of the input's datatype from a fixed seed.
        profile: name or index of the only profile allowed; None for any.
        timeout_s: seconds that each call to the server may take.
        save_to: folder that gets one `.npy` file per output; made if missing.
        console: is printed to.

    Raises:
        ConfigError: an input cannot be read or made, or `save_to` not be written; nothing
            was sent.
        lanewise_client.ServingError: the server gave no outputs; it says why.
    """
    with Client(address, timeout_s=timeout_s) as client:
        metadata = client.model_metadata(model, version)
        datatypes = {tensor.name: tensor.datatype for tensor in metadata.inputs}
        arrays = {name: _read(name, text, datatypes) for name, text in inputs.items()}
        if save_to is not None:
            _make_writable(save_to)
        started_ns = time.perf_counter_ns()
        result = client.infer(model, arrays, version=version, profile=profile)
        latency_ms = (time.perf_counter_ns() - started_ns) / 1e6
    console.print(
        f"{result.model} version {result.model_version}: profile {result.profile}, "
        f"{result.padded_rows} rows executed in {result.launches} launch"
        f"{'' if result.launches == 1 else 'es'}, {latency_ms:.2f} ms",
        highlight=False,
    )
    for name, array in result.items():
        console.print(f"{name} {array.dtype} {list(array.shape)}", style="bold", highlight=False)
        console.print(np.array2string(array, threshold=40, precision=5), markup=False)
        if save_to is not None:
            _save(array, save_to / f"{name}.npy")


def _make_writable(folder: Path) -> None:
    """Make `folder` if it is missing, and try whether files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--output-dir {folder}: cannot be written: {error.strerror}; nothing was sent"
        ) from error


def _save(array: Array, file: Path) -> None:
    try:
        np.save(file, array)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def _read(name: str, text: str, datatypes: Mapping[str, str]) -> Array:
    if name not in datatypes:
        known = ", ".join(f"'{known}'" for known in datatypes)
        raise ConfigError(f"--input {name}={text}: the model has no such input; it has: {known}")
    if text.endswith(".npy"):
        try:
            array: Array = np.load(text)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--input {name}={text}: cannot be read: {error}") from error
        return array
    try:
        shape = tuple(int(size) for size in text.split(",") if size)
        values = np.random.default_rng(SEED).random(shape)
    except ValueError as error:
        raise ConfigError(
            f"--input {name}={text}: give a file ending in .npy, or a shape such as 1,3,28,28"
        ) from error
    dtype = DType(datatypes[name])
    if dtype is DType.BYTES:
        return np.array([b"%d" % int(v * 100) for v in values.flat], dtype=object).reshape(shape)
    integral = dtype.numpy.kind in "iub"
    return (values * 2 if integral else values).astype(dtype.numpy)
