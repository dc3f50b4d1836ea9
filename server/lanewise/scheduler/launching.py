"""Launches on runners: their batches, and the threads or the loop that waits for them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence

import structlog

from lanewise.backends.polling import OVERTIME_NS, POLL_NS, Poller
from lanewise.backends.runner import Batch, Runner
from lanewise.backends.threads import RunnerThreads
from lanewise.clock import Clock
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Piece, Shape
from lanewise.scheduler.parts import Outputs
from lanewise.scheduler.request import Launch

_log = structlog.get_logger(__name__)

Inputs = Mapping[str, Piece]

_Kind = tuple[int, int, Hashable]

WhenLaunched = Callable[[Launch, int, Outputs | None, BaseException | None], None]
"""Told of the end of a launch: when it ended, its outputs, or the error in their place."""


class Launcher:
    """Runs the launches of one model. Used on one event loop; owns the runners' threads.

    Each runner is called from threads of its own, so that a blocking call holds up nothing
    else; but short launches are started and polled on the event loop, by runners that can.

    Attributes:
        runners: by the id of their lane.
        threads: of each runner.
    """

    def __init__(self, spec: ModelSpec, runners: Sequence[Runner], clock: Clock) -> None:
        self.runners = runners
        self.threads = tuple(
            RunnerThreads(runner.depth, f"{spec.name}-{runner.profile.name}") for runner in runners
        )
        self._spec = spec
        self._clock = clock
        self._poller = Poller(clock)
        self._known_short: set[_Kind] = set()
        self._in_flight = 0
        self._nothing_in_flight = asyncio.Event()
        self._nothing_in_flight.set()

    def launch(self, launch: Launch, when_done: WhenLaunched) -> None:
        """Start a launch; `when_done` is called once, in a later turn of the loop.

        Args:
            launch: as the scheduler decided. The `inputs` of its requests' payloads are only
                read, until `when_done`.
            when_done: given an error of whatever class if the launch failed.
        """
        done = functools.partial(self._finish, launch, when_done)
        self._in_flight += 1
        self._nothing_in_flight.clear()
        lane_id = launch.lane.lane_id
        runner, threads = self.runners[lane_id], self.threads[lane_id]
        try:
            batch = self._build(launch)
            pending = runner.start(batch) if self._is_short(launch) else None
        except Exception as error:  # such as out of memory: the lane must not stay busy forever
            asyncio.get_running_loop().call_soon(done, None, error)
            return
        if pending is None:
            threads.submit(done, runner.run, batch)
        else:
            until_ns = launch.launched_ns + launch.predicted_ns + OVERTIME_NS
            self._poller.add(pending, until_ns, threads, done)

    def interrupt(self, launch: Launch) -> bool:
        """Have a launch in flight fail soon; return whether its runner can do so at all."""
        return self.runners[launch.lane.lane_id].interrupt()

    def _is_short(self, launch: Launch) -> bool:
        """Whether such a launch is short when nothing holds it up.

        What is predicted for it does not tell alone: what holds launches up is threads that
        wait for each other, and more launches on threads would make more of that.
        """
        if not launch.predicted_ns:
            return False
        if launch.predicted_ns <= POLL_NS:
            return True
        return (launch.lane.lane_id, launch.padded_rows, launch.bucket) in self._known_short

    async def wait_for_all(self) -> None:
        await self._nothing_in_flight.wait()

    async def close(self) -> bool:
        """Release the runners and their threads.

        Returns:
            Whether all is released. False if a launch is still in flight: the threads go on
            until it returns, and the runners are left to the end of the process.
        """
        is_free = not self._in_flight
        for runner, threads in zip(self.runners, self.threads, strict=True):
            try:
                if is_free:
                    await threads.call(runner.close)
            except Exception:
                _log.exception("runner cannot be closed", model=self._spec.name)
            threads.stop()
        return is_free

    def _finish(
        self,
        launch: Launch,
        when_done: WhenLaunched,
        outputs: Outputs | None,
        error: BaseException | None,
    ) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._nothing_in_flight.set()
        now_ns = self._clock.now_ns()
        if error is None and now_ns - launch.launched_ns <= POLL_NS:
            self._known_short.add((launch.lane.lane_id, launch.padded_rows, launch.bucket))
        when_done(launch, now_ns, outputs, error)

    def _build(self, launch: Launch) -> Batch:
        pieces: dict[str, list[Piece]] = {}
        rowwise = self._spec.rowwise
        for tensor in self._spec.inputs:
            name = tensor.name
            if name not in rowwise:
                pieces[name] = [launch.parts[0][0].payload.inputs[name]]
                continue
            own = pieces[name] = []
            for request, first, rows in launch.parts:
                piece = request.payload.inputs[name]
                own.append(piece if rows == request.route.rows else piece[first : first + rows])
        if self._spec.padding is None:
            return Batch(pieces, launch.rows, launch.padded_rows)
        return Batch(pieces, launch.rows, launch.padded_rows, self._item_shapes(launch, pieces))

    def _item_shapes(
        self, launch: Launch, pieces: Mapping[str, list[Piece]]
    ) -> Mapping[str, Shape]:
        """Get the shapes to execute of inputs whose rows may be shorter."""
        padding = self._spec.padding
        assert padding is not None
        return {
            name: padding.item_shape(name, pieces[name][0].shape[1:], launch.length)
            for name in padding.inputs
        }
