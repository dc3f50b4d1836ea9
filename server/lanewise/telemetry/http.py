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

from lanewise.scheduler.registry import ModelRegistry
from lanewise.settings.ports import accept_both_families, bind_error, resolve_address

_log = structlog.get_logger(__name__)

_POLL_S = 0.1
_TEXT = "text/plain; charset=utf-8"
_METHODS = "GET, HEAD"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"  # the one format every scraper takes


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests are taken, and a line of text for each model that says why or why not.

    A reason of several lines is cut after the first; the log has all of it.
    """

    ready: bool
    models: tuple[str, ...]


def readiness_of(registry: ModelRegistry, is_reachable: bool = True) -> Readiness:
    """Tell whether every model is ready, and the state of each. May be called from any thread.

    Args:
        registry: of the models.
        is_reachable: whether clients can come in: if not, nothing is ready.
    """
    lines = tuple(f"{model.title} {model.condition.splitlines()[0]}" for model in registry)
    return Readiness(registry.is_ready and is_reachable, lines)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: HTTPStatus
    content_type: str
    body: bytes
    allow: str = ""
    """The header of that name; left out if empty."""


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
        *,
        listener: socket.socket | None = None,
    ) -> None:
        """Make one that does not answer yet, on `listener` if that is given."""
        self._host = host
        self._port = port
        self._routes: dict[str, Callable[[], _Reply]] = {
            "/metrics": lambda: _Reply(HTTPStatus.OK, _METRICS, metrics()),
            "/health/live": lambda: _live_reply(is_live()),
            "/health/ready": lambda: _ready_reply(is_ready()),
        }
        self._listener = listener
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
            self._server = _Server(self._host, self._port, self._routes, self._listener)
        except (OSError, OverflowError) as error:
            raise bind_error("--metrics-port", self._host, self._port, error) from error
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

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[str, Callable[[], _Reply]],
        listener: socket.socket | None,
    ) -> None:
        family, _, _, _, address = resolve_address(host, port)
        self.address_family = family
        handler: Any = functools.partial(_Handler, routes)
        super().__init__(address, handler, listener is None)
        if listener is not None:
            self.socket.close()
            self.socket = listener
            self.server_address = listener.getsockname()

    def server_bind(self) -> None:
        accept_both_families(self.socket, self.server_address)
        super().server_bind()

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

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the base class refuses: other methods, and what is no HTTP request."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            text = f"method {self.command} is not allowed; there is: {_METHODS}\n"
            reply = _Reply(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, text.encode(), _METHODS)
        else:
            # Otherwise the base class takes what it could not read for HTTP/0.9, and answers
            # without a status line.
            self.request_version = self.protocol_version
            status = HTTPStatus(code)
            reply = _Reply(status, _TEXT, f"{message or status.phrase}\n".encode())
        self._send(reply)

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
        self.log_request(reply.status)
        # Not send_response: it names this library and the version of Python.
        self.send_response_only(reply.status)
        self.send_header("Date", self.date_time_string())
        if reply.allow:
            self.send_header("Allow", reply.allow)
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
    return _Reply(status, _TEXT, "\n".join([*lines, ""]).encode(errors="backslashreplace"))
