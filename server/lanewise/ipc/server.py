"""The engine's end of its links: requests of front-end processes, run by the lanes here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import cast

import structlog

from lanewise.errors import Overloaded, ServingError
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
    report_of,
)
from lanewise.ipc.tensors import TensorReader, TensorWriter, on_loop
from lanewise.model.regions import RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array
from lanewise.scheduler.registry import Lanes, LocalLanes, ModelRegistry, ServedModel
from lanewise.scheduler.request import RequestOptions
from lanewise.scheduler.results import InferResult, WhenFinished

_log = structlog.get_logger(__name__)


FAREWELL_S = 4.0
"""How long front ends have to stop: what they give their clients to read responses, and a bit."""


class Server:
    """Serves every front-end process that connects. Used on one event loop.

    Args:
        registry: changed by the caller alone.
        when_finished: told of every request that ended in a front end.
        answer: answers the calls that front ends forward; see `Ask`.
        listener: a Unix socket that listens; stays the caller's.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        when_finished: WhenFinished,
        answer: Callable[[str, bytes], Awaitable[bytes]],
        listener: socket.socket,
    ) -> None:
        self._registry = registry
        self._when_finished = when_finished
        self._answer = answer
        self._listener = listener
        self._sessions: set[EngineSession] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()
        self._all_gone = asyncio.Event()

    @property
    def is_reachable(self) -> bool:
        return any(session.is_listening for session in list(self._sessions))

    def listen(self, host: str, port: int) -> int:
        """Get the port that front ends listen on: the one that was asked for."""
        return port

    async def start(self) -> None:
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept_all())

    async def publish(self) -> None:
        """Tell every front end what has become of the models."""
        snapshot = _snapshot(self._registry)
        for session in self._sessions:
            session.connection.send(snapshot)

    async def close(self) -> None:
        """Have every front end stop, once every request has ended, and wait until they have."""
        for task in (self._accepting, *self._greeting):
            if task is not None:
                task.cancel()
        self._all_gone.clear()
        for session in self._sessions:
            session.connection.send(Stop())
        if self._sessions:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), FAREWELL_S)
        for session in list(self._sessions):
            session.connection.close()

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connected, _ = await loop.sock_accept(self._listener)
            # One that does not answer must not keep others waiting.
            task = loop.create_task(self._greet(connected))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, connected: socket.socket) -> None:
        try:
            await self._accept(connected)
        except (OSError, LinkRefused) as error:
            _log.warning("front end refused", reason=str(error))

    async def _accept(self, connected: socket.socket) -> None:
        arena = Arena()
        memory = await shake_hands(connected, arena)
        session = EngineSession(
            self._registry, self._when_finished, self._answer, arena, memory, self._forget
        )
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: session.connection, connected)
        if session.is_lost:
            return
        self._sessions.add(session)
        session.connection.send(_snapshot(self._registry))
        _log.info("front end connected", front_ends=len(self._sessions))

    def _forget(self, session: EngineSession) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._all_gone.set()
        _log.info("front end gone", front_ends=len(self._sessions))


class EngineSession:
    """One front end."""

    def __init__(  # noqa: PLR0917 - the first three are the same for all sessions
        self,
        registry: ModelRegistry,
        when_finished: WhenFinished,
        answer: Callable[[str, bytes], Awaitable[bytes]],
        arena: Arena,
        memory: memoryview,
        when_gone: Callable[[EngineSession], None],
    ) -> None:
        self._models: list[ServedModel] = list(registry)
        self._when_finished = when_finished
        self._answer = answer
        self._when_gone = when_gone
        self._writer = TensorWriter(arena)
        self._reader = TensorReader(memory, on_loop(self._free))
        self._open: dict[int, Callable[[], None]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self.is_listening = False
        self.is_lost = False
        self.connection = Connection(self._receive, self._lose)

    def _receive(self, messages: list[Message]) -> None:
        for message in messages:
            match message:
                case Infer():
                    self._infer(message)
                case Free(block):
                    self._writer.free(block)
                case Count():
                    self._when_finished(*message)
                case Cancel(call):
                    if cancel := self._open.pop(call, None):
                        cancel()
                case Listening():
                    self.is_listening = True
                case Ask():
                    task = asyncio.create_task(self._forward(message))
                    self._asking.add(task)
                    task.add_done_callback(self._asking.discard)
                case _:
                    raise AssertionError(f"a front end sent {message}")

    def _infer(self, message: Infer) -> None:
        call = message.call
        try:
            lanes = cast(LocalLanes, self._models[message.model].require_ready())
        except ServingError as error:
            self._reader.discard(message.inputs)
            self._fail(call, error)
            return
        try:
            inputs = self._inputs(message, lanes.spec)
            self._open[call] = _nothing  # it may end before it has begun
            cancel = lanes.begin(
                inputs,
                functools.partial(self._end, call, lanes),
                RequestOptions(*message.options),
            )
            if call in self._open:
                self._open[call] = cancel
        except Exception as error:
            self._open.pop(call, None)
            self._fail(call, error)

    def _inputs(self, message: Infer, spec: ModelSpec) -> dict[str, Array | RegionTensor]:
        in_regions = message.in_regions or (None,) * len(spec.inputs)
        sent = [t for t, at in zip(spec.inputs, in_regions, strict=True) if at is None]
        arrays = iter(self._reader.read(message.inputs, [tensor.dtype for tensor in sent]))
        return {
            tensor.name: next(arrays) if at is None else at
            for tensor, at in zip(spec.inputs, in_regions, strict=True)
        }

    def _end(
        self, call: int, lanes: Lanes, result: InferResult | None, error: BaseException | None
    ) -> None:
        if self._open.pop(call, None) is None:
            return
        if result is None:
            self._fail(call, error)
            return
        try:
            outputs = self._writer.pack(
                result.outputs[t.name] for t in lanes.spec.outputs if t.name not in result.placed
            )
        except Overloaded as full:
            self._fail(call, full)
            return
        launches = tuple(map(report_of, result.launches))
        self.connection.send(Result(call, outputs, launches, result.was_cold, result.placed))

    async def _forward(self, ask: Ask) -> None:
        try:
            response = await self._answer(ask.method, ask.request)
            self.connection.send(Answer(ask.call, response))
        except Exception as error:
            self._fail(ask.call, error)

    def _fail(self, call: int, error: BaseException | None) -> None:
        if isinstance(error, ServingError):
            self.connection.send(Failure(call, type(error).__name__, error.message))
            return
        _log.error("internal error", exc_info=error)
        self.connection.send(Failure(call, "", f"{type(error).__name__}: {error}"))

    def _free(self, block: int) -> None:
        self.connection.send_later(Free(block))

    def _lose(self) -> None:
        """Nobody waits for what is open any more."""
        self.is_lost = True
        for cancel in list(self._open.values()):
            cancel()
        self._open.clear()
        self._writer.close()
        self._reader.close()
        self._when_gone(self)


def _nothing() -> None:
    """Cancel a request that has not begun."""


def _snapshot(registry: ModelRegistry) -> Models:
    models = tuple(
        ModelSnapshot(
            model.name,
            model.version,
            model.state,
            model.reason,
            # Samples are for runners, and may be large.
            None if model.lanes is None else replace(model.lanes.spec, samples={}),
            () if model.lanes is None else model.lanes.lost_profiles,
            () if model.lanes is None else model.lanes.hung_profiles,
        )
        for model in registry
    )
    return Models(models, registry.is_draining)
