"""The policies that are compared, and what is tried to tune those that have parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from lanewise.simulator.policies import DEFAULT_POLICY, POLICIES
from lanewise.simulator.rivals.tf_serving import TfServingPolicy
from lanewise.simulator.rivals.triton import TritonPolicy
from lanewise.simulator.simulation import MakePolicy

OURS = DEFAULT_POLICY

Settings = tuple[str, MakePolicy]
"""How a policy is configured, in words, and made."""

DELAYS_MS = (0.0, 0.5, 2.0, 5.0)
PREFERRED_ROWS = ((), (32,), (8, 32), (4, 8, 16, 32, 128))
TIMEOUTS_MS = (0.0, 0.5, 2.0, 5.0, 10.0)
THREADS = (1, 2, 3)
MAX_BATCH_ROWS = (32, 128)


def contenders(*, short: bool = False) -> Mapping[str, Sequence[Settings]]:
    """Get every policy by name, with the settings of which the best is taken in each scenario.

    Args:
        short: try every other value of each parameter.
    """
    every = 2 if short else 1
    return {
        **{name: [("", POLICIES[name])] for name in (OURS, "first-fit", "one-context")},
        "triton": _triton(every, as_coded=False),
        "triton-as-coded": _triton(every, as_coded=True),
        "tf-serving": _tf_serving(every),
    }


def _triton(every: int, *, as_coded: bool) -> list[Settings]:
    settings: list[Settings] = []
    for delay_ms, preferred in itertools.product(DELAYS_MS[::every], PREFERRED_ROWS[::every]):
        label = f"delay {delay_ms:g} ms, preferred {', '.join(map(str, preferred)) or 'none'}"

        def make(
            _costs: object, delay_ms: float = delay_ms, rows: tuple[int, ...] = preferred
        ) -> TritonPolicy:
            delay_ns = round(delay_ms * 1e6)
            return TritonPolicy(max_queue_delay_ns=delay_ns, preferred_rows=rows, as_coded=as_coded)

        settings.append((label, make))
    return settings


def _tf_serving(every: int) -> list[Settings]:
    settings: list[Settings] = []
    for timeout_ms, threads, rows in itertools.product(
        TIMEOUTS_MS[::every], THREADS[::every], MAX_BATCH_ROWS
    ):
        label = f"timeout {timeout_ms:g} ms, threads {threads}, batch {rows}"

        def make(
            _costs: object,
            timeout_ms: float = timeout_ms,
            threads: int = threads,
            rows: int = rows,
        ) -> TfServingPolicy:
            timeout_ns = round(timeout_ms * 1e6)
            return TfServingPolicy(
                batch_timeout_ns=timeout_ns, num_batch_threads=threads, max_batch_rows=rows
            )

        settings.append((label, make))
    return settings
