"""A front end's end of its link: the engine's models, as if their lanes were here."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from lanewise import errors
from lanewise.errors import EngineLost, ServingError
from lanewise.ipc.arena import Arena
from lanewise.ipc.connection import Connection, LinkRefused, shake_hands
from lanewise.ipc.messages import (
    Answer,
    Ask,
    Cancel,
    Count,
    Failure,
    Free,
    Infer,
    Listening,
    Message,
    Models,
    ModelSnapshot,
    Result,
    Stop,
    read_report,
)
from lanewise.ipc.tensors import TensorReader, TensorWriter, on_loop
from lanewise.model.regions import RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array
from lanewise.scheduler.registry import ModelRegistry, ServedModel
from lanewise.scheduler.request import NO_OPTIONS, RequestOptions
from lanewise.scheduler.results import InferResult

_log = structlog.get_logger(__name__)

RETRY_S = 0.05
"""How long a front end waits before it tries again to reach an engine that does not listen."""


class EngineError(Exception):
    """Something went wrong in the engine that is nobody's fault but its own; its log has more."""


class Client:
    """Keeps the link to the engine, and the registry up to date. Used on one event loop.

    Args:
        address: of the engine's Unix socket.
        registry: filled by this; its models have lanes that ask the engine.

    Attributes:
        changed: set whenever the registry has changed, and by `stop`.
        must_stop: set by `stop`, and when the engine has ended every request.
    """

    def __init__(self, address: str, registry: ModelRegistry) -> None:
        self._address = address
        self._registry = registry
        self._session: FrontEndSession | None = None
        self._is_listening = False
        self._lost = asyncio.Event()
        self.changed = asyncio.Event()
        self.must_stop = asyncio.Event()

    async def run(self) -> None:
        """Connect to the engine, and again whenever it was lost; returns only if cancelled."""
        while True:
            await self._connect()
            await self._lost.wait()
            _log.warning("engine lost")
            self._session = None
            self._registry.replace(ServedModel(m.name, m.version) for m in self._registry)
            self.changed.set()

    async def ask(self, method: str, request: bytes) -> bytes:
        """Have the engine answer a call; see `Ask`.

        Raises:
            ServingError: as the engine raised it, or EngineLost.
        """
        if self._session is None:
            raise _engine_lost()
        return await self._session.ask(method, request)

    def tell_of_listening(self) -> None:
        """Tell the engine, and every later one that has told of its models: clients come in."""
        self._is_listening = True
        if self._session is not None and self._session.knows_models:
            self._session.connection.send(Listening())

    def stop(self) -> None:
        """Have the front end go, also one that waits for its first engine."""
        self.must_stop.set()
        self.changed.set()

    def count(self, model: str, version: str, profile: str, error: str, latency_ns: int) -> None:
        """Have the engine count a request that has ended, as a `WhenFinished`.

        So a server's metrics are in one place. Does nothing while there is no engine.
        """
        if self._session is not None:
            self._session.connection.send_later(Count(model, version, profile, error, latency_ns))

    def close(self) -> None:
        if self._session is not None:
            self._session.connection.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._lost.clear()
        while True:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connected.setblocking(False)
            try:
                await loop.sock_connect(connected, self._address)
                arena = Arena()
                memory = await shake_hands(connected, arena)
                break
            except (OSError, LinkRefused):
                connected.close()
                await asyncio.sleep(RETRY_S)
        session = FrontEndSession(arena, memory, self._learn, self.stop, self._lost.set)
        await loop.create_connection(lambda: session.connection, sock=connected)
        self._session = session

    def _learn(self, session: FrontEndSession, news: Models) -> None:
        self._registry.replace(
            _served(session, position, snapshot) for position, snapshot in enumerate(news.models)
        )
        if news.is_draining:
            self._registry.drain()
        self.changed.set()
        session.knows_models = True
        if self._is_listening:  # not sooner: clients would find no model ready
            session.connection.send(Listening())


