from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.transports import (
    AIO,
    LINKED,
    TestedTransport,
    edge_gate,
    require_edge,
    tested_transport,
)


@pytest.fixture(scope="session")
def edge(tmp_path_factory):
    with edge_gate(tmp_path_factory.mktemp("edge")) as gate:
        yield gate


@pytest.fixture(params=["aio", "edge", "linked"])
def each_transport(request):
    """Run the test once on each transport, and once with the models at the end of a link."""
    yield from _on(request, request.param)


@pytest.fixture(scope="module", params=["aio", "edge"])
def each_transport_of_module(request):
    """Run all tests of the module, which share a server, once on each transport."""
    yield from _on(request, request.param)


@pytest.fixture
def on_edge(request):
    """Run the test on the edge transport alone."""
    yield from _on(request, "edge")


def _on(request: pytest.FixtureRequest, name: str) -> Iterator[str]:
    transport: TestedTransport = LINKED if name == "linked" else AIO
    if name == "edge":
        require_edge()
        transport = request.getfixturevalue("edge")
    token = tested_transport.set(transport)
    yield name
    tested_transport.reset(token)
