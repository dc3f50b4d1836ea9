"""When the requests of an open loop are due: a Poisson process, or bursts of one."""

from __future__ import annotations

import numpy as np

Times = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

BURST_S = 0.1
"""How long a burst lasts on average."""


def draw_arrivals(rate: float, duration_s: float, burst: float, seed: int) -> Times:
    """Draw when requests are due, in seconds from 0 up to `duration_s`, ascending.

    The same arguments always give the same times.

    Args:
        rate: requests a second, on average.
        duration_s: how long they come.
        burst: how many times the rate there is while requests come; between the bursts there
            are none. Bursts and the gaps between them are exponentially distributed. 1 for a
            steady stream.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    if burst <= 1:
        return _poisson(rate, duration_s, generator)
    bursts_s, gaps_s = _bursts(duration_s, burst, generator)
    ends_s = np.cumsum(bursts_s)
    # Time runs only during bursts at first, so that one may end between two requests without
    # a bias; then the gaps that lay before each request are put in.
    times = _poisson(rate * burst, float(ends_s[-1]), generator)
    gaps_before = np.concatenate(([0.0], np.cumsum(gaps_s)))
    times += gaps_before[np.searchsorted(ends_s, times, side="left")]
    return times[times < duration_s]


def _poisson(rate: float, duration_s: float, generator: np.random.Generator) -> Times:
    # Given their number, the times of a Poisson process are uniformly distributed.
    times: Times = generator.uniform(0.0, duration_s, generator.poisson(rate * duration_s))
    times.sort()
    return times


def _bursts(duration_s: float, burst: float, generator: np.random.Generator) -> tuple[Times, Times]:
    """Draw how long bursts and the gaps after them last, until they fill `duration_s`."""
    bursts: list[float] = []
    gaps: list[float] = []
    while sum(bursts) + sum(gaps) < duration_s:
        bursts.append(generator.exponential(BURST_S))
        gaps.append(generator.exponential(BURST_S * (burst - 1)))
    return np.array(bursts), np.array(gaps)
