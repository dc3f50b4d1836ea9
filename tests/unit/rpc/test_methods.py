from __future__ import annotations

import pytest

from lanewise.rpc.aio import NEAR_MISS_BYTES, server_options
from lanewise.rpc.methods import methods_of
from lanewise.rpc.services import LANE_SERVICE


async def answer(request, call):
    raise NotImplementedError


def test_a_method_the_service_does_not_have_is_refused_at_start():
    with pytest.raises(ValueError, match=r"LaneService has no methods \['ListLane'\]"):
        list(methods_of(LANE_SERVICE, {"ListLane": answer}, 1024))


@pytest.mark.parametrize(
    ("limit", "core_limit"), [(64 << 20, (64 << 20) + NEAR_MISS_BYTES), (2**31, 2**31 - 1)]
)
def test_the_core_lets_through_near_misses_alone(limit, core_limit):
    assert dict(server_options(limit))["grpc.max_receive_message_length"] == core_limit
