"""What the simulator says beforehand of a trace, from what another one has taught the lanes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.scheduler.figures import Figures, figures_of, median_of
from benchmarks.scheduler.replay import replay
from lanewise.scheduler.costs.file import HostCosts, MeasuredModel
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.simulator.simulation import MakePolicy, Options, simulate
from lanewise.simulator.traffic import Arrival

SIMULATIONS = 5
"""Of which the median is the prediction: each draws other times of launches from the known ones."""

KEPT_DELAYS = 256
"""Quantiles that stand for the delays of all requests."""


async def calibrate(
    model: MeasuredModel, dispatcher: Dispatcher, trace: Sequence[Arrival]
) -> MeasuredModel:
    """Serve a trace; get the model with the costs that the dispatcher has learnt by its end.

    Args:
        model: with the host costs of the dispatcher's policy.
        dispatcher: serves the trace.
        trace: not the one to be predicted.
    """
    served = await replay(dispatcher, trace)
    host = HostCosts(
        model.host.request_ns,
        model.host.launch_ns,
        late_ns=_some_of(served.lateness_ns),
        back_ns=_some_of(served.back_ns),
    )
    return dataclasses.replace(model, costs=copy.deepcopy(dispatcher.costs), host=host)


def predict(model: MeasuredModel, trace: Sequence[Arrival], make_policy: MakePolicy) -> Figures:
    """Tell what will come of a trace."""
    results = [
        simulate(model, trace, make_policy, Options(varied=True, seed=seed))
        for seed in range(SIMULATIONS)
    ]
    return median_of(
        [figures_of(result.outcomes, result.ended_ns - result.began_ns) for result in results]
    )


def _some_of(samples_ns: Sequence[int]) -> tuple[int, ...]:
    """Get KEPT_DELAYS values that are spread like all of them."""
    if not samples_ns:
        return ()
    shares = (np.arange(KEPT_DELAYS) + 0.5) / KEPT_DELAYS
    return tuple(int(value) for value in np.quantile(samples_ns, shares))
