"""What became of the requests of a simulation: counted as they end."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from lanewise.simulator.traffic import Arrival


@dataclass(slots=True)
class KindOutcome:
    """Requests of one kind.

    Attributes:
        met: completed by their deadline, or at all if they had none.
        late: completed after it.
        refused: turned away on arrival.
        expired: given up while they waited.
        latencies_ns: of those that completed, from arrival to end, in order of their ends.
    """

    requests: int = 0
    met: int = 0
    late: int = 0
    refused: int = 0
    expired: int = 0
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))


class _Open:
    __slots__ = ("arrived_ns", "deadline_ns", "outcome")

    def __init__(self, outcome: KindOutcome, arrived_ns: int, deadline_ns: int | None) -> None:
        self.outcome = outcome
        self.arrived_ns = arrived_ns
        self.deadline_ns = deadline_ns


class Outcomes:
    """Follows every request from its arrival to its end."""

    def __init__(self) -> None:
        # By the kind's name, and the priority unless the request names its kind itself.
        self._kinds: dict[tuple[str, int | None], KindOutcome] = {}
        self._open: dict[int, _Open] = {}

    @property
    def open_requests(self) -> int:
        return len(self._open)

    @property
    def kinds(self) -> dict[str, KindOutcome]:
        """What became of each kind, by its name, in order of first arrival.

        Kinds that requests do not name themselves tell the priority if there are several.
        """
        several = len({priority for _, priority in self._kinds if priority is not None}) > 1
        return {
            f"{name}, priority {priority}" if several and priority is not None else name: outcome
            for (name, priority), outcome in self._kinds.items()
        }

    def arrive(self, number: int, arrival: Arrival, rows: int) -> None:
        kind = (arrival.kind, None) if arrival.kind else (name_rows(rows), arrival.priority)
        outcome = self._kinds.get(kind)
        if outcome is None:
            outcome = self._kinds[kind] = KindOutcome()
        outcome.requests += 1
        timeout_ns = arrival.timeout_ns
        deadline_ns = None if timeout_ns is None else arrival.at_ns + timeout_ns
        self._open[number] = _Open(outcome, arrival.at_ns, deadline_ns)

    def complete(self, number: int, now_ns: int) -> None:
        request = self._open.pop(number)
        request.outcome.latencies_ns.append(now_ns - request.arrived_ns)
        if request.deadline_ns is None or now_ns <= request.deadline_ns:
            request.outcome.met += 1
        else:
            request.outcome.late += 1

    def refuse(self, number: int) -> None:
        self._open.pop(number).outcome.refused += 1

    def expire(self, number: int) -> None:
        self._open.pop(number).outcome.expired += 1


def name_rows(rows: int) -> str:
    """Name the kind of a request that does not tell: rows up to a power of two."""
    most = 1 << max(0, rows - 1).bit_length()
    least = most // 2 + 1
    if most == 1:
        return "1 row"
    return f"{most} rows" if least >= most else f"{least}-{most} rows"
