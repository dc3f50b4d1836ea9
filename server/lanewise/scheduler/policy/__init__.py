"""The policies that can be chosen, by name.

Each is made from the cost table that is kept while it decides. All but the first are the
published rules of other programs, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.policy.cost_aware import CostAwarePolicy
from lanewise.scheduler.policy.interface import Policy
from lanewise.simulator.rivals.first_fit import FirstFitPolicy
from lanewise.simulator.rivals.one_context import OneContextPolicy
from lanewise.simulator.rivals.tf_serving import TfServingPolicy
from lanewise.simulator.rivals.triton import TritonPolicy

DEFAULT_POLICY = "cost-aware"

POLICIES: Mapping[str, Callable[[CostTable], Policy]] = {
    DEFAULT_POLICY: CostAwarePolicy,
    "first-fit": lambda _costs: FirstFitPolicy(),
    "one-context": lambda _costs: OneContextPolicy(),
    "triton": lambda _costs: TritonPolicy(),
    "triton-as-coded": lambda _costs: TritonPolicy(as_coded=True),
    "tf-serving": lambda _costs: TfServingPolicy(),
}
