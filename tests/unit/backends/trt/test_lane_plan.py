from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sim import mission_model
from lanewise.backends.runner import PlanReport, ProfileNeeds
from lanewise.backends.trt.lane_plan import plan_lanes
from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings, TensorRTSettings

FILE = Path("model.toml")
REPORT = PlanReport(
    builder="",
    precision=frozenset(),
    profiles=tuple(ProfileNeeds(*needs, values={}) for needs in ((1, 10), (2, 20), (4, 40))),
)


def plan(**settings):
    return plan_lanes(mission_model(), ModelSettings(tensorrt=TensorRTSettings(**settings)), FILE)


def test_every_profile_has_a_runner_and_scratch_memory_of_its_own():
    lanes = plan()
    assert lanes.runners == {"online": 1, "dynamic": 1, "offline": 1}
    assert lanes.device_bytes(REPORT) == {"online": 11, "dynamic": 22, "offline": 44}


def test_every_runner_needs_memory():
    assert plan(runners={"dynamic": 3}).device_bytes(REPORT)["dynamic"] == 66


def test_a_group_needs_the_scratch_memory_of_its_neediest_profile_once():
    lanes = plan(runners={"dynamic": 3}, shared_scratch=(("offline", "dynamic"),))
    assert lanes.shared_scratch_bytes(REPORT) == {("offline", "dynamic"): 40}
    assert lanes.device_bytes(REPORT) == {
        "online": 11,
        "dynamic": 6,
        "offline": 4,
        "shared by offline, dynamic:": 40,
    }


def test_every_profile_that_does_not_exist_is_named():
    with pytest.raises(ConfigError) as raised:
        plan(runners={"of line": 2}, shared_scratch=(("offline", "night"),))
    assert str(raised.value) == (
        "model.toml: 2 problems\n"
        "  tensorrt.runners.\"of line\": there is no profile 'of line'; "
        "there are online, dynamic, offline\n"
        "  tensorrt.shared_scratch[0]: there is no profile 'night'; "
        "there are online, dynamic, offline"
    )
