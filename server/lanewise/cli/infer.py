"""`lanewise infer`: one request, whose outputs are printed and saved."""

from __future__ import annotations

import math
import string
import tempfile
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from lanewise.bench.payloads import draw_values
from lanewise.cli.main import PATH, POSITIVE, Address
from lanewise.errors import ConfigError
from lanewise.model.tensors import Array, DType
from lanewise.settings.server import DEFAULT_GRPC_PORT
from lanewise_client import Client

SEED = 0
MAX_MESSAGE_BYTES = 2**31 - 1
"""What gRPC can send."""


@click.command("infer")
@click.argument("model")
@click.option("--url", type=Address(), default=f"localhost:{DEFAULT_GRPC_PORT}", help="HOST:PORT.")
@click.option(
    "--model-version", "version", default="", show_default=False, help="Left out: the highest."
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME=FILE.npy|NAME=SHAPE",
    help="Values from a file, or random ones of a shape such as 1,3,28,28.",
)
@click.option("--profile", help="Name or index of the only profile allowed.")
@click.option("--timeout-s", type=POSITIVE, default=60.0)
@click.option("--output-dir", type=PATH, help="Folder for the outputs as .npy files.")
def command(  # noqa: PLR0917 - click passes options by name
    model: str,
    url: str,
    version: str,
    inputs: Sequence[str],
    profile: str | None,
    timeout_s: float,
    output_dir: Path | None,
) -> None:
    """Send one request to MODEL and show its outputs and the lane that served it."""
    console = Console(soft_wrap=True, markup=False, emoji=False)
    given = _split_inputs(inputs)
    with Client(url, timeout_s=timeout_s) as client:
        metadata = client.model_metadata(model, version)
        datatypes = {tensor.name: tensor.datatype for tensor in metadata.inputs}
        arrays = {name: _read(name, text, datatypes) for name, text in given.items()}
        if output_dir is not None:
            _make_writable(output_dir)
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
        console.print(np.array2string(array, threshold=40, precision=5))
        if output_dir is not None:
            _save(array, output_dir / f"{file_name_of(name)}.npy")


def file_name_of(name: str) -> str:
    """Write a name as part of a file's: percent-encoded where it would lead elsewhere."""
    plain = "".join(char for char in string.punctuation if char not in "%/\\") + " "
    return urllib.parse.quote(name, safe=plain)


def _split_inputs(texts: Sequence[str]) -> dict[str, str]:
    inputs: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"'{text}' is not NAME=FILE.npy or NAME=SHAPE")
        if name in inputs:
            raise click.BadParameter(f"--input {name}=... is given twice; give each input once")
        inputs[name] = value
    return inputs


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
    sizes = [size for size in text.split(",") if size]
    if not all(size.strip().isdecimal() for size in sizes):
        raise ConfigError(
            f"--input {name}={text}: give a file ending in .npy, or a shape such as 1,3,28,28"
        )
    shape = tuple(int(size) for size in sizes)
    dtype = DType(datatypes[name])
    nbytes = math.prod(shape) * dtype.numpy.itemsize
    if nbytes > MAX_MESSAGE_BYTES:
        raise ConfigError(
            f"--input {name}={text}: has {nbytes} bytes, but a message holds at most "
            f"{MAX_MESSAGE_BYTES}; give a smaller shape"
        )
    return draw_values(dtype, shape, np.random.default_rng(SEED))
