"""`lanewise serve`: one server, run to its end, on the transport that was asked for.

What it imports at first is little: the edge transport only passes by here on its way into
another process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from lanewise.cli.main import BACKENDS, FILE, FOLDER, PATH, REQUESTS
from lanewise.processes.arguments import Order, order_from_json
from lanewise.settings import server as settings
from lanewise.settings.server import ServerSettings, read_tls_files, reserve_port

if TYPE_CHECKING:
    from lanewise.processes.app import App
    from lanewise.rpc.edge.server import EdgeServer
    from lanewise.rpc.services import Services

_EDGE_MAIN: Final = f"{__name__}:edge_main"
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
    type=click.IntRange(0, settings.MOST_FRONTENDS),
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
        frontends = settings.default_frontends(transport, len(os.sched_getaffinity(0)))
    asked = ServerSettings(frontends=frontends, transport=transport, **options)
    sys.exit(serve(Order(asked, log_format, log_level)))


def serve(order: Order) -> int:
    """Serve until a stop signal comes, then drain; get the exit status.

    On the edge transport this process becomes another, whose exit status it is.

    Raises:
        ConfigError: the edge transport cannot be had as asked for.
    """
    if order.settings.transport == "edge":
        from lanewise.rpc.edge.process import require_edge  # noqa: PLC0415

        require_edge()
        read_tls_files(order.settings.tls_cert, order.settings.tls_key)
    if order.settings.frontends:
        return _supervise(order)
    if order.settings.transport == "edge":
        _become_edge(order)
    from lanewise.processes.app import App  # noqa: PLC0415
    from lanewise.processes.event_loop import run as run_on_loop  # noqa: PLC0415
    from lanewise.processes.signals import leave_at_once  # noqa: PLC0415
    from lanewise.rpc.front import rpc_front  # noqa: PLC0415
    from lanewise.telemetry.logs import configure_logging  # noqa: PLC0415

    configure_logging(format=order.log_format, level=order.log_level)

    async def run() -> int:
        app = App(order.settings, front=rpc_front(order.settings))
        status = await _status_of(app)
        if app.must_leave_at_once:
            leave_at_once(status)
        return status

    return run_on_loop(run())


async def edge_main(argument: str, transport: Callable[[Services], EdgeServer]) -> int:
    """Serve inside Envoy: see `lanewise.processes.edge`."""
    from lanewise.processes.app import App  # noqa: PLC0415
    from lanewise.processes.signals import watch_on_own_thread  # noqa: PLC0415
    from lanewise.rpc.front import rpc_front  # noqa: PLC0415
    from lanewise.telemetry.logs import configure_logging  # noqa: PLC0415

    order = order_from_json(argument)
    configure_logging(format=order.log_format, level=order.log_level)
    front = rpc_front(order.settings, transport)
    app = App(order.settings, front=front, watch_signals=watch_on_own_thread)
    return await _status_of(app)


async def _status_of(app: App) -> int:
    """Run a server to its end; tell what stopped it, if it was not asked to."""
    from lanewise.errors import ConfigError, RunnerLost  # noqa: PLC0415

    try:
        await app.run()
    except (ConfigError, RunnerLost) as error:
        print(f"lanewise: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 1
    return 0


def _supervise(order: Order) -> int:
    from lanewise.processes.supervisor import Supervisor  # noqa: PLC0415

    return Supervisor(order).run()


def _become_edge(order: Order) -> NoReturn:
    from lanewise.processes.signals import block_stop_signals  # noqa: PLC0415
    from lanewise.rpc.edge.process import become_edge_process  # noqa: PLC0415

    given = order.settings
    port = reserve_port("--grpc-port", given.host, given.grpc_port)
    order = order.with_settings(grpc_port=port)
    block_stop_signals()
    become_edge_process(
        _EDGE_MAIN,
        order.to_json(),
        host=given.host,
        port=port,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
    )
