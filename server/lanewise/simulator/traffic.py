"""Requests as they arrive: what the simulator is fed with, from a trace or made up."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lanewise.clock import NS_PER_S
from lanewise.errors import ConfigError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Shape


class Arrival(NamedTuple):
    """One request of a trace, without its data.

    Attributes:
        at_ns: since the trace began.
        shapes: of every input, in the model's order, rows included.
        timeout_ns: from arrival to deadline; None for a request that can wait forever.
        target_ns: how long it should take if it has no deadline; None for the default.
        priority: 1 for the most important.
        pin: name or index of the only profile allowed; None for any.
        kind: what it is reported under; "" to group it by its rows and priority.
    """

    at_ns: int
    shapes: tuple[Shape, ...]
    timeout_ns: int | None = None
    target_ns: int | None = None
    priority: int = 1
    pin: str | int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class RequestKind:
    """Requests of one kind in a mix.

    Attributes:
        rows: least, most frequent and most; in between they grow rarer in a straight line.
        rate: requests a second, on average.
        items: equally likely shapes of all inputs, without rows where those are counted;
            empty for the ones the model's first profile is tuned for.
    """

    name: str
    rows: tuple[int, int, int]
    rate: float
    timeout_ns: int | None = None
    target_ns: int | None = None
    priority: int = 1
    pin: str | int | None = None
    items: tuple[tuple[Shape, ...], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no request can be like."""
        least, mode, most = self.rows
        if not 1 <= least <= mode <= most:
            raise ConfigError(f"mix '{self.name}': rows must be 1 <= least <= frequent <= most")
        if not 0 < self.rate < float("inf"):
            raise ConfigError(f"mix '{self.name}': rate is {self.rate:g}, but must be above 0")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests drawn from a mix: a Poisson process, or bursts of one.

    The same seed always gives the same requests, however often they are iterated over.

    Args:
        duration_s: requests arrive from 0 until then.
        burst: how many times the mean rate there is while requests come; between the bursts
            there are none. 1 for a steady stream.
        burst_s: how long a burst lasts on average. Bursts and the gaps between them are
            exponentially distributed, and all kinds share them.
    """

    spec: ModelSpec
    mix: Sequence[RequestKind]
    duration_s: float
    seed: int = 0
    burst: float = 1.0
    burst_s: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        if not self.mix:
            raise ConfigError("the mix is empty; at least one kind of request is needed")
        if self.burst < 1:
            raise ConfigError(f"burst is {self.burst:g}, but must be 1 or more")

    def __iter__(self) -> Iterator[Arrival]:
        """Draw the requests in order of arrival."""
        draw = random.Random(self.seed)
        weights = list(itertools.accumulate(kind.rate for kind in self.mix))
        items = [items_of(kind, self.spec) for kind in self.mix]
        places = range(len(self.mix))
        for at_s in self._times(draw):
            (place,) = draw.choices(places, cum_weights=weights)
            kind = self.mix[place]
            rows = _draw_rows(kind.rows, draw)
            chosen = items[place][0] if len(items[place]) == 1 else draw.choice(items[place])
            yield Arrival(
                int(at_s * NS_PER_S),
                with_rows(chosen, rows, self.spec),
                kind.timeout_ns,
                kind.target_ns,
                kind.priority,
                kind.pin,
                kind.name,
            )

    def _times(self, draw: random.Random) -> Iterator[float]:
        """Draw the times of arrival, in seconds.

        Time runs only during bursts; `gaps_s` is what lay between those so far. So a burst
        may end between two requests without a bias.
        """
        rate = self.burst * sum(kind.rate for kind in self.mix)
        bursting_s = gaps_s = 0.0
        burst_end_s = float("inf")
        if self.burst > 1:
            burst_end_s = draw.expovariate(1 / self.burst_s)
        while True:
            bursting_s += draw.expovariate(rate)
            while bursting_s > burst_end_s:
                gaps_s += draw.expovariate(1 / (self.burst_s * (self.burst - 1)))
                burst_end_s += draw.expovariate(1 / self.burst_s)
            if bursting_s + gaps_s >= self.duration_s:
                return
            yield bursting_s + gaps_s


def _draw_rows(rows: tuple[int, int, int], draw: random.Random) -> int:
    least, mode, most = rows
    if least == most:
        return least
    # Half a row beyond either end, so that the ends are as likely as their neighbours are.
    drawn = round(draw.triangular(least - 0.5, most + 0.5, mode))
    return min(max(drawn, least), most)


def with_rows(items: tuple[Shape, ...], rows: int, spec: ModelSpec) -> tuple[Shape, ...]:
    """Get the shapes of all inputs in a request of so many rows."""
    return tuple(
        (rows, *item) if tensor.name in spec.rowwise else item
        for item, tensor in zip(items, spec.inputs, strict=True)
    )


def items_of(kind: RequestKind, spec: ModelSpec) -> tuple[tuple[Shape, ...], ...]:
    """Get the shapes to draw from, by input, without rows where those are counted."""
    if kind.items:
        return kind.items
    ranges = spec.profiles[0].ranges
    opt = [
        ranges[tensor.name].opt[tensor.name in spec.rowwise :]  # without dimension 0 if True
        for tensor in spec.inputs
    ]
    return (tuple(opt),)
