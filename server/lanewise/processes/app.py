"""The composition root: builds every layer, connects them, starts and drains them in order."""

from __future__ import annotations

import asyncio
import platform
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeAlias

import structlog

from lanewise import __version__
from lanewise.backends.repository import find_models, load_model, prove_rows, runs_on_device
from lanewise.backends.runner import ModelSource
from lanewise.clock import NS_PER_S, Clock, SystemClock
from lanewise.cores import usable_cores
from lanewise.errors import ConfigError, DeviceLost, RunnerLost, ServingError, printable
from lanewise.memory.regions import Regions
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import format_shape
from lanewise.processes.signals import SignalWatch, leave_at_once, watch_on_main_thread
from lanewise.scheduler.costs.file import MeasuredModel
from lanewise.scheduler.costs.folder import CostFolder
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher, WhenArrived, lanes_of
from lanewise.scheduler.registry import ModelRegistry, ModelState, ServedModel
from lanewise.scheduler.results import WhenFinished
from lanewise.settings.model import ModelSettings, read_model_settings
from lanewise.settings.ports import require_free_port
from lanewise.settings.server import ServerSettings
from lanewise.simulator.trace import TraceWriter
from lanewise.telemetry.http import HttpEndpoint, readiness_of
from lanewise.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from lanewise.rpc.engine_calls import EngineCalls

_log = structlog.get_logger(__name__)


WATCH_S = 0.5
"""How often the launches in flight are looked at."""


class Front(Protocol):
    """How clients reach the models: in this process, or through others."""

    def listen(self, host: str, port: int) -> int:
        """Get the port that clients come in by; 0 for any free one.

        Raises:
            ConfigError: the port cannot be bound.
        """
        ...

    @property
    def is_reachable(self) -> bool:
        """Whether clients can come in. May be asked from any thread."""
        ...

    async def start(self) -> None: ...

    async def publish(self) -> None:
        """Tell clients what has become of the models."""
        ...

    async def close(self) -> None:
        """Stop, once every request has ended: clients may still read their responses."""
        ...


FrontFactory: TypeAlias = Callable[[ModelRegistry, Clock, WhenFinished, "EngineCalls"], Front]


