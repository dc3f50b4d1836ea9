"""The shapes that a runner executes without compiling, and how others become so."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from lanewise.backends.inputs import blank_batch
from lanewise.backends.runner import Runner
from lanewise.errors import RunnerLost
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Shape

MAX_WARM_SHAPES = 4096
"""More than live traffic has. The shape that was asked for longest ago is forgotten; when it
comes again it is prepared again, from kernels in the runtime cache."""

_Item = tuple[Shape, ...]


class WarmShapes:
    """Remembers the warm shapes of one runner, and warms up others on a spare one.

    A shape is warm with every number of rows at once: dimension 0 of row-wise inputs does
    not count. What shape tensors hold does not, either: they are executed with the
    profile's opt values. Thread-safe.

    Args:
        spec: of the model.
        profile: of the runner.
        row_counts: the numbers of rows that the runner executes; (1,) without batching.
        make_spare: makes a runner that shares its compiled kernels with this one, but
            nothing that an execution uses. None if nothing is compiled when a shape is
            first executed: then all are warm.
        when_prepared: called after shapes were compiled.
    """

    def __init__(
        self,
        spec: ModelSpec,
        profile: Profile,
        row_counts: Sequence[int],
        make_spare: Callable[[], Runner] | None,
        when_prepared: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._values = {name: limits.opt for name, limits in profile.values.items()}
        self._row_counts = row_counts
        self._make_spare = make_spare
        self._when_prepared = when_prepared
        self._warm: OrderedDict[_Item, None] = OrderedDict()  # the latest asked for at the end
        self._lock = threading.Lock()
        self._preparing = threading.Lock()  # one spare at a time: it takes as much memory
        self._is_stopped = False

    def covers(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether `shapes`, of every input, execute without compiling. Does not block."""
        if self._make_spare is None:
            return True
        item = self._item(shapes)
        with self._lock:
            if item not in self._warm:
                return False
            self._warm.move_to_end(item)
            return True

    def add(self, shapes: Mapping[str, Shape]) -> None:
        """Remember that `shapes` have been executed with every number of rows."""
        item = self._item(shapes)
        with self._lock:
            self._warm[item] = None
            self._warm.move_to_end(item)
            if len(self._warm) > MAX_WARM_SHAPES:
                self._warm.popitem(last=False)

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        """Execute `shapes` with every number of rows on a spare runner; blocks.

        The spare one lives as long as this call: its memory is that of a whole lane, and
        new shapes are rare. What it compiled is kept even if a later number of rows fails.

        Raises:
            RunnerLost: `stop` was called.
            Exception: what making or running the spare one raised.
        """
        with self._preparing:
            if self._make_spare is None or self.covers(shapes):
                return
            self._require_going()
            spare = self._make_spare()
            try:
                for rows in self._row_counts:
                    self._require_going()
                    spare.run(blank_batch(self._spec, shapes, rows, self._values))
            finally:
                spare.close()
            self._when_prepared()
            self.add(shapes)

    def stop(self) -> None:
        """Let `prepare` end before it executes another number of rows."""
        self._is_stopped = True

    def _require_going(self) -> None:
        if self._is_stopped:
            raise RunnerLost("the runner was closed while it prepared a shape")

    def _item(self, shapes: Mapping[str, Shape]) -> _Item:
        rowwise = self._spec.rowwise
        return tuple(
            shapes[t.name][1:] if t.name in rowwise else shapes[t.name] for t in self._spec.inputs
        )
