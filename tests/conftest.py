from __future__ import annotations


def pytest_addoption(parser):
    group = parser.getgroup("transports", "what carries the calls of a server under test")
    group.addoption("--transport", choices=["aio", "edge"], help="run what depends on it on this")
    group.addoption(
        "--frontends",
        type=int,
        metavar="N",
        help="run what depends on it with so many front-end processes, 0 for none",
    )