class App:
    """One server. Made, run once and gone.

    It answers liveness and health from the start, loads as many models at a time as there are
    cores, one at a time on a device, and serves each as soon as it is warm and measured.
    """

    def __init__(
        self,
        settings: ServerSettings,
        clock: Clock | None = None,
        *,
        front: FrontFactory,
        watch_signals: SignalWatch = watch_on_main_thread,
        http_listener: socket.socket | None = None,
    ) -> None:
        """Make a server that is not running.

        Args:
            settings: what to serve, and how.
            clock: of the whole server.
            front: how clients reach it.
            watch_signals: how the server hears that it is to stop.
            http_listener: of the metrics port, if somebody else holds it open.
        """
        self.settings = settings
        self._make_front = front
        self._watch_signals = watch_signals
        self._http_listener = http_listener
        self.registry = ModelRegistry(settings.ready_when)
        self.grpc_port = settings.grpc_port
        self.metrics_port = settings.metrics_port
        self.loaded = asyncio.Event()
        """Set once every model is ready or has failed."""
        self.must_leave_at_once = False
        """Whether a process that is to end after `run` has to `leave_at_once`: a thread is
        still loading, warming up or executing a model, which nothing can interrupt, or the
        device is lost, and releasing what is held on it may crash or hang."""
        self._clock = clock or SystemClock()
        self._regions = Regions()
        self._dispatchers: list[Dispatcher] = []
        self._traces: list[TraceWriter] = []
        self._costs = None if settings.costs is None else CostFolder(settings.costs)
        self._host_turns = asyncio.Semaphore(usable_cores())
        self._measuring = asyncio.Lock()
        self._device_turn = asyncio.Semaphore(1)
        self._stop = asyncio.Event()
        self._lane_lost = asyncio.Event()
        self._signalled = False
        self._fatal: ConfigError | RunnerLost | None = None

    def stop(self) -> None:
        """Ask the server to drain and return from `run`. May be called again, to no effect."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop` is called or a stop signal comes, then drain.

        Raises:
            ConfigError: there is nothing to serve, or a port is taken.
            RunnerLost: a model has lost every lane.
        """
        self._watch_signals(self._on_signal)
        sources = find_models(self.settings.path)
        for source in sources:
            self.registry.add(ServedModel(source.name, source.version))
        if missing := self.registry.missing:
            reason = f"--ready-when {self.settings.ready_when}: no model {', '.join(missing)}"
            _log.warning("the server will not be ready", reason=reason)
        if self._http_listener is None:
            require_free_port("--metrics-port", self.settings.host, self.settings.metrics_port)
        metrics = Metrics(self.registry)
        # Protobuf, which takes 31 ms to import: before there are calls to hold up.
        from lanewise.rpc.engine_calls import engine_calls  # noqa: PLC0415

        answer = engine_calls(self.registry, self._regions)
        front = self._make_front(self.registry, self._clock, metrics.request_finished, answer)
        http = HttpEndpoint(
            self.settings.host,
            self.settings.metrics_port,
            metrics.exposition,
            lambda: True,
            lambda: readiness_of(self.registry, front.is_reachable),
            listener=self._http_listener,
        )
        self.grpc_port = front.listen(self.settings.host, self.settings.grpc_port)
        http.start()
        self.metrics_port = http.port
        try:
            await front.start()
            _log.info("listening", **self._addresses())
            await self._load_and_wait(sources, front)
        finally:
            await self._drain(front)
            http.close()
        if self._fatal is not None:
            raise self._fatal

    def _address(self, port: int) -> str:
        host = self.settings.host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _addresses(self) -> dict[str, str]:
        return {"grpc": self._address(self.grpc_port), "http": self._address(self.metrics_port)}

    def _on_signal(self, number: signal.Signals) -> None:
        """Drain at the first signal, end the process at the second."""
        if not self._signalled:
            self._signalled = True
            self.stop()
            return
        dropped = sum(dispatcher.open_requests for dispatcher in self._dispatchers)
        _log.warning("stopping at once", dropped=dropped)
        self._close_traces()
        leave_at_once(128 + number)  # what a shell reports of a process killed by it

    async def _load_and_wait(self, sources: list[ModelSource], front: Front) -> None:
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(self._load_all(sources, front))
            telling = tasks.create_task(self._tell_of_lost_lanes(front))
            watching = tasks.create_task(self._watch_launches(front))
            await self._stop.wait()
            self.registry.drain()
            loading.cancel()
            telling.cancel()
            watching.cancel()
        self.must_leave_at_once |= loading.cancelled()

    def _on_lane_lost(self, error: RunnerLost) -> None:
        if isinstance(error, DeviceLost):
            self._give_up_device(error)
        self._lane_lost.set()

    def _give_up_device(self, error: DeviceLost) -> None:
        self.must_leave_at_once = True
        self._give_up(error.message)

    def _give_up(self, why: str) -> None:
        """Stop with an error; a supervisor is to start a new process."""
        self._fatal = RunnerLost(f"{why}; the server stops, for its supervisor to start a new one")
        self.stop()

    async def _tell_of_lost_lanes(self, front: Front) -> None:
        """Publish the health anew whenever a lane is lost; stop when a model has none left."""
        while True:
            await self._lane_lost.wait()
            self._lane_lost.clear()
            await front.publish()
            for model in self.registry:
                lanes = model.lanes
                if lanes is not None and len(lanes.lost_profiles) == len(lanes.spec.profiles):
                    self._give_up(f"model {model.title} has lost every lane")

    async def _watch_launches(self, front: Front) -> None:
        """End launches that nobody waits for; publish the health anew when one hangs."""
        while True:
            await asyncio.sleep(WATCH_S)
            changes = [dispatcher.watch() for dispatcher in self._dispatchers]
            if any(changes):
                await front.publish()

    async def _load_all(self, sources: list[ModelSource], front: Front) -> None:
        started_ns = self._clock.now_ns()
        async with asyncio.TaskGroup() as tasks:
            for source in sources:
                tasks.create_task(self._load_one(source, front))
        self.loaded.set()
        if not self._dispatchers:
            reasons = "\n".join(f"{m.title}: {m.reason}" for m in self.registry)
            self._fatal = ConfigError(f"no model could be loaded\n{reasons}")
            self.stop()
            return
        _log.info(
            "serving",
            **self._addresses(),
            models=[f"{m.name}/{m.version}" for m in self.registry if m.lanes],
            ready=self.registry.is_ready,
            seconds=round((self._clock.now_ns() - started_ns) / NS_PER_S, 2),
            version=__version__,
        )

    async def _load_one(self, source: ModelSource, front: Front) -> None:
        """Load a model, in its turn, and serve it, or say why it has failed."""
        model = self.registry.resolve(source.name, source.version)
        try:
            settings = await asyncio.to_thread(read_model_settings, source.settings_file)
            is_on_device = await asyncio.to_thread(
                runs_on_device, source, settings, self.settings.backend
            )
            async with self._device_turn if is_on_device else self._host_turns:
                await self._load(source, model, settings)
        except (ConfigError, ServingError) as error:
            self._mark_failed(model, str(error))
            if isinstance(error, DeviceLost):
                self._give_up_device(error)
        except Exception as error:
            _log.exception("loading failed unexpectedly", model=source.name)
            self._mark_failed(model, printable(f"{type(error).__name__}: {error}"))
        await front.publish()

    def _mark_failed(self, model: ServedModel, reason: str) -> None:
        model.state, model.reason = ModelState.FAILED, reason
        _log.error("model failed", model=model.name, version=model.version, reason=reason)

    async def _load(self, source: ModelSource, model: ServedModel, settings: ModelSettings) -> None:
        _log.info("loading model", model=source.name, version=source.version, file=str(source.file))
        loaded = await asyncio.to_thread(
            load_model,
            source,
            settings,
            backend_override=self.settings.backend,
            clock=self._clock,
        )
        loaded = await asyncio.to_thread(
            prove_rows,
            loaded,
            source,
            settings,
            backend_override=self.settings.backend,
            clock=self._clock,
        )
        costs = None
        if self._costs is not None:
            unmeasured = MeasuredModel(loaded.spec, lanes_of(loaded), CostTable())
            costs = await asyncio.to_thread(self._costs.load, unmeasured)
        dispatcher = Dispatcher(
            loaded,
            self._clock,
            max_queue_requests=self.settings.max_queue_requests,
            scheduling=settings.scheduling,
            costs=costs,
            when_lane_lost=self._on_lane_lost,
            regions=self._regions,
        )
        try:
            dispatcher.when_arrived = self._record_trace(dispatcher.spec)
            async with self._measuring:  # one at a time: launches of another would be in the costs
                await dispatcher.warm_up()
            if costs is None:
                await asyncio.to_thread(self._save_costs, dispatcher)
        except Exception:  # if it is cancelled, closing would wait for the runner at work
            await dispatcher.close()
            raise
        self._dispatchers.append(dispatcher)
        model.lanes = dispatcher
        if model.state is ModelState.LOADING:  # not if the server has begun to drain
            model.state = ModelState.READY
        _log.info(
            "model ready",
            model=source.name,
            version=source.version,
            backend=loaded.spec.backend,
            batching=loaded.spec.batching,
            profiles=[_describe(profile, loaded.spec) for profile in loaded.spec.profiles],
        )

    def _record_trace(self, spec: ModelSpec) -> WhenArrived | None:
        """Begin the trace of a model, in a file of its own for each start of the server.

        A failure is only logged: the model is served without.
        """
        folder = self.settings.record_traces
        if folder is None:
            return None
        began = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        version = f"-{spec.version}" if spec.version else ""
        path = folder / f"{spec.name}{version}-{began}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trace = TraceWriter(path, spec)
        except OSError as error:
            reason = (
                f"--record-traces {folder}: {path} cannot be written: {error.strerror}; "
                "choose another folder"
            )
            _log.error("no trace is recorded", model=spec.name, reason=reason)
            return None
        self._traces.append(trace)
        return trace.record

    def _close_traces(self) -> None:
        for trace in self._traces:
            trace.close()

    def _save_costs(self, dispatcher: Dispatcher) -> None:
        """Keep what is known of a model's costs; a failure is only logged."""
        if self._costs is None:
            return
        try:
            self._costs.save(_measured(dispatcher))
        except ConfigError as error:
            _log.error("costs cannot be saved", model=dispatcher.spec.name, reason=str(error))

    async def _drain(self, front: Front) -> None:
        grace_ns = int(self.settings.drain_grace_s * NS_PER_S)
        _log.info(
            "draining",
            waiting=sum(d.waiting_requests for d in self._dispatchers),
            grace_s=self.settings.drain_grace_s,
            **({"hint": "a second signal stops at once"} if self._signalled else {}),
        )
        self.registry.drain()
        await front.publish()
        async with asyncio.TaskGroup() as tasks:
            drains = [tasks.create_task(d.drain(grace_ns)) for d in self._dispatchers]
        dropped = sum(drain.result() for drain in drains)
        await front.close()
        self._regions.close()
        for dispatcher in self._dispatchers:
            self._save_costs(dispatcher)
            self.must_leave_at_once |= not await dispatcher.close()
        self._close_traces()
        _log.info("stopped", **({"dropped": dropped} if dropped else {}))


def _measured(dispatcher: Dispatcher) -> MeasuredModel:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return dispatcher.measured(f"lanewise {__version__} on {platform.node()}, {now}")


def _describe(profile: Profile, spec: ModelSpec) -> str:
    rows = profile.rows
    if spec.batching:
        return f"{profile.name} {rows.min}/{rows.opt}/{rows.max}"
    shapes = (
        f"{name} " + "/".join(map(format_shape, (limits.min, limits.opt, limits.max)))
        for name, limits in profile.ranges.items()
    )
    return f"{profile.name} {', '.join(shapes)}"
