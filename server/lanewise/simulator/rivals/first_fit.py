"""First in, first out, in the first profile that fits.

The rule of TensorFlow's TensorRT bridge (`trt_shape_optimization_profiles.cc`, GetProfileNumber:
the first profile that includes the shapes) and of ONNX Runtime's TensorRT execution provider, in
front of lanes that are ready to run at any time.
"""

from __future__ import annotations

from lanewise.scheduler.backlog import Backlog
from lanewise.scheduler.request import Launch
from lanewise.simulator.rivals.arrival_order import (
    ArrivalOrder,
    head_run,
    lane_with_room,
    lanes_in_service,
    profiles_for,
    take_in_order,
    why,
)


class FirstFitPolicy(ArrivalOrder):
    """The oldest request takes the first profile, by index, that admits its rows.

    Requests of the same shapes right behind it join until the profile is full. If the lanes
    of that profile are busy it waits, and so does whatever is behind it. Rows below every
    minimum are padded, a request larger than every profile is split.
    """

    def choose(self, backlog: Backlog, now_ns: int) -> Launch | None:
        head = next(iter(backlog))
        lanes = lanes_in_service(backlog, head.fits)
        profile = profiles_for(lanes, head.rows_left)[0]
        lane = lane_with_room(lanes, profile)
        if lane is None:
            return None
        parts = take_in_order(head_run(backlog), profile.rows.max)
        full = sum(rows for _, _, rows in parts) == profile.rows.max
        return Launch(lane, parts, why(backlog, full=full))
