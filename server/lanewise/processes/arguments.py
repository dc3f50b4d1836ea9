"""What a process of the server is asked to do, as JSON on its command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lanewise.settings.server import ServerSettings

_PATHS = ("path", "tls_cert", "tls_key", "costs", "record_traces")


@dataclass(frozen=True, slots=True)
class ServeArguments:
    """What `lanewise serve` was asked for, its log included."""

    settings: ServerSettings
    log_format: Literal["auto", "console", "json"]
    log_level: Literal["debug", "info", "warning", "error"]

    def with_settings(self, **changes: Any) -> ServeArguments:  # noqa: ANN401
        return replace(self, settings=replace(self.settings, **changes))

    def to_json(self) -> str:
        """Write it; `from_json` reads it."""
        return json.dumps(asdict(self), default=str)


@dataclass(frozen=True, slots=True)
class ChildArguments:
    """What a process of a server with front ends is asked to do.

    Attributes:
        serve: the arguments of the whole server, with the ports it has.
        engine: address of the engine's Unix socket.
        supervisor: process id.
        fds: of the sockets that listen on `engine` and on the metrics port; the engine's alone.
    """

    serve: ServeArguments
    engine: str
    supervisor: int
    fds: tuple[int, int]

    def to_json(self) -> str:
        """Write it; `from_json` reads it."""
        return json.dumps(asdict(self), default=str)


def from_json(text: str) -> ServeArguments | ChildArguments:
    """Read what a process is asked to do."""
    given = json.loads(text)
    if "serve" not in given:
        return _serve_arguments(given)
    first, second = given["fds"]
    serve = _serve_arguments(given["serve"])
    return ChildArguments(serve, given["engine"], given["supervisor"], (first, second))


def _serve_arguments(given: dict[str, Any]) -> ServeArguments:
    settings = given.pop("settings")
    for name in _PATHS:
        if settings[name] is not None:
            settings[name] = Path(settings[name])
    return ServeArguments(ServerSettings(**settings), **given)
