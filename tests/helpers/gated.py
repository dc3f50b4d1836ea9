"""A runner that a test holds and lets go: every batch waits until it is told how to end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping

import numpy as np

from lanewise.engine.runner import Batch, LoadedModel
from lanewise.models import ModelSpec, Profile
from lanewise.runner_status import RunnerMemory
from lanewise.tensors import Array, Shape


class GatedRunner:
    """Gives its input back as output, after `release` or `fail` was called for the batch."""

    def __init__(self, profile: Profile, depth: int = 1) -> None:
        self.profile = profile
        self.depth = depth
        self.row_counts: tuple[int, ...] = ()
        self.batches: list[Batch] = []
        self.started: queue.Queue[Batch] = queue.Queue()
        self.is_closed = False
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

    def run(self, batch: Batch) -> dict[str, Array]:
        self.threads.add(threading.get_ident())
        self.batches.append(batch)
        self.started.put(batch)
        outcome = self._outcomes.get(timeout=30)
        if outcome is not None:
            raise outcome
        return self.outputs(batch)

    def outputs(self, batch: Batch) -> dict[str, Array]:
        x = np.concatenate(list(batch.pieces["X"]))
        padding = np.zeros((batch.padded_rows - batch.rows, *x.shape[1:]), x.dtype)
        return {"Y": np.concatenate([x, padding])}

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
