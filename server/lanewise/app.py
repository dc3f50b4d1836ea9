"""The composition root: builds every layer, connects them, starts and drains them in order."""

from __future__ import annotations

import asyncio
import signal

import grpc.aio
import structlog

from lanewise import __version__
from lanewise.clock import NS_PER_S, Clock, SystemClock
from lanewise.config import ServerSettings
from lanewise.engine.repository import find_models, load_model
from lanewise.engine.source import ModelSource
from lanewise.errors import ConfigError, ServingError
from lanewise.http import HttpEndpoint, readiness_of
from lanewise.metrics import Metrics
from lanewise.model_settings import read_model_settings
from lanewise.rpc.health import HealthService
from lanewise.rpc.server import build_server
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.registry import ModelRegistry, ModelState, ServedModel

_log = structlog.get_logger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAME_DUCK_S = 0.25
"""How long calls are still answered, UNAVAILABLE, once every request has ended: gRPC ends what
it has received and not yet handed over when a server stops with CANCELLED (seen in 1.85)."""
HANDOVER_S = 3.0
"""How long calls may stay open after that, for responses to be read."""


class App:
    """One server. Made, run once and gone.

    It answers liveness and health from the start, loads its models one after the other,
    and serves each as soon as it is loaded.
    """

    def __init__(self, settings: ServerSettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.registry = ModelRegistry()
        self.grpc_port = settings.grpc_port
        self.metrics_port = settings.metrics_port
        self.loaded = asyncio.Event()
        """Set once every model is ready or has failed."""
        self._clock = clock or SystemClock()
        self._dispatchers: list[Dispatcher] = []
        self._stop = asyncio.Event()
        self._nothing_loaded: ConfigError | None = None

    def stop(self) -> None:
        """Ask the server to drain and return from `run`. May be called again, to no effect."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop` is called or a stop signal comes, then drain.

        Raises:
            ConfigError: there is nothing to serve, or a port is taken.
        """
        sources = find_models(self.settings.path)
        for source in sources:
            self.registry.add(ServedModel(source.name, source.version))
        metrics = Metrics(self.registry)
        http = HttpEndpoint(
            self.settings.host,
            self.settings.metrics_port,
            metrics.exposition,
            lambda: True,
            lambda: readiness_of(self.registry),
        )
        server, health = build_server(
            self.registry,
            self._clock,
            max_message_bytes=self.settings.max_message_mb << 20,
            observer=metrics,
        )
        self._bind(server)
        http.start()
        self.metrics_port = http.port
        try:
            await health.publish(self.registry)
            await server.start()
            self._watch_signals()
            await self._load_and_wait(sources, health)
        finally:
            await self._drain(server, health)
            http.close()
        if self._nothing_loaded is not None:
            raise self._nothing_loaded

    def _bind(self, server: grpc.aio.Server) -> None:
        address = f"{self.settings.host}:{self.settings.grpc_port}"
        try:
            self.grpc_port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(
                f"--grpc-port {self.settings.grpc_port}: cannot listen on {self.settings.host}: "
                "the port is taken or the address is not this machine's; "
                "free the port or choose another one, 0 for any"
            ) from error

    def _watch_signals(self) -> None:
        """Stop at the first signal; a second one ends the process at once, as by default."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)
            self.stop()

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop)

    async def _load_and_wait(self, sources: list[ModelSource], health: HealthService) -> None:
        """Load every model; return when the server is to stop."""
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(self._load_all(sources, health))
            await self._stop.wait()
            loading.cancel()

    async def _load_all(self, sources: list[ModelSource], health: HealthService) -> None:
        started_ns = self._clock.now_ns()
        for source in sources:
            model = self.registry.resolve(source.name, source.version)
            try:
                await self._load(source, model)
            except (ConfigError, ServingError) as error:
                self._mark_failed(model, str(error))
            except Exception as error:
                _log.exception("loading failed unexpectedly", model=source.name)
                self._mark_failed(model, f"{type(error).__name__}: {error}")
            await health.publish(self.registry)
        self.loaded.set()
        if not self._dispatchers:
            reasons = "\n".join(f"{m.name} {m.version}: {m.reason}" for m in self.registry)
            self._nothing_loaded = ConfigError(f"no model could be loaded\n{reasons}")
            self.stop()
            return
        _log.info(
            "serving",
            grpc=f"{self.settings.host}:{self.grpc_port}",
            http=f"{self.settings.host}:{self.metrics_port}",
            models=[f"{m.name}/{m.version}" for m in self.registry if m.lanes],
            ready=self.registry.is_ready,
            seconds=round((self._clock.now_ns() - started_ns) / NS_PER_S, 2),
            version=__version__,
        )

    def _mark_failed(self, model: ServedModel, reason: str) -> None:
        model.state, model.reason = ModelState.FAILED, reason
        _log.error("model failed", model=model.name, version=model.version, reason=reason)

    async def _load(self, source: ModelSource, model: ServedModel) -> None:
        settings = await asyncio.to_thread(read_model_settings, source.settings_file)
        loaded = await asyncio.to_thread(
            load_model,
            source,
            settings,
            backend_override=self.settings.backend,
            clock=self._clock,
        )
        dispatcher = Dispatcher(
            loaded, self._clock, max_queue_requests=self.settings.max_queue_requests
        )
        try:
            await dispatcher.warm_up()
        except BaseException:
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
            profiles=[
                f"{p.name} {p.rows.min}/{p.rows.opt}/{p.rows.max}" for p in loaded.spec.profiles
            ],
        )

    async def _drain(self, server: grpc.aio.Server, health: HealthService) -> None:
        """Refuse new work, run the backlog for the grace period, then release everything."""
        grace_ns = int(self.settings.drain_grace_s * NS_PER_S)
        _log.info(
            "draining",
            waiting=sum(d.waiting_requests for d in self._dispatchers),
            grace_s=self.settings.drain_grace_s,
        )
        self.registry.drain()
        await health.publish(self.registry)
        async with asyncio.TaskGroup() as tasks:
            for dispatcher in self._dispatchers:
                tasks.create_task(dispatcher.drain(grace_ns))
        await health.close()
        await asyncio.sleep(LAME_DUCK_S)
        await server.stop(HANDOVER_S)
        for dispatcher in self._dispatchers:
            await dispatcher.close()
        _log.info("stopped")