class FrontEndSession:
    """One connection to an engine, with what is open on it.

    Attributes:
        knows_models: whether the engine has told of its models.
    """

    def __init__(
        self,
        arena: Arena,
        memory: memoryview,
        when_told: Callable[[FrontEndSession, Models], None],
        when_stopped: Callable[[], None],
        when_lost: Callable[[], None],
    ) -> None:
        self._when_told = when_told
        self._when_stopped = when_stopped
        self._when_lost = when_lost
        self._writer = TensorWriter(arena)
        self._reader = TensorReader(memory, on_loop(self._free))
        self._calls = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._is_lost = False
        self.knows_models = False
        self.connection = Connection(self._receive, self._lose)

    async def infer(
        self,
        model: int,
        inputs: list[Array],
        in_regions: tuple[RegionTensor | None, ...],
        options: RequestOptions,
    ) -> Result:
        self._require_engine()
        packed = self._writer.pack(inputs)
        call = next(self._calls)
        message = Infer(call, model, packed, in_regions, tuple(options))
        result: Result = await self._send(call, message)
        return result

    async def ask(self, method: str, request: bytes) -> bytes:
        self._require_engine()
        call = next(self._calls)
        response: bytes = await self._send(call, Ask(call, method, request))
        return response

    def read(self, result: Result, spec: ModelSpec) -> dict[str, Array]:
        """Get the outputs of a result that are not in regions, as views."""
        outputs = [tensor for tensor in spec.outputs if tensor.name not in result.placed]
        arrays = self._reader.read(result.outputs, [tensor.dtype for tensor in outputs])
        return {t.name: array for t, array in zip(outputs, arrays, strict=True)}

    async def _send(self, call: int, message: Infer | Ask) -> Any:  # noqa: ANN401
        done = asyncio.get_running_loop().create_future()
        self._open[call] = done
        self.connection.send(message)
        try:
            return await done
        except asyncio.CancelledError:
            if self._open.pop(call, None) is not None:
                self.connection.send(Cancel(call))
            else:
                self._discard(done)
            raise

    def _require_engine(self) -> None:
        if self._is_lost:
            raise _engine_lost()

    def _discard(self, done: asyncio.Future[Any]) -> None:
        """Release the result of a call whose caller left as it arrived."""
        if not done.cancelled() and done.exception() is None:
            message = done.result()
            if isinstance(message, Result):
                self._reader.discard(message.outputs)

    def _receive(self, messages: list[Message]) -> None:
        for message in messages:
            match message:
                case Result(call, outputs):
                    if done := self._pop(call):
                        done.set_result(message)
                    else:
                        self._reader.discard(outputs)
                case Free(block):
                    self._writer.free(block)
                case Failure(call, name, text):
                    if done := self._pop(call):
                        done.set_exception(_error(name, text))
                case Answer(call, response):
                    if done := self._pop(call):
                        done.set_result(response)
                case Models():
                    self._when_told(self, message)
                case Stop():
                    self._when_stopped()
                case _:
                    raise AssertionError(f"the engine sent {message}")

    def _pop(self, call: int) -> asyncio.Future[Any] | None:
        done = self._open.pop(call, None)
        return None if done is None or done.done() else done

    def _free(self, block: int) -> None:
        self.connection.send_later(Free(block))

    def _lose(self) -> None:
        self._is_lost = True
        for done in self._open.values():
            if not done.done():
                done.set_exception(_engine_lost())
        self._open.clear()
        # Whoever waited for a result that did come has been woken, and has read it, before this.
        self._writer.close()
        self._reader.close()
        self._when_lost()


class RemoteLanes:
    """The lanes of a model in the engine; see `Lanes`."""

    def __init__(
        self,
        session: FrontEndSession,
        model: int,
        spec: ModelSpec,
        lost_profiles: tuple[str, ...],
        hung_profiles: tuple[str, ...] = (),
    ) -> None:
        self._session = session
        self._model = model
        self.spec = spec
        self.lost_profiles = lost_profiles
        self.hung_profiles = hung_profiles

    async def submit(
        self, inputs: Mapping[str, Array | RegionTensor], options: RequestOptions = NO_OPTIONS
    ) -> InferResult:
        arrays, in_regions = _apart([inputs[tensor.name] for tensor in self.spec.inputs])
        result = await self._session.infer(self._model, arrays, in_regions, options)
        outputs = self._session.read(result, self.spec)
        launches = tuple(read_report(launch, self.spec) for launch in result.launches)
        return InferResult(outputs, launches, result.was_cold, result.placed)


def _apart(
    inputs: list[Array | RegionTensor],
) -> tuple[list[Array], tuple[RegionTensor | None, ...]]:
    """Tell inputs that lie in regions from arrays; see `Infer.in_regions`."""
    arrays = [each for each in inputs if not isinstance(each, RegionTensor)]
    if len(arrays) == len(inputs):
        return arrays, ()
    return arrays, tuple(each if isinstance(each, RegionTensor) else None for each in inputs)


def _served(session: FrontEndSession, position: int, snapshot: ModelSnapshot) -> ServedModel:
    lanes = (
        None
        if snapshot.spec is None
        else RemoteLanes(
            session, position, snapshot.spec, snapshot.lost_profiles, snapshot.hung_profiles
        )
    )
    return ServedModel(snapshot.name, snapshot.version, snapshot.state, snapshot.reason, lanes)


def _error(name: str, text: str) -> Exception:
    if not name:
        return EngineError(text)
    error_class: type[ServingError] = getattr(errors, name)
    return error_class(text)


def _engine_lost() -> EngineLost:
    return EngineLost("the engine process ended before the request was done; send it again")
