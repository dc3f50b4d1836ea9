"""A runner that a test holds and lets go: every batch waits until it is told how to end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping

import numpy as np

from lanewise.backends.runner import Batch, LoadedModel
from lanewise.model.runner_status import RunnerMemory
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Array, Shape


class GatedBatch:
    """A started batch: done when the test has called `release` or `fail` for it."""

    def __init__(self, runner: GatedRunner, batch: Batch) -> None:
        self._runner = runner
        self._batch = batch

    def is_done(self) -> bool:
        self._runner.polls += 1
        return self._runner.has_outcome

    def result(self) -> dict[str, Array]:
        return self._runner.end(self._batch)


class GatedRunner:
    """Gives its input back as output, after `release` or `fail` was called for the batch.

    Attributes:
        can_start: whether `start` begins batches.
        start_error: what `start` raises, if anything.
        polls: how often a started batch was asked whether it is done.
        threads: those that `run`, or the `result` of a started batch, was called on.
    """

    def __init__(self, profile: Profile, depth: int = 1) -> None:
        self.profile = profile
        self.depth = depth
        self.row_counts: tuple[int, ...] = ()
        self.batches: list[Batch] = []
        self.started: queue.Queue[Batch] = queue.Queue()
        self.is_closed = False
        self.can_start = False
        self.start_error: BaseException | None = None
        self.polls = 0
        self.threads: set[int] = set()
        self._outcomes: queue.Queue[BaseException | None] = queue.Queue()

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._outcomes.put(None)

    def fail(self, error: BaseException) -> None:
        self._outcomes.put(error)

    def warm_up(self) -> None:
        self.threads.add(threading.get_ident())

    def is_warm(self, shapes: Mapping[str, Shape]) -> bool:
        return True

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        pass

    @property
    def has_outcome(self) -> bool:
        return not self._outcomes.empty()

    def start(self, batch: Batch) -> GatedBatch | None:
        if self.start_error is not None:
            raise self.start_error
        if not self.can_start:
            return None
        self._note(batch)
        return GatedBatch(self, batch)

    def run(self, batch: Batch) -> dict[str, Array]:
        self._note(batch)
        return self.end(batch)

    def _note(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.started.put(batch)

    def end(self, batch: Batch) -> dict[str, Array]:
        self.threads.add(threading.get_ident())
        outcome = self._outcomes.get(timeout=30)
        if outcome is not None:
            raise outcome
        return self.outputs(batch)

    def outputs(self, batch: Batch) -> dict[str, Array]:
        x = np.concatenate(list(batch.pieces["X"]))
        padding = np.zeros((batch.padded_rows - batch.rows, *x.shape[1:]), x.dtype)
        return {"Y": np.concatenate([x, padding])}

    def interrupt(self) -> bool:
        return False

    def memory(self) -> RunnerMemory:
        return RunnerMemory(pageable_bytes=64)

    def graph_counts(self) -> None:
        return None

    def close(self) -> None:
        self.is_closed = True


def gated_model(spec: ModelSpec, depth: int = 1) -> tuple[LoadedModel, Mapping[str, GatedRunner]]:
    """A model with one gated runner per profile, and the runners by profile name."""
    runners = {profile.name: GatedRunner(profile, depth) for profile in spec.profiles}
    return LoadedModel(spec, tuple(runners.values())), runners
