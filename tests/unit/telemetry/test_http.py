"""The HTTP endpoint over a real socket."""

from __future__ import annotations

import http.client
import socket

import pytest
from structlog.testing import capture_logs

from lanewise.errors import ConfigError
from lanewise.scheduler.registry import ModelRegistry, ModelState, ServedModel
from lanewise.telemetry.http import HttpEndpoint, Readiness, readiness_of


class Server:
    """What the endpoint tells about; a test changes it."""

    live = True
    readiness = Readiness(True, ("digits 1 ready",))

    def metrics(self):
        return b"lanewise_up 1\n"


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def endpoint(server):
    endpoint = HttpEndpoint(
        "127.0.0.1", 0, server.metrics, lambda: server.live, lambda: server.readiness
    )
    endpoint.start()
    yield endpoint
    endpoint.close()


def ask(endpoint, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name=x"])
def test_metrics_are_prometheus_text(endpoint, path):
    status, headers, body = ask(endpoint, path)

    assert (status, body) == (200, b"lanewise_up 1\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("live", "status", "text"), [(True, 200, b"live\n"), (False, 503, b"not live\n")]
)
def test_live_is_asked_each_time(endpoint, server, live, status, text):
    server.live = live

    assert ask(endpoint, "/health/live")[::2] == (status, text)


def test_ready_lists_the_models(endpoint):
    assert ask(endpoint, "/health/ready")[::2] == (200, b"ready\ndigits 1 ready\n")


def test_not_ready_is_503_and_says_which_model_and_why(endpoint, server):
    registry = ModelRegistry()
    registry.add(ServedModel("digits", "1", ModelState.FAILED, "no such file"))
    registry.add(ServedModel("digits", "2", ModelState.LOADING))
    server.readiness = readiness_of(registry)

    assert ask(endpoint, "/health/ready")[::2] == (
        503,
        b"not ready\ndigits 1 failed: no such file\ndigits 2 loading\n",
    )


def test_of_a_reason_of_several_lines_the_first_is_told():
    registry = ModelRegistry()
    registry.add(ServedModel("digits", "", ModelState.FAILED, "2 problems\n  one\n  two"))

    assert readiness_of(registry).models == ("digits - failed: 2 problems",)


def test_a_server_without_models_is_not_ready(endpoint, server):
    server.readiness = readiness_of(ModelRegistry())

    assert ask(endpoint, "/health/ready")[::2] == (503, b"not ready\nno models\n")


def test_readiness_is_the_registrys():
    registry = ModelRegistry()
    registry.add(ServedModel("digits", "1", ModelState.READY))

    assert readiness_of(registry) == Readiness(True, ("digits 1 ready",))


def test_any_other_path_is_404_and_lists_the_paths(endpoint):
    status, _, body = ask(endpoint, "/")

    assert status == 404
    assert body == b"nothing at this path; there is: /metrics, /health/live, /health/ready\n"


@pytest.mark.parametrize("path", ["/metrics", "/health/live", "/health/ready", "/nothing"])
def test_head_is_get_without_the_body(endpoint, path):
    status, headers, body = ask(endpoint, path)
    head_status, head_headers, head_body = ask(endpoint, path, method="HEAD")

    assert (head_status, head_body) == (status, b"")
    assert head_headers["Content-Length"] == headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "NONSENSE"])
def test_other_methods_are_405_and_list_those_there_are(endpoint, method):
    status, headers, body = ask(endpoint, "/metrics", method)

    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert body == f"method {method} is not allowed; there is: GET, HEAD\n".encode()


def test_what_is_no_http_request_gets_an_answer_that_is_one(endpoint):
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\n")  # how a gRPC client begins
        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.0 505 ")
    assert b"text/plain" in answer
    assert b"<" not in answer


@pytest.mark.parametrize("path", ["/metrics", "/nothing"])
def test_an_answer_does_not_tell_what_it_was_made_with(endpoint, path):
    assert "Server" not in ask(endpoint, path)[1]


def test_a_failure_inside_is_500_and_leaves_the_endpoint_running(endpoint, server, monkeypatch):
    monkeypatch.setattr(server, "readiness", None)  # has no attribute `ready`

    with capture_logs() as lines:
        status, _, body = ask(endpoint, "/health/ready")

    assert (status, body) == (500, b"internal error, see the log\n")
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "http request failed"
    ]
    assert ask(endpoint, "/health/live")[0] == 200


def test_answers_are_not_logged_above_debug(endpoint):
    with capture_logs() as lines:
        ask(endpoint, "/metrics")

    assert {line["log_level"] for line in lines} <= {"debug"}


def test_a_taken_port_is_refused_with_the_setting_to_change(endpoint, server):
    second = HttpEndpoint("127.0.0.1", endpoint.port, bytes, bool, lambda: server.readiness)

    with pytest.raises(ConfigError, match=rf"^--metrics-port {endpoint.port}: is in use") as raised:
        second.start()
    assert isinstance(raised.value.__cause__, OSError)
    second.close()


def test_a_closed_endpoint_frees_its_port(server):
    first = HttpEndpoint("127.0.0.1", 0, server.metrics, bool, lambda: server.readiness)
    first.start()
    first.close()
    first.close()

    second = HttpEndpoint("127.0.0.1", first.port, server.metrics, bool, lambda: server.readiness)
    second.start()
    try:
        assert ask(second, "/metrics")[0] == 200
    finally:
        second.close()
