"""First in, first out, through one execution context that changes its profile.

What a program does that has one context for an engine of several profiles:
`set_optimization_profile_async` and `set_input_shape` before each `execute_async_v3`.
"""

from __future__ import annotations

from typing import ClassVar

from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.request import Launch
from lanewise.simulator.rivals.arrival_order import is_busy
from lanewise.simulator.rivals.first_fit import FirstFitPolicy


class OneContextPolicy(FirstFitPolicy):
    """The order and the profiles of FirstFitPolicy, one launch at a time on the whole device.

    Attributes:
        one_context: tells a simulator to charge a launch for the change of profile or shapes.
    """

    one_context: ClassVar[bool] = True

    def choose(self, backlog: Backlog, now_ns: int) -> Launch | None:
        return None if is_busy(backlog) else super().choose(backlog, now_ns)
