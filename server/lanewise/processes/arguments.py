"""What a process of the server is asked to do, in words that fit on a command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lanewise.settings.server import ServerSettings

_PATHS = ("path", "tls_cert", "tls_key", "costs", "record_traces")


@dataclass(frozen=True, slots=True)
class Order:
    """What `lanewise serve` was asked for, its log included."""

    settings: ServerSettings
    log_format: Literal["auto", "console", "json"]
    log_level: Literal["debug", "info", "warning", "error"]

    def with_settings(self, **changes: Any) -> Order:  # noqa: ANN401
        """Get the same with some settings changed."""
        return replace(self, settings=replace(self.settings, **changes))

    def to_json(self) -> str:
        """Write it; `order_from_json` reads it."""
        return json.dumps(asdict(self), default=str)


@dataclass(frozen=True, slots=True)
class ChildOrder:
    """What a process of a server with front ends is asked to do.

    Attributes:
        order: of the whole server, with the ports it has.
        engine: address of the engine's Unix socket.
        supervisor: process id.
        fds: of the sockets that listen on `engine` and on the metrics port; the engine's alone.
    """

    order: Order
    engine: str
    supervisor: int
    fds: tuple[int, int]

    def to_json(self) -> str:
        """Write it; `child_order_from_json` reads it."""
        return json.dumps(asdict(self), default=str)


def order_from_json(text: str) -> Order:
    """Read an order."""
    return _order(json.loads(text))


def child_order_from_json(text: str) -> ChildOrder:
    """Read the order of a child."""
    given = json.loads(text)
    fds = given["fds"]
    order = _order(given["order"])
    return ChildOrder(order, given["engine"], given["supervisor"], (fds[0], fds[1]))


def _order(given: dict[str, Any]) -> Order:
    settings = given.pop("settings")
    for name in _PATHS:
        if settings[name] is not None:
            settings[name] = Path(settings[name])
    return Order(ServerSettings(**settings), **given)
