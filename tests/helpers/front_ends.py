"""A server of several processes, seen from outside: who they are, and what is left of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.serving import ServerProcess, server_process

ENGINE, FRONT_END = "engine", "front-end"


@contextmanager
def front_ends(path: Path, count: int, *arguments: str) -> Iterator[ServerProcess]:
    """Run `lanewise serve --frontends COUNT`, and wait until it is ready."""
    with server_process(
        path, "--frontends", str(count), *arguments, until="front end listening"
    ) as server:
        for _ in range(count - 1):
            server.read_until("front end listening")
        if not any(entry["event"] == "serving" for entry in server.log):
            server.read_until("serving")
        yield server


def children(supervisor: int) -> dict[int, str]:
    """The processes of a server by id, and the role of each; not those that have ended."""
    found = {}
    for task in Path(f"/proc/{supervisor}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if (role := _role(pid)) is not None:
                found[pid] = role
    return found


def _role(pid: int) -> str | None:
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return None
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if b"lanewise.processes.child" in words:
        return words[words.index(b"lanewise.processes.child") + 1].decode()
    return FRONT_END if words[0].endswith(b"envoy") else ""


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    return _role(pid) is not None


def wait_for(condition, within_s: float = 20.0) -> float:
    """Wait for what other processes will bring about; get how long it took."""
    began = time.monotonic()
    while not condition():
        took = time.monotonic() - began
        assert took < within_s, f"not within {within_s} s"
        time.sleep(0.005)
    return time.monotonic() - began


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def pss_bytes(pid: int) -> int:
    """Memory of a process, and its share of what it has in common with others."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no Pss")


LISTENS, CONNECTED = "0A", "01"  # linux/net/tcp_states.h


def listens(pid: int, port: int) -> bool:
    """Whether a process takes connections on a port of this machine."""
    return _has_any(pid, _sockets(port, LISTENS))


def has_connections(pid: int, port: int) -> bool:
    """Whether a process has taken connections to a port of this machine."""
    return _has_any(pid, _sockets(port, CONNECTED))


def _has_any(pid: int, sockets: set[str]) -> bool:
    try:
        return any(str(file.readlink()) in sockets for file in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # closed, or ended, meanwhile
        return False


def _sockets(port: int, state: str) -> set[str]:
    lines = [  # gRPC listens on IPv4 through sockets of IPv6
        line
        for family in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]
    ]
    found = set()
    for line in lines:
        fields = line.split()
        if fields[3] == state and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(f"socket:[{fields[9]}]")
    return found
