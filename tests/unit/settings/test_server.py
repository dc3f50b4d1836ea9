"""Addresses that cannot be listened on are told apart before a server is built."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest

from lanewise.errors import ConfigError
from lanewise.settings.ports import listening_socket, require_free_port
from lanewise.settings.server import default_frontends, read_tls_files


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


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_is_also_every_address_of_ipv6():
    with listening_socket("--metrics-port", "0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=5).close()


PAIR = Path(__file__).parents[2] / "helpers" / "tls"
TEXT = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_files_for_tls_that_belong_together_are_read():
    cert, key = PAIR / "cert.pem", PAIR / "key.pem"

    assert read_tls_files(cert, key) == (cert.read_bytes(), key.read_bytes())


@pytest.mark.parametrize(
    ("cert", "key", "expected"),
    [
        ("key.pem", "key.pem", "--tls-cert {cert}: holds no certificate in PEM"),
        ("text", "key.pem", "--tls-cert {cert}: holds no certificate in PEM"),
        ("bytes", "key.pem", "--tls-cert {cert}: holds no certificate in PEM"),
        ("cert.pem", "cert.pem", "--tls-key {key}: holds no private key in PEM"),
        ("cert.pem", "bytes", "--tls-key {key}: holds no private key in PEM"),
    ],
)
def test_a_file_for_tls_that_is_none_is_named(tmp_path, cert, key, expected):
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    cert, key = (PAIR / n if (PAIR / n).exists() else tmp_path / n for n in (cert, key))

    with pytest.raises(ConfigError, match=re.escape(expected.format(cert=cert, key=key))):
        read_tls_files(cert, key)


def test_a_key_of_another_certificate_is_told(tmp_path):
    other = subprocess.run(
        ("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        capture_output=True,
        check=True,
    )
    (tmp_path / "other.pem").write_bytes(other.stdout)

    with pytest.raises(ConfigError, match="is not the key of --tls-cert"):
        read_tls_files(PAIR / "cert.pem", tmp_path / "other.pem")
