"""TensorFlow Serving's batching: a queue for each shape, batches padded to allowed sizes.

SharedBatchScheduler in tensorflow/tensorflow,
`tensorflow/core/kernels/batching_util/shared_batch_scheduler.h`, with large batch splitting; the
sizes as `allowed_batch_sizes` of the batching guide of tensorflow/serving,
`tensorflow_serving/batching/README.md`: a batch is padded up to the next of them.

Requests of different shapes in one batch are an error there unless the model may pad them
(`pad_variable_length_inputs`), so each shape has a queue of its own here, as if each
were another servable.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from lanewise.scheduler.backlog import Backlog, QueueKey, StackQueue
from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import Launch, Part
from lanewise.simulator.rivals.arrival_order import ArrivalOrder, lanes_in_service, why

_arrival = operator.attrgetter("arrived_ns", "number")


class TfServingPolicy(ArrivalOrder):
    """Serves queues in turn, each when a batch is full or its oldest request has waited enough.

    A batch runs at the lowest allowed size, which is a number of rows that a lane executes, in a
    lane of that size. It stays open while there is none that is free, or no free thread.

    Args:
        batch_timeout_ns: how long the oldest request of a queue may be held; 0 launches
            whatever waits.
        num_batch_threads: batches in flight at a time.
        max_batch_rows: largest batch; 0 for the largest that a lane can run.
    """

    def __init__(
        self,
        *,
        batch_timeout_ns: int = 0,
        num_batch_threads: int = 1,
        max_batch_rows: int = 0,
    ) -> None:
        self._timeout_ns = batch_timeout_ns
        self._threads = num_batch_threads
        self._max_rows = max_batch_rows
        self._last_turns: dict[QueueKey, int] = {}
        self._turn = 0

    def choose(self, backlog: Backlog, now_ns: int) -> Launch | None:
        self.wakeup_ns = None
        if sum(len(lane.in_flight) for lane in backlog.lanes) >= self._threads:
            return None
        for key, queue in sorted(
            backlog.queues.items(), key=lambda entry: self._last_turns.get(entry[0], 0)
        ):
            lanes = lanes_in_service(backlog, queue.fits)
            room = max(lane.profile.rows.max for lane in lanes)
            room = min(room, self._max_rows or room)
            rows = min(queue.rows, room)
            lane = _lane_for(lanes, rows)
            if lane is None:
                continue
            due_ns = min(one.arrived_ns for one in queue.entries) + self._timeout_ns
            if rows == room or due_ns <= now_ns or backlog.draining:
                self._note_turn(key, backlog)
                return Launch(lane, _take(queue, rows), why(backlog, full=rows == room))
            self.wakeup_ns = due_ns if self.wakeup_ns is None else min(self.wakeup_ns, due_ns)
        return None

    def _note_turn(self, key: QueueKey, backlog: Backlog) -> None:
        self._turn += 1
        self._last_turns[key] = self._turn
        if len(self._last_turns) > 2 * len(backlog.queues) + 64:
            # Hostile traffic must not fill the memory with shapes.
            known = self._last_turns
            self._last_turns = {one: known[one] for one in backlog.queues if one in known}


def _lane_for(lanes: Sequence[Lane], rows: int) -> Lane | None:
    """Get a lane with room among those that execute the fewest rows for a batch of `rows`."""
    wide = [lane for lane in lanes if lane.profile.rows.max >= rows]
    size = min(lane.padded(rows) for lane in wide)
    return next((one for one in wide if one.padded(rows) == size and one.has_room), None)


def _take(queue: StackQueue, rows: int) -> list[Part]:
    """Take the oldest `rows` rows of a queue; the last request may be cut."""
    parts = []
    for waiting in sorted(queue.entries, key=_arrival):
        taken = min(rows, waiting.rows_left)
        parts.append((waiting, waiting.next_row, taken))
        rows -= taken
        if not rows:
            break
    return parts
