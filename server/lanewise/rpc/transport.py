"""What carries the methods: the boundary between the services and a transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from lanewise.rpc.services import Services


class Transport(Protocol):
    """Takes calls from the network to the methods of `Services`, and answers back.

    Made, started and stopped once, on one event loop.
    """

    def listen(self, host: str, port: int) -> int:
        """Get the port that calls will come in by; 0 for any free one.

        Raises:
            ConfigError: it cannot be had.
        """
        ...

    async def start(self) -> None:
        """Return once calls are taken in."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; give those that are open `grace_s` to end, then end them."""
        ...


TransportFactory: TypeAlias = Callable[[Services], Transport]
