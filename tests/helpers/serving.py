"""A real server around real models, in this event loop or as a process of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.processes import FrontEndProcesses, LentFrontEnds
from helpers.transports import tested_transport
from lanewise.clock import NS_PER_MS
from lanewise.ipc.server import Server
from lanewise.processes.app import App
from lanewise.processes.front_end import run_front_end
from lanewise.rpc.aio import AioServer
from lanewise.rpc.transport import rpc_front
from lanewise.scheduler.costs.estimate import KEPT_SAMPLES
from lanewise.scheduler.costs.file import load_costs, save_costs
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.registry import ModelState
from lanewise.settings.server import ServerSettings
from lanewise_client import AsyncClient, Client

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "examples" / "digits" / "models"
SIMULATED = REPOSITORY / "examples" / "simulated" / "models"


@asynccontextmanager
async def running_app(path: Path, **settings: object) -> AsyncIterator[App]:
    """Run a server on free ports of this machine; drained at the end."""
    quick = {"drain_grace_s": 5.0} | settings
    given = ServerSettings(path, host="127.0.0.1", grpc_port=0, metrics_port=0, **quick)
    transport = tested_transport.get()
    if transport.front_ends is not None:
        front_ends = transport.front_ends.get(given.max_message_mb, given.shared_memory)
        async with _running_behind(front_ends, given) as app:
            yield app
    elif transport.is_linked:
        async with _running_linked(given) as app:
            yield app
    else:
        async with _running(App(given, front=rpc_front(given, transport.make))) as app:
            yield app


@asynccontextmanager
async def _running(app: App) -> AsyncIterator[App]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(app.run())
        loaded = tasks.create_task(app.loaded.wait())
        await asyncio.wait([running, loaded], return_when=asyncio.FIRST_COMPLETED)
        try:
            yield app
        finally:
            app.stop()
            loaded.cancel()


@asynccontextmanager
async def _running_behind(
    front_ends: FrontEndProcesses, given: ServerSettings
) -> AsyncIterator[App]:
    """Run an engine in this event loop, behind front ends in processes of their own."""
    engine_server = None

    def front(registry, _, when_finished, engine) -> Server:
        nonlocal engine_server
        engine_server = LentFrontEnds(registry, when_finished, engine, front_ends.listener)
        return engine_server

    async with _running(App(replace(given, grpc_port=front_ends.port), front=front)) as app:
        await front_ends.until_told(engine_server)
        yield app


@asynccontextmanager
async def _running_linked(given: ServerSettings) -> AsyncIterator[App]:
    """Run an engine, and a front end that is linked to it, in one event loop."""
    address = f"\0lanewise-test-{secrets.token_hex(8)}"
    port = asyncio.get_running_loop().create_future()

    class Announced(AioServer):
        def listen(self, host: str, wanted: int) -> int:
            port.set_result(super().listen(host, wanted))
            return port.result()

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()

        def front(registry, _, when_finished, engine) -> Server:
            return Server(registry, when_finished, engine, listener)

        async with asyncio.TaskGroup() as tasks, _running(App(given, front=front)) as app:
            tasks.create_task(run_front_end(given, address, Announced, lambda on_signal: None))
            app.grpc_port = await port
            await _until_told(app)
            yield app


async def _until_told(app: App) -> None:
    """Wait until clients see the models as they are in the engine."""
    ready = {(each.name, each.version) for each in app.registry if each.state is ModelState.READY}
    async with AsyncClient(address_of(app), timeout_s=10) as client:
        while True:
            told = await client.models()
            seen = {(each.name, each.version) for each in told if each.state == "ready"}
            if seen == ready and all(each.state != "loading" for each in told):
                return
            await asyncio.sleep(0.001)


async def serve_at_known_costs(
    path: Path, folder: Path, exec_ms: Callable[[str, int], float]
) -> None:
    """Have servers of the models in `path` with `costs=folder` take these times for measured.

    Args:
        folder: for cost files.
        exec_ms: of a launch, by the profile's name and the rows executed.
    """
    async with running_app(path, costs=folder):
        pass  # to know which kinds of launches there are
    _set_costs(folder, exec_ms)


def _set_costs(folder: Path, exec_ms: Callable[[str, int], float]) -> None:
    for file in folder.glob("*.json"):
        measured = load_costs(file)
        costs = CostTable()
        for kind, _ in measured.costs.kinds():
            took_ms = exec_ms(measured.spec.profiles[kind.profile].name, kind.rows)
            for _ in range(KEPT_SAMPLES):  # so many that what this machine takes hardly counts
                costs.record(*kind, round(took_ms * NS_PER_MS))
        save_costs(file, replace(measured, costs=costs))


def address_of(app: App) -> str:
    return f"127.0.0.1:{app.grpc_port}"


@dataclass
class ServerProcess:
    """`lanewise serve` as a process; `log` holds the entries read so far."""

    process: subprocess.Popen[str]
    log: list[dict[str, object]]

    @property
    def address(self) -> str:
        return str(self._listening["grpc"])

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def http(self) -> str:
        return f"http://{self._listening['http']}"

    @property
    def _listening(self) -> dict[str, object]:
        return next(entry for entry in self.log if entry["event"] == "listening")

    def read_until(self, event: str) -> dict[str, object]:
        """Read the log up to and with the entry of that event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"no {event!r} in {self.log}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, list[dict[str, object]]]:
        """Send a signal and wait; get the exit status and the rest of the log."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        # Not communicate(), which would miss what has been read ahead.
        rest = [json.loads(line) for line in self.process.stderr]
        return self.process.wait(timeout=30), rest

    def log_in_background(self) -> None:
        """Have the rest of the log read by a thread, so that the server can always write."""
        assert self.process.stderr is not None
        lines = self.process.stderr

        def read() -> None:
            with suppress(ValueError):  # closed at the end
                self.log.extend(json.loads(line) for line in lines)

        threading.Thread(target=read, daemon=True).start()


FRONT_END_LOGGERS = ("lanewise.processes.front_end", "lanewise.ipc")


def of_models(log: list[dict[str, object]]) -> list[dict[str, object]]:
    """The entries of the process that has the models: all, unless there are front ends."""
    return [each for each in log if not str(each["logger"]).startswith(FRONT_END_LOGGERS)]


@contextmanager
def server_process(
    path: Path,
    *arguments: str,
    until: str = "serving",
    program: Sequence[str] = ("-m", "lanewise"),
) -> Iterator[ServerProcess]:
    """Start `lanewise serve` on free ports and wait for an event; killed at the end.

    `program` is what Python runs, and what takes the arguments of the command.
    """
    command = [
        *(sys.executable, *program, "serve", str(path), "--host", "127.0.0.1"),
        *("--grpc-port", "0", "--metrics-port", "0", "--log-format", "json"),
        *("--frontends", "0", *arguments),
        *tested_transport.get().arguments,
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    )
    try:
        server = ServerProcess(process, [])
        server.read_until(until)
        if tested_transport.get().is_linked and until == "serving" and "--tls-cert" not in command:
            _wait_for_front_ends(server.address)
        yield server
    finally:
        process.kill()
        process.communicate()


def _wait_for_front_ends(address: str) -> None:
    """Wait until each has been told of what the engine serves: many new connections in a row.

    Of four one is left out by 32 connections once in ten thousand times.
    """
    options = [("grpc.use_local_subchannel_pool", 1)]
    ready_in_a_row = 0
    while ready_in_a_row < 32:
        with Client(address, timeout_s=1, options=options) as client:
            ready_in_a_row = ready_in_a_row + 1 if client.is_ready() else 0


def _environment() -> dict[str, str]:
    import os

    given = os.environ.get("PYTHONPATH", "")
    path = f"{REPOSITORY / 'server'}:{REPOSITORY / 'client'}:{given}".rstrip(":")
    return {**os.environ, "PYTHONPATH": path}
