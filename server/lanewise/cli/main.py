"""The `lanewise` command: the group of its commands, its errors, and types of their options."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, get_args

import click

from lanewise import __version__
from lanewise.settings.server import DEFAULT_GRPC_PORT, BackendName

BACKENDS = click.Choice(get_args(BackendName))
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(min=0, min_open=True)
REQUESTS = click.IntRange(min=1)


class Address(click.ParamType):  # type: ignore[type-arg]
    """Takes HOST:PORT, the address of a server's gRPC port."""

    name = "text"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Path:
        """Check the address; one that is none is refused with what may have been meant."""
        if is_address(value):
            return value
        scheme, sign, rest = value.partition("://")
        place = (rest if sign else scheme).rstrip("/")
        suggested = place if is_address(place) else f"{place}:{DEFAULT_GRPC_PORT}"
        self.fail(
            f"'{value}' is not HOST:PORT, the address of a server's gRPC port; "
            f"did you mean {suggested}?",
            param,
            ctx,
        )


def is_address(target: str) -> bool:
    """Whether `target` looks like HOST:PORT, and not like a path or a URL."""
    host, _, port = target.rpartition(":")
    return bool(host) and port.isdigit() and "/" not in host


class LazyCommand(click.Command):
    """Stands for `command` of the module of its name, which is imported when it is called.

    So the command starts quickly, and grpc, which most modules import, sees what `serve` sets
    for it first. `help` is the first sentence of the real command's.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - whatever click hands on
    ) -> click.Context:
        command: click.Command = importlib.import_module(f"lanewise.cli.{self.name}").command
        return command.make_context(info_name, args, parent, **extra)


@click.group(context_settings={"auto_envvar_prefix": "LANEWISE", "show_default": True})
@click.version_option(__version__, prog_name="lanewise")
def cli() -> None:
    """Serve TensorRT and ONNX models over gRPC, one lane per optimization profile.

    Every option can also be set in the environment: LANEWISE_SERVE_GRPC_PORT=9001.
    """


for _name, _help in {
    "bench": "Load the KServe v2 server at HOST:PORT and tell throughput and latencies.",
    "build": "Build the TensorRT plan of MODEL, an ONNX file.",
    "infer": "Send one request to MODEL and show its outputs and the lane that served it.",
    "inspect": "Show tensors, profiles and lanes of the models at PATH, or of a running server.",
    "serve": "Serve the models at PATH: a repository folder, or one model file.",
    "simulate": "Tell what the scheduler would make of some traffic, without a device.",
}.items():
    cli.add_command(LazyCommand(_name, help=_help))


def main() -> None:
    """Run the command; problems with what was asked for are one message and exit status 1."""
    try:
        cli()
    except Exception as error:
        # Not before: grpc, which comes with the client, must see what `serve` sets for it.
        from lanewise.errors import ConfigError, RunnerLost  # noqa: PLC0415
        from lanewise_client import ServingError  # noqa: PLC0415

        if not isinstance(error, ConfigError | RunnerLost | ServingError):
            raise
        click.echo(f"lanewise: {error}", err=True)
        sys.exit(1)
