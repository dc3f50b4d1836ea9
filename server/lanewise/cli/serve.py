"""`lanewise serve`: one server, run to its end, on the transport that was asked for.

What it imports at first is little: the edge transport only passes by here on its way into
another process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

from lanewise.processes.arguments import Order, order_from_json
from lanewise.settings.server import read_tls_files, reserve_port

if TYPE_CHECKING:
    from lanewise.processes.app import App
    from lanewise.rpc.edge.server import EdgeServer
    from lanewise.rpc.services import Services

_EDGE_MAIN: Final = f"{__name__}:edge_main"


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
