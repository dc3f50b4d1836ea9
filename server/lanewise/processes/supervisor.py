"""The processes of a server with front ends: started, watched, started again, stopped.

The supervisor does nothing else, and imports next to nothing: it must not fail for what
makes the others fail.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lanewise.processes.arguments import ChildArguments, ServeArguments
from lanewise.settings.ports import listening_socket, reserve_port
from lanewise.telemetry.plain_log import PlainLog

CANNOT_SERVE: Final = 78
"""Exit status of a process that would fail again: EX_CONFIG of sysexits.h."""

SHORT_LIFE_S: Final = 10.0
MAX_SHORT_LIVES: Final = 5
"""A process that failed so early, so many times in a row, is not started again."""
FIRST_PAUSE_S: Final = 0.1
"""Before the second start after a short life; it doubles with each."""

STOPPING_S: Final = 10.0
"""How long, beyond the grace period, the processes have to stop before they are killed."""
AT_ONCE_S: Final = 1.0
"""How long the engine has to end after a second stop signal."""

BACKLOG: Final = 128

_NO_FAILURES: Final = (0, -signal.SIGKILL, -signal.SIGTERM)
"""What a process ends with that others have ended: no process does that to itself."""

_WATCHED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True, eq=False)
class _Child:
    """One place in the server, and the process that fills it.

    Attributes:
        due_s: when it is to be started; None while it runs, or if it is not.
    """

    role: str
    command: Callable[[], list[str]]
    fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    due_s: float | None = field(default_factory=time.monotonic)
    started_s: float = 0.0
    short_lives: int = 0


class Supervisor:
    """One server of several processes. Made, run once and gone.

    The sockets whose addresses others know are its own, so that they outlive the processes
    that use them. Whatever becomes of it, its processes do not survive it: see `child`.
    """

    def __init__(self, arguments: ServeArguments) -> None:
        self._arguments = arguments
        self._log = PlainLog(__name__, arguments.log_format)
        settings = arguments.settings
        port = reserve_port("--grpc-port", settings.host, settings.grpc_port)
        http = listening_socket("--metrics-port", settings.host, settings.metrics_port)
        self._engine_listener, address = _private_listener()
        self._http = http
        ports = {"grpc_port": port, "metrics_port": http.getsockname()[1]}
        fds = (self._engine_listener.fileno(), http.fileno())
        child = ChildArguments(arguments.with_settings(**ports), address, os.getpid(), fds)
        self._engine = _Child("engine", lambda: _command("engine", child), fds)
        self._front_ends = [
            _Child(f"front end {i}", lambda: _command("front-end", child))
            for i in range(settings.frontends)
        ]
        self._stop_by_s: float | None = None
        self._status = 0

    def run(self) -> int:
        """Serve until a stop signal comes, or nothing can be served; get the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            while self._stop_by_s is None or any(child.process for child in self._children):
                self._start_due()
                received = signal.sigtimedwait(_WATCHED, self._timeout_s())
                if received is not None and received.si_signo != signal.SIGCHLD:
                    self._on_signal(signal.Signals(received.si_signo))
                self._reap()
                self._kill_late()
        finally:
            self._kill_all()
        return self._status

    @property
    def _children(self) -> list[_Child]:
        return [self._engine, *self._front_ends]

    def _timeout_s(self) -> float:
        """Get how long to wait for a signal before something is due."""
        dues = [child.due_s for child in self._children if child.due_s is not None]
        if self._stop_by_s is not None:
            dues = [self._stop_by_s]
        return max(0.0, min(dues, default=time.monotonic() + 60) - time.monotonic())

    def _start_due(self) -> None:
        now_s = time.monotonic()
        for child in self._children:
            if child.due_s is not None and child.due_s <= now_s and self._stop_by_s is None:
                child.due_s, child.started_s = None, now_s
                child.process = subprocess.Popen(child.command(), pass_fds=child.fds)

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or (status := child.process.poll()) is None:
                continue
            child.process = None
            if self._stop_by_s is not None:
                self._note_stopped(child, status)
            elif status == CANNOT_SERVE:
                self._give_up(1)
            else:
                self._start_again(child, status)

    def _start_again(self, child: _Child, status: int) -> None:
        lived_s = time.monotonic() - child.started_s
        has_failed_early = lived_s < SHORT_LIFE_S and status not in _NO_FAILURES
        child.short_lives = child.short_lives + 1 if has_failed_early else 0
        facts = {"role": child.role, "status": _describe(status), "lived_s": round(lived_s, 1)}
        if child.short_lives >= MAX_SHORT_LIVES:
            self._log.write("error", "process keeps failing; stopping the server", **facts)
            self._give_up(1)
            return
        pause_s = FIRST_PAUSE_S * 2 ** (child.short_lives - 2) if child.short_lives > 1 else 0.0
        child.due_s = time.monotonic() + pause_s
        self._log.write("error", "process exited; restarting it", **facts)

    def _on_signal(self, number: signal.Signals) -> None:
        """Drain at the first signal, end everything at the second."""
        if self._stop_by_s is None:
            self._begin_stop()
            return
        self._status = 128 + number  # what a shell reports of a process killed by it
        self._stop_by_s = min(self._stop_by_s, time.monotonic() + AT_ONCE_S)
        if self._engine.process is not None:
            self._engine.process.terminate()  # it tells what it drops, and closes its traces
        self._kill(self._front_ends)

    def _begin_stop(self) -> None:
        """Have the engine drain: it tells the front ends when to stop."""
        grace_s = self._arguments.settings.drain_grace_s
        self._stop_by_s = time.monotonic() + grace_s + STOPPING_S
        if self._engine.process is not None:
            self._engine.process.terminate()
        else:
            self._terminate_front_ends()

    def _note_stopped(self, child: _Child, status: int) -> None:
        if child is self._engine:
            self._status = self._status or (0 if status == 0 else 1)
            self._terminate_front_ends()

    def _terminate_front_ends(self) -> None:
        for child in self._front_ends:
            if child.process is not None:
                child.process.terminate()

    def _give_up(self, status: int) -> None:
        self._status = status
        self._begin_stop()

    def _kill_late(self) -> None:
        if self._stop_by_s is not None and time.monotonic() >= self._stop_by_s:
            late = [child.role for child in self._children if child.process is not None]
            if late:
                self._log.write("error", "killing processes that do not stop", roles=late)
                self._status = self._status or 1
            self._kill_all()

    def _kill_all(self) -> None:
        self._kill(self._children)

    def _kill(self, children: list[_Child]) -> None:
        for child in children:
            if child.process is not None:
                child.process.kill()
                child.process.wait()
                child.process = None


def _command(role: str, child: ChildArguments) -> list[str]:
    return [sys.executable, "-P", "-m", "lanewise.processes.child", role, child.to_json()]


def _private_listener() -> tuple[socket.socket, str]:
    """Listen on a Unix socket that has no name in the file system, so that none is left behind."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    address = f"\0lanewise-{secrets.token_hex(16)}"
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener, address


def _describe(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
