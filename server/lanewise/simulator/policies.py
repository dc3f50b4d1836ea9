"""Every policy that the simulator compares, by name."""

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
"""The policy of this server; the others are the rivals."""

POLICIES: Mapping[str, Callable[[CostTable], Policy]] = {
    DEFAULT_POLICY: CostAwarePolicy,
    "first-fit": lambda _costs: FirstFitPolicy(),
    "one-context": lambda _costs: OneContextPolicy(),
    "triton": lambda _costs: TritonPolicy(),
    "triton-as-coded": lambda _costs: TritonPolicy(as_coded=True),
    "tf-serving": lambda _costs: TfServingPolicy(),
}
"""By name; each is made from the cost table that is kept while it decides."""
