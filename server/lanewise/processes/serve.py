"""A server, run to its end in the process or processes it was asked for.

It imports little at first: the edge transport only passes by here on its way into another process.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from lanewise.processes.arguments import ServeArguments
from lanewise.settings.ports import reserve_port
from lanewise.settings.server import read_tls_files

if TYPE_CHECKING:
    from lanewise.processes.app import App


def serve(arguments: ServeArguments) -> int:
    """Serve until a stop signal comes, then drain; get the exit status.

    On the edge transport this process becomes another, whose exit status it is.

    Raises:
        ConfigError: the edge transport, or a port, is not available, or a file for TLS cannot be
            used.
    """
    settings = arguments.settings
    # A terminal that is closed, or an operator who expects a reload, stops no server. Every
    # process that this one starts or becomes ignores it, too.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    read_tls_files(settings.tls_cert, settings.tls_key)
    if settings.transport == "edge":
        from lanewise.rpc.edge.process import require_edge  # noqa: PLC0415

        require_edge()
    if settings.frontends:
        from lanewise.processes.supervisor import Supervisor  # noqa: PLC0415

        return Supervisor(arguments).run()
    if settings.transport == "edge":
        from lanewise.processes.edge import become_edge  # noqa: PLC0415

        port = reserve_port("--grpc-port", settings.host, settings.grpc_port)
        become_edge(arguments.with_settings(grpc_port=port))
    return _serve_here(arguments)


def _serve_here(arguments: ServeArguments) -> int:
    from lanewise.processes.app import App  # noqa: PLC0415
    from lanewise.processes.event_loop import run as run_on_loop  # noqa: PLC0415
    from lanewise.processes.signals import leave_at_once  # noqa: PLC0415
    from lanewise.rpc.transport import rpc_front  # noqa: PLC0415
    from lanewise.telemetry.logs import configure_logging  # noqa: PLC0415

    configure_logging(format=arguments.log_format, level=arguments.log_level)

    async def run() -> int:
        app = App(arguments.settings, front=rpc_front(arguments.settings))
        status = await status_of(app)
        if app.must_leave_at_once:
            leave_at_once(status)
        return status

    return run_on_loop(run())


async def status_of(app: App) -> int:
    """Run a server to its end; print what stopped it, unless it was asked to."""
    from lanewise.errors import ConfigError, RunnerLost  # noqa: PLC0415

    try:
        await app.run()
    except (ConfigError, RunnerLost) as error:
        print(f"lanewise: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 1
    return 0
