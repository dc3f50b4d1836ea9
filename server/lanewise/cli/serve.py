"""`lanewise serve`: one server, run to its end, on the transport that was asked for."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from lanewise.cli.main import BACKENDS, FILE, FOLDER, PATH, REQUESTS
from lanewise.cores import usable_cores
from lanewise.processes.arguments import ServeArguments
from lanewise.processes.serve import serve
from lanewise.settings import server as settings
from lanewise.settings.server import ServerSettings

_PORT = click.IntRange(0, 65535)


@click.command("serve")
@click.argument("path", type=PATH)
@click.option("--host", default="0.0.0.0", help="Address to listen on.")
@click.option(
    "--grpc-port", type=_PORT, default=settings.DEFAULT_GRPC_PORT, help="0: any free one."
)
@click.option(
    "--metrics-port",
    type=_PORT,
    default=settings.DEFAULT_METRICS_PORT,
    help="HTTP: /metrics, /health/live, /health/ready. 0: any free one.",
)
@click.option(
    "--backend",
    type=BACKENDS,
    help="For every model, whatever its model.toml says.",
)
@click.option(
    "--frontends",
    type=click.IntRange(0, settings.MAX_FRONTENDS),
    help="Processes that speak gRPC, beside one that runs the models. 0: one does it all. "
    "Left out: by the number of cores, 0 for fewer than 4.",
)
@click.option(
    "--transport",
    type=click.Choice(("aio", "edge")),
    default="aio",
    help="aio: gRPC's own library. edge: Envoy with Python inside; wants lanewise[edge].",
)
@click.option("--tls-cert", type=FILE, help="PEM file with the certificate chain, for gRPC.")
@click.option("--tls-key", type=FILE, help="PEM file with its private key.")
@click.option(
    "--max-message-mb",
    type=click.IntRange(1, 2047),
    default=settings.DEFAULT_MAX_MESSAGE_MB,
    help="Largest request, in MiB (2^20 bytes).",
)
@click.option(
    "--max-queue-requests",
    type=REQUESTS,
    default=settings.DEFAULT_MAX_QUEUE_REQUESTS,
    help="Requests that may wait at a time for the same profiles of a model.",
)
@click.option(
    "--shared-memory",
    type=click.Choice(["auto", "on", "off"]),
    default=settings.DEFAULT_SHARED_MEMORY,
    help="Which calls may use shared memory. auto: those over loopback.",
)
@click.option(
    "--drain-grace-s",
    type=click.FloatRange(min=0),
    default=settings.DEFAULT_DRAIN_GRACE_S,
    help="How long waiting requests may still run after SIGTERM.",
)
@click.option(
    "--ready-when",
    default="all",
    metavar="all|any|MODEL,...",
    help="Which models must be ready for the server to be.",
)
@click.option(
    "--costs",
    type=FOLDER,
    help="Folder where what launches cost is kept for the next start, and for `simulate`.",
)
@click.option(
    "--record-traces",
    type=FOLDER,
    help="Folder for a trace of each model: shapes and times of its requests, no data.",
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), default="auto")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info"
)
def command(
    log_format: Any,  # noqa: ANN401 - one of the choices
    log_level: Any,  # noqa: ANN401
    frontends: int | None,
    transport: Any,  # noqa: ANN401
    **options: Any,  # noqa: ANN401 - the fields of ServerSettings
) -> None:
    """Serve the models at PATH: a repository folder, or one model file.

    A repository holds <model>/<version>/model.onnx, and optionally <model>/model.toml.
    """
    # grpcio 1.80 and newer read requests on threads of their own, whose hand-overs cost a
    # fifth of the throughput; read when grpc is imported (see benchmarks/transport).
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    # What goes wrong in its core reaches us as exceptions; its own lines, which are not in
    # our format, would tell it twice.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if frontends is None:
        frontends = settings.default_frontends(transport, usable_cores())
    asked = ServerSettings(frontends=frontends, transport=transport, **options)
    sys.exit(serve(ServeArguments(asked, log_format, log_level)))
