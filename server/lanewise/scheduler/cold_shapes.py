"""Shapes a lane would have to compile for first: prepared in the background, not in the lane."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import structlog

from lanewise.backends.runner import Runner
from lanewise.backends.threads import RunnerThreads
from lanewise.clock import NS_PER_MS, NS_PER_S, Clock
from lanewise.errors import DeadlineExpired, DeviceLost, Draining, QueueFull, RunnerLost
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Shape
from lanewise.scheduler.routing import Route, narrow

_log = structlog.get_logger(__name__)

MAX_PENDING = 64
"""Shapes that may wait to be prepared. Each takes seconds: whoever sends more new ones than this is
told so at once."""

RETRY_NS = 60 * NS_PER_S
"""A shape that could not be prepared is not tried again for so long while another lane serves it:
trying takes memory and time from the traffic."""

_Key = tuple[int, tuple[Shape, ...]]


class ColdShapes:
    """Keeps requests away from lanes that are cold for their shapes. Used on one event loop.

    While a lane that is warm for a request's shapes is there, it alone serves them, and the
    others are prepared. If there is none, the request waits for the first that is.

    Args:
        spec: of the model.
        runners: of the model; prepared one at a time, on a thread of their own.
        clock: the time of deadlines.
        when_lost: called when the device turns out to be lost.
        max_waiting: requests that may wait at a time.

    Attributes:
        can_be_cold: whether `warm_route` needs to be asked: whether shapes can differ at all.
    """

    def __init__(
        self,
        spec: ModelSpec,
        runners: Sequence[Runner],
        clock: Clock,
        when_lost: Callable[[RunnerLost], None],
        *,
        max_waiting: int,
    ) -> None:
        self._spec = spec
        self._clock = clock
        self._when_lost = when_lost
        self._runners: dict[int, list[Runner]] = {}
        for runner in runners:
            if _admits_several_shapes(runner.profile, spec):  # the only one is warm from the start
                self._runners.setdefault(runner.profile.index, []).append(runner)
        self.can_be_cold = bool(self._runners)
        self._max_waiting = max_waiting
        self._retry_ns: dict[_Key, int] = {}
        self._pending: dict[_Key, asyncio.Task[None]] = {}
        self._threads: RunnerThreads | None = None
        self._draining = asyncio.Event()
        self.waiting_requests = 0

    def warm_route(self, route: Route, shapes: Mapping[str, Shape]) -> Route | None:
        """Leave the profiles out of `route` that are cold for `shapes`, and have them prepared.

        Returns:
            None if that leaves nothing: see `wait`.

        Raises:
            QueueFull: too many shapes wait to be prepared, and none is warm.
        """
        executed = {index: self._executed(index, route, shapes) for index in route.fits}
        warm = tuple(i for i in route.fits if self._is_warm(i, executed[i]))
        for index in route.fits:
            if index not in warm:
                self._prepare(index, route, executed[index], is_needed=not warm)
        if len(warm) == len(route.fits):
            return route
        return narrow(route, warm, self._spec) if warm else None

    async def wait(
        self, route: Route, shapes: Mapping[str, Shape], deadline_ns: int | None
    ) -> Route:
        """Wait until a profile of `route`, all of which are cold, has been prepared.

        Raises:
            DeadlineExpired: the time was not enough.
            Draining: the server stops.
            QueueFull: too many requests wait like this.
            ExecutionFailed, RunnerLost: none can be prepared.
        """
        if self.waiting_requests >= self._max_waiting:
            raise QueueFull(
                f"model '{self._spec.name}': {self.waiting_requests} requests wait for shapes to "
                "be compiled for, which is the limit; send again later or elsewhere, or raise "
                "--max-queue-requests"
            )
        tasks = [self._pending[index, route.shapes] for index in route.fits]
        draining = asyncio.ensure_future(self._draining.wait())
        self.waiting_requests += 1
        try:
            await self._wait_for_one(tasks, draining, deadline_ns)
        finally:
            self.waiting_requests -= 1
            draining.cancel()
        # A runner forgets the shapes it was asked for longest ago, so this one may be cold again.
        return self.warm_route(route, shapes) or await self.wait(route, shapes, deadline_ns)

    def drain(self) -> None:
        """End the requests that wait; what is being prepared cannot be interrupted."""
        self._draining.set()

    async def close(self, timeout_s: float) -> bool:
        """Prepare nothing more. The runners have been closed, which ends the one at work soon.

        Returns:
            Whether no thread is inside a runner any more.
        """
        pending = list(self._pending.values())
        if pending:
            await asyncio.wait(pending, timeout=timeout_s)
        if self._threads is not None:
            self._threads.stop()
        return all(task.done() for task in pending)

    async def _wait_for_one(
        self,
        tasks: Sequence[asyncio.Task[None]],
        draining: asyncio.Task[Literal[True]],
        deadline_ns: int | None,
    ) -> None:
        """Return when one of `tasks` has succeeded; raise what the last one did if none has."""
        began_ns = self._clock.now_ns()
        unfinished = set(tasks)
        while unfinished:
            left_s = None
            if deadline_ns is not None:
                left_s = max(0, deadline_ns - self._clock.now_ns()) / NS_PER_S
            waited: set[asyncio.Task[Any]] = {*unfinished, draining}
            done, _ = await asyncio.wait(
                waited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            title = f"model '{self._spec.name}'"
            if draining in done:
                raise Draining(f"{title}: the server stopped before it had compiled for the shape")
            if not done:
                waited_ms = (self._clock.now_ns() - began_ns) / NS_PER_MS
                raise DeadlineExpired(
                    f"{title}: the deadline passed after {waited_ms:.0f} ms in which the server "
                    "compiled for a shape it had not met before; send it again, or make it the "
                    "opt or max of a profile, so that it is compiled before the server is ready"
                )
            if any(task.exception() is None for task in done):
                return
            unfinished -= done
            if not unfinished:
                done.pop().result()

    def _executed(
        self, index: int, route: Route, shapes: Mapping[str, Shape]
    ) -> Mapping[str, Shape]:
        """Get the shapes that a profile executes for a request, with padding."""
        padding = self._spec.padding
        if padding is None:
            return shapes
        padded = {
            name: (shapes[name][0], *padding.item_shape(name, shapes[name][1:], length))
            for length in (route.lengths[index],)
            for name in padding.inputs
        }
        return {**shapes, **padded}

    def _is_warm(self, index: int, shapes: Mapping[str, Shape]) -> bool:
        return all(runner.is_warm(shapes) for runner in self._runners.get(index, ()))

    def _prepare(
        self, index: int, route: Route, shapes: Mapping[str, Shape], *, is_needed: bool
    ) -> None:
        """Have a profile prepared; only if that is cheap unless it `is_needed`.

        Raises:
            QueueFull: it is needed, but too many shapes wait to be prepared.
        """
        key = (index, route.shapes)
        if key in self._pending:
            return
        is_full = len(self._pending) >= MAX_PENDING
        if not is_needed and (is_full or self._clock.now_ns() < self._retry_ns.get(key, 0)):
            return
        if is_full:
            raise QueueFull(
                f"model '{self._spec.name}': {MAX_PENDING} shapes it has not met before wait "
                "to be compiled for, which is the limit; send fewer different shapes, or again "
                "later"
            )
        task = asyncio.ensure_future(self._prepare_profile(index, dict(shapes)))
        self._pending[key] = task
        task.add_done_callback(functools.partial(self._forget, key))

    def _forget(self, key: _Key, task: asyncio.Task[None]) -> None:
        del self._pending[key]
        self._retry_ns.pop(key, None)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("shape cannot be prepared", model=self._spec.name, reason=str(error))
            if len(self._retry_ns) >= MAX_PENDING:
                self._retry_ns.clear()
            self._retry_ns[key] = self._clock.now_ns() + RETRY_NS

    async def _prepare_profile(self, index: int, shapes: dict[str, Shape]) -> None:
        if self._threads is None:
            self._threads = RunnerThreads(1, f"{self._spec.name}-prepare")
        for runner in self._runners[index]:
            began_ns = self._clock.now_ns()
            try:
                await self._threads.call(functools.partial(runner.prepare, shapes))
            except DeviceLost as error:
                self._when_lost(error)
                raise
            _log.info(
                "shape prepared",
                model=self._spec.name,
                profile=runner.profile.name,
                shapes=shapes,
                seconds=round((self._clock.now_ns() - began_ns) / NS_PER_S, 2),
            )


def _admits_several_shapes(profile: Profile, spec: ModelSpec) -> bool:
    """Whether requests of `profile` may differ in more than their numbers of rows."""
    return any(
        limits.min[first:] != limits.max[first:]
        for name, limits in profile.ranges.items()
        for first in (1 if name in spec.rowwise else 0,)
    )
