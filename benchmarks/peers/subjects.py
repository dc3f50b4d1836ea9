"""Who is measured: one line each. Add a line to have another variant measured beside them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SERVERS = Path(__file__).parent / "servers"
REPOSITORY = Path(__file__).parents[2]
ORT = "onnxruntime==1.22.1"
"""The same for all, so that all run the model equally fast."""


class Transport(enum.Enum):
    """What carries the calls of our own server."""

    GRPC_AIO = enum.auto()
    EDGE = enum.auto()


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment of its own.

    Attributes:
        python: interpreters that will do, best first.
        packages: with their versions, as pip takes them.
        constraints: a file of versions for what they need.
    """

    name: str
    packages: tuple[str, ...]
    python: tuple[str, ...] = ("3.11", "3.12", "3.13")
    constraints: Path | None = None


class Place(NamedTuple):
    """Where a server finds what it needs, and where it listens."""

    python: Path
    model: Path
    repository: Path
    folder: Path
    ports: tuple[int, int, int]


Command = Callable[[Place], Sequence[str | Path]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A server to be measured.

    Attributes:
        transport: for ours, which are held to the goals; None for others.
        floor: the subject its goals are relative to: the echo on the same grpcio, or for the
            edge transport the same server on grpc.aio.
        frontends: processes that take requests.
        environ: variables of its environment.
    """

    name: str
    environment: Environment
    command: Command
    transport: Transport | None = None
    floor: str = ""
    frontends: int = 1
    environ: dict[str, str] = field(default_factory=dict)


def _lanewise(*options: str) -> Command:
    def command(place: Place) -> Sequence[str | Path]:
        grpc_port, http_port, _ = place.ports
        ports = ("--grpc-port", str(grpc_port), "--metrics-port", str(http_port))
        serve = (place.python, "-m", "lanewise", "serve", place.repository)
        return (*serve, "--host", "127.0.0.1", "--log-level", "warning", *ports, *options)

    return command


def _script(name: str, *, with_model: bool = True) -> Command:
    def command(place: Place) -> Sequence[str | Path]:
        model = (place.model,) if with_model else ()
        return (place.python, SERVERS / name, *model, *map(str, place.ports))

    return command


def _mlserver(place: Place) -> Sequence[str | Path]:
    return (place.python.parent / "mlserver", "start", place.folder)


_LANEWISE = Environment(
    "lanewise",
    (f"{REPOSITORY}[cpu,edge]", ORT),
    constraints=REPOSITORY / "constraints.txt",
)
_NEWEST_GRPC = Environment(
    "lanewise-grpcio-1.85",
    (f"{REPOSITORY}[cpu]", ORT, *(f"grpcio{part}==1.85.1" for part in ("", "-health-checking"))),
)
_PYTRITON = Environment(
    "pytriton",
    ("nvidia-pytriton==0.7.0", ORT),
    # Its interpreter stub for 3.11 does not start on 3.11.6 and newer.
    python=("3.12", "3.10", "3.11.2"),
)
_KSERVE = Environment("kserve", ("kserve==0.21.0", ORT))
_MLSERVER = Environment("mlserver", ("mlserver==1.7.1", "uvloop<0.22", ORT))

ECHO, ECHO_NEWEST = "echo", "echo, grpcio 1.85"
LANEWISE, LANEWISE_NEWEST = "Lanewise", "Lanewise, grpcio 1.85"
LANEWISE_FRONTENDS, LANEWISE_EDGE = "Lanewise, 1 front end", "Lanewise, edge"
PYTRITON, KSERVE, MLSERVER = "PyTriton", "KServe", "MLServer"

_ECHO = _script("echo_server.py", with_model=False)

SUBJECTS = (
    Subject(ECHO, _LANEWISE, _ECHO),
    Subject(LANEWISE, _LANEWISE, _lanewise(), Transport.GRPC_AIO, floor=ECHO),
    Subject(
        LANEWISE_FRONTENDS, _LANEWISE, _lanewise("--frontends", "1"), Transport.GRPC_AIO, floor=ECHO
    ),
    Subject(
        LANEWISE_EDGE,
        _LANEWISE,
        _lanewise("--transport", "edge"),
        Transport.EDGE,
        floor=LANEWISE_NEWEST,
    ),
    Subject(ECHO_NEWEST, _NEWEST_GRPC, _ECHO),
    Subject(LANEWISE_NEWEST, _NEWEST_GRPC, _lanewise(), Transport.GRPC_AIO, floor=ECHO_NEWEST),
    Subject(PYTRITON, _PYTRITON, _script("pytriton_server.py")),
    Subject(KSERVE, _KSERVE, _script("kserve_server.py")),
    Subject(MLSERVER, _MLSERVER, _mlserver),
)
