"""The HTTP side door: metrics for Prometheus, liveness and readiness for orchestrators."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

import structlog

from lanewise.errors import ConfigError
from lanewise.scheduler.registry import ModelRegistry

_log = structlog.get_logger(__name__)

_POLL_S = 0.1
_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"  # the one format every scraper takes


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests are taken, and a line of text for each model that says why or why not."""

    ready: bool
    models: tuple[str, ...]


def readiness_of(registry: ModelRegistry) -> Readiness:
    """Tell whether every model is ready, and the state of each. May be called from any thread."""
    lines = tuple(
        f"{model.name} {model.version} {model.state.value}"
        + (f": {model.reason}" if model.reason else "")
        for model in registry
    )
    return Readiness(registry.is_ready, lines)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: HTTPStatus
    content_type: str
    body: bytes


class HttpEndpoint:
    """Serves `/metrics`, `/health/live` and `/health/ready` from threads of its own.

    The callables are called on those threads, several at a time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Callable[[], bytes],
        is_live: Callable[[], bool],
        is_ready: Callable[[], Readiness],
    ) -> None:
        self._host = host
        self._port = port
        self._routes: dict[str, Callable[[], _Reply]] = {
            "/metrics": lambda: _Reply(HTTPStatus.OK, _METRICS, metrics()),
            "/health/live": lambda: _live_reply(is_live()),
            "/health/ready": lambda: _ready_reply(is_ready()),
        }
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on; before `start` the one asked for, which may be 0 for any."""
        return self._port

    def start(self) -> None:
        """Listen and answer from now on.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            self._server = _Server(self._host, self._port, self._routes)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--metrics-port {self._port}: cannot listen on {self._host}: {error}; "
                "free the port or choose another one, 0 for any"
            ) from error
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="http-endpoint", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; blocks for a tenth of a second at most. A second call does nothing."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, routes: Mapping[str, Callable[[], _Reply]]) -> None:
        # A host name may stand for addresses of both families; the first one is taken.
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__(address, functools.partial(_Handler, routes))  # type: ignore[arg-type]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        _log.debug("http connection failed", client=client_address[0], exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds in which a client must have sent its request

    def __init__(
        self,
        routes: Mapping[str, Callable[[], _Reply]],
        *rest: Any,  # noqa: ANN401
    ) -> None:
        self._routes = routes
        super().__init__(*rest)  # answers the request

    def do_GET(self) -> None:
        self._send(self._reply())

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        _log.debug("http", client=self.address_string(), line=format % args)

    def _reply(self) -> _Reply:
        path = self.path.partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            text = f"nothing at this path; there is: {', '.join(self._routes)}\n"
            return _Reply(HTTPStatus.NOT_FOUND, _TEXT, text.encode())
        try:
            return route()
        except Exception:
            _log.exception("http request failed", path=path)
            return _Reply(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"internal error, see the log\n")

    def _send(self, reply: _Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)


def _live_reply(live: bool) -> _Reply:
    if live:
        return _Reply(HTTPStatus.OK, _TEXT, b"live\n")
    return _Reply(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"not live\n")


def _ready_reply(readiness: Readiness) -> _Reply:
    status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
    lines = ["ready" if readiness.ready else "not ready", *(readiness.models or ["no models"])]
    return _Reply(status, _TEXT, "\n".join([*lines, ""]).encode())
