"""The `lanewise` command: parses, calls, prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from lanewise import __version__, config

BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "simulated")
PORT = click.IntRange(0, 65535)
WIDTH_OF_PIPES = 240
"""Columns of a table that goes to a file or a pipe."""


@click.group(context_settings={"auto_envvar_prefix": "LANEWISE", "show_default": True})
@click.version_option(__version__, prog_name="lanewise")
def cli() -> None:
    """Serve TensorRT and ONNX models over gRPC, one lane per optimization profile.

    Every option can also be set in the environment: LANEWISE_SERVE_GRPC_PORT=9001.
    """


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="0.0.0.0", help="Address to listen on.")
@click.option("--grpc-port", type=PORT, default=config.DEFAULT_GRPC_PORT, help="0: any free one.")
@click.option(
    "--metrics-port",
    type=PORT,
    default=config.DEFAULT_METRICS_PORT,
    help="HTTP: /metrics, /health/live, /health/ready. 0: any free one.",
)
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="For every model, whatever its model.toml says.",
)
@click.option(
    "--max-message-mb",
    type=click.IntRange(1, 2047),
    default=config.DEFAULT_MAX_MESSAGE_MB,
    help="Largest request, in MiB.",
)
@click.option(
    "--max-queue-requests",
    type=click.IntRange(min=1),
    default=config.DEFAULT_MAX_QUEUE_REQUESTS,
    help="Requests that may wait at a time, per version of a model.",
)
@click.option(
    "--drain-grace-s",
    type=click.FloatRange(min=0),
    default=config.DEFAULT_DRAIN_GRACE_S,
    help="How long waiting requests may still run after SIGTERM.",
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), default="auto")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info"
)
def serve(log_format: str, log_level: str, **settings: object) -> None:
    """Serve the models at PATH: a repository folder, or one model file.

    A repository holds <model>/<version>/model.onnx, and optionally <model>/model.toml.
    """
    # grpcio 1.80 and newer read requests on threads of their own, whose hand-overs cost a
    # fifth of the throughput; read when grpc is imported (see benchmarks/transport).
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    import asyncio

    from lanewise.app import App
    from lanewise.logs import configure_logging

    configure_logging(format=log_format, level=log_level)  # type: ignore[arg-type]

    async def run() -> None:
        await App(config.ServerSettings(**settings)).run()  # type: ignore[arg-type]

    asyncio.run(run())


@cli.command()
@click.argument("target", metavar="PATH|HOST:PORT")
@click.option("--backend", type=click.Choice(BACKENDS), help="Only with PATH.")
def inspect(target: str, backend: str | None) -> None:
    """Show tensors, profiles and lanes of the models at PATH, or of a running server.

    Exits with 1 if a model cannot be served.
    """
    from rich.console import Console

    from lanewise.inspection import inspect_path, inspect_server

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    if Path(target).exists() or not _is_address(target):
        sound = inspect_path(Path(target), backend, console)
    else:
        sound = inspect_server(target, console)
    sys.exit(0 if sound else 1)


@cli.command()
@click.argument("model")
@click.option("--url", default=f"localhost:{config.DEFAULT_GRPC_PORT}", help="HOST:PORT.")
@click.option("--model-version", default="", help="Default: the highest.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME=FILE.npy|NAME=SHAPE",
    help="Values from a file, or random ones of a shape such as 1,3,28,28.",
)
@click.option("--profile", help="Name or index of the only profile allowed.")
@click.option("--timeout-s", type=click.FloatRange(min=0, min_open=True), default=60.0)
@click.option(
    "--output-dir", type=click.Path(path_type=Path), help="Folder for the outputs as .npy files."
)
def infer(  # noqa: PLR0917 - click passes options by name
    model: str,
    url: str,
    model_version: str,
    inputs: Sequence[str],
    profile: str | None,
    timeout_s: float,
    output_dir: Path | None,
) -> None:
    """Send one request to MODEL and show its outputs and the lane that served it."""
    from rich.console import Console

    from lanewise import one_request

    one_request.infer(
        url,
        model,
        version=model_version,
        inputs=dict(_split_input(text) for text in inputs),
        profile=profile,
        timeout_s=timeout_s,
        save_to=output_dir,
        console=Console(soft_wrap=True),
    )


def _split_input(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.BadParameter(f"'{text}' is not NAME=FILE.npy or NAME=SHAPE")
    return name, value


def _is_address(target: str) -> bool:
    host, _, port = target.rpartition(":")
    return bool(host) and port.isdigit() and "/" not in host


def main() -> None:
    """Run the command; problems with what was asked for are one message and exit status 1."""
    from lanewise.errors import ConfigError
    from lanewise_client import ServingError

    try:
        cli()
    except (ConfigError, ServingError) as error:
        click.echo(f"lanewise: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
