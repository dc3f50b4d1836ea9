from __future__ import annotations

import pytest

from helpers.transports import AIO, edge_gate, require_edge, tested_transport


@pytest.fixture(scope="session")
def edge(tmp_path_factory):
    with edge_gate(tmp_path_factory.mktemp("edge")) as gate:
        yield gate


@pytest.fixture(params=["aio", "edge"])
def each_transport(request):
    """Run the test once on each transport."""
    if request.param == "edge":
        require_edge()
    transport = AIO if request.param == "aio" else request.getfixturevalue("edge")
    token = tested_transport.set(transport)
    yield request.param
    tested_transport.reset(token)


@pytest.fixture
def on_edge(edge):
    """Run the test on the edge transport alone."""
    token = tested_transport.set(edge)
    yield
    tested_transport.reset(token)
