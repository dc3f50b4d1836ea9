from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from helpers.transports import (
    AIO,
    LINKED,
    TestedTransport,
    edge_gate,
    front_end_processes,
    require_edge,
    tested_transport,
)

RUN_ON = {
    "each_transport": ["aio", "edge", "linked"],
    "each_transport_of_module": ["aio", "edge"],
    "each_combination_of_module": ["aio", "aio-2", "edge", "edge-2"],
    "on_edge": ["edge"],
}
"""The fixtures that run a test on transports, and which: their names, `linked` for both ends
of a link in one process, -N for N front-end processes."""

IN_PROCESS = "in_process"
"""Marks tests that look into the process that speaks gRPC: it has to be their own."""


def pytest_configure(config):
    config.addinivalue_line("markers", f"{IN_PROCESS}: needs the server in the test's own process")


def chosen(config) -> str | None:
    """What `--transport` and `--frontends` say, as in `RUN_ON`; None for neither given."""
    transport, count = config.getoption("--transport"), config.getoption("--frontends")
    if transport is None and count is None:
        return None
    return f"{transport or 'aio'}-{count}" if count else transport or "aio"


def pytest_generate_tests(metafunc):
    for fixture, names in RUN_ON.items():
        if fixture in metafunc.fixturenames:
            only = chosen(metafunc.config)
            scope = "module" if fixture.endswith("of_module") else "function"
            metafunc.parametrize(fixture, [only] if only else names, indirect=True, scope=scope)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what a chosen transport makes no difference to, or cannot run."""
    only = chosen(config)
    if only is None:
        return
    left_out = [item for item in items if not runs_on(item, only)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if runs_on(item, only)]


def runs_on(item, name: str) -> bool:
    if item.get_closest_marker(IN_PROCESS) and "-" in name:
        return False
    if "on_edge" in item.fixturenames:
        return name.startswith("edge")
    return bool(RUN_ON.keys() & set(item.fixturenames))


@pytest.fixture(scope="session")
def transports(tmp_path_factory):
    """The transports by name, each made when it is first asked for and used again."""
    with Transports(tmp_path_factory) as made:
        yield made


@pytest.fixture
def each_transport(request, transports):
    """Run the test once on each transport, and once with the models at the end of a link."""
    yield from _on(request.param, transports)


@pytest.fixture(scope="module")
def each_transport_of_module(request, transports):
    """Run all tests of the module, which share a server, once on each transport."""
    yield from _on(request.param, transports)


@pytest.fixture(scope="module")
def each_combination_of_module(request, transports):
    """As `each_transport_of_module`, and with front-end processes, too."""
    yield from _on(request.param, transports)


@pytest.fixture
def on_edge(request, transports):
    """Run the test on the edge transport alone."""
    yield from _on(request.param, transports)


class Transports(ExitStack):
    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._folders = folders
        self._made: dict[str, TestedTransport] = {"aio": AIO, "linked": LINKED}

    def get(self, name: str) -> TestedTransport:
        if name.startswith("edge"):
            require_edge()
        if name not in self._made:
            transport, _, count = name.partition("-")
            folder = self._folders.mktemp(name)
            self._made[name] = self.enter_context(
                front_end_processes(transport, int(count), folder) if count else edge_gate(folder)
            )
        return self._made[name]


def _on(name: str, transports: Transports) -> Iterator[str]:
    token = tested_transport.set(transports.get(name))
    yield name
    tested_transport.reset(token)
