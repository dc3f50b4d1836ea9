"""What carries the methods: the boundary between the services and a transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from lanewise.rpc.services import Services


class Transport(Protocol):
    """Carries calls from the network to the methods of `Services`, and their responses back.

    Made, started and stopped once, on one event loop.
    """

    def listen(self, host: str, port: int) -> int:
        """Bind a port, 0 for any free one; return its number.

        Raises:
            ConfigError: the port cannot be bound.
        """
        ...

    async def start(self) -> None:
        """Return once calls are accepted."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls; cancel those that are still open after `grace_s`."""
        ...


TransportFactory: TypeAlias = Callable[[Services], Transport]
