"""The ports an operator chose: checked, reserved, listened on; errors name the option."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from lanewise.errors import ConfigError


def require_free_port(option: str, host: str, port: int) -> None:
    """Check that `host`:`port` can be listened on; it is free again afterwards.

    Args:
        option: what set the port, for messages.
        host: an address of this machine, or a name of one.
        port: 0 for any.

    Raises:
        ConfigError: it cannot; the message tells a taken port from a wrong address.
    """
    # As the servers do: connections that linger from an earlier run do not matter.
    _bind(option, host, port, socket.SO_REUSEADDR).close()


def reserve_port(option: str, host: str, port: int) -> int:
    """Get a port that only processes of this one's making can listen on, all of them at once.

    It is held until this process, or what it becomes, has ended: a socket that is bound and
    does not listen takes no connections.

    Args:
        option: what set the port, for messages.
        host: an address of this machine, or a name of one.
        port: 0 for any.

    Raises:
        ConfigError: the port cannot be bound.
    """
    require_free_port(option, host, port)
    held = _bind(option, host, port, socket.SO_REUSEPORT)
    reserved: int = held.getsockname()[1]
    held.set_inheritable(True)
    held.detach()  # nobody closes it
    return reserved


def listening_socket(option: str, host: str, port: int) -> socket.socket:
    """Get a socket that listens, and that a process started by this one may take over.

    Args:
        option: what set the port, for messages.
        host: an address of this machine, or a name of one.
        port: 0 for any.

    Raises:
        ConfigError: the port cannot be bound.
    """
    listener = _bind(option, host, port, socket.SO_REUSEADDR)
    try:
        listener.listen()
    except OSError as error:  # taken at this moment
        listener.close()
        raise bind_error(option, host, port, error) from error
    return listener


def _bind(option: str, host: str, port: int, reuse: int) -> socket.socket:
    """Get a bound socket; `reuse` is the option of it that is set. See `require_free_port`."""
    try:
        family, _, _, _, address = resolve_address(host, port)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, reuse, 1)
            accept_both_families(bound, address)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        raise bind_error(option, host, port, error) from error
    return bound


def resolve_address(host: str, port: int) -> tuple[Any, ...]:
    """Get what to listen on: family, type, protocol, "", address.

    A host name may stand for addresses of both families; the first one is taken. 0.0.0.0 is
    every address of this machine, those of IPv6 among them where it has that, as in gRPC.

    Raises:
        OSError: it is none of this machine.
    """
    if host == "0.0.0.0" and socket.has_dualstack_ipv6():
        host = "::"
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def accept_both_families(bound: socket.socket, address: tuple[Any, ...]) -> None:
    """Let a socket that is about to be bound to every address of IPv6 take IPv4, too."""
    if address[0] == "::":
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)


def bind_error(option: str, host: str, port: int, error: Exception) -> ConfigError:
    """Make the error that tells why `host`:`port`, set by `option`, cannot be listened on."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"--host {host}: is not an address of this machine; "
            "give one of its own, or 0.0.0.0 for all of them"
        )
    if number == errno.EADDRINUSE:
        return ConfigError(
            f"{option} {port}: is in use on {host} by another program; "
            "stop that one or choose another port, 0 for any"
        )
    why = os.strerror(number) if number is not None else str(error)
    return ConfigError(f"{option} {port}: cannot listen on {host}: {why}; choose another port")
