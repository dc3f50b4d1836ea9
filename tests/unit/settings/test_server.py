"""Addresses that cannot be listened on are told apart before a server is built."""

from __future__ import annotations

import socket

import pytest

from lanewise.errors import ConfigError
from lanewise.settings.ports import require_free_port
from lanewise.settings.server import default_frontends


def test_a_free_port_is_left_free():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]

    require_free_port("--grpc-port", "127.0.0.1", port)
    require_free_port("--grpc-port", "127.0.0.1", port)
    require_free_port("--grpc-port", "localhost", 0)


def test_a_taken_port_is_refused_with_its_option():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^--grpc-port {port}: is in use on 127\.0\.0\.1 "):
            require_free_port("--grpc-port", "127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_an_address_of_another_machine_is_refused_with_the_host(host):
    with pytest.raises(ConfigError, match=rf"^--host {host}: is not an address of this machine; "):
        require_free_port("--grpc-port", host, 0)


@pytest.mark.parametrize(
    ("transport", "cores", "processes"),
    [("aio", 1, 0), ("aio", 3, 0), ("aio", 4, 2), ("aio", 64, 8), ("edge", 4, 1), ("edge", 64, 4)],
)
def test_the_number_of_front_ends_follows_the_cores(transport, cores, processes):
    assert default_frontends(transport, cores) == processes
