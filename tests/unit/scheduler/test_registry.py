from __future__ import annotations

from dataclasses import dataclass

import pytest

from lanewise.errors import ModelFailed
from lanewise.scheduler.registry import ModelRegistry, ModelState, ServedModel


@dataclass
class FakeLanes:
    lost_profiles: tuple[str, ...] = ()
    hung_profiles: tuple[str, ...] = ()


READY = (ModelState.READY, FakeLanes())
LOST = (ModelState.READY, FakeLanes(("p0",)))
HUNG = (ModelState.READY, FakeLanes((), ("p0",)))
LOADING = (ModelState.LOADING, None)
FAILED = (ModelState.FAILED, None)


def registry_of(*versions, name="m", registry=None):
    registry = ModelRegistry() if registry is None else registry
    for number, (state, lanes) in enumerate(versions, 1):
        registry.add(ServedModel(name, str(number), state, "cut off", lanes))
    return registry


@pytest.mark.parametrize(
    ("versions", "served"),
    [
        ((READY, READY, READY), "3"),
        ((READY, READY, FAILED), "2"),
        ((READY, LOADING, FAILED), "1"),
        ((READY, LOST), "1"),
        ((READY, HUNG), "1"),
        ((LOST, FAILED), "1"),
        ((FAILED, LOADING, FAILED), "2"),
        ((FAILED, FAILED), "2"),
    ],
)
def test_the_highest_version_that_is_ready_is_served_by_default(versions, served):
    assert registry_of(*versions).resolve("m").version == served


def test_a_version_that_is_named_is_the_one_that_answers():
    with pytest.raises(ModelFailed, match="version 2 did not load: cut off"):
        registry_of(READY, FAILED).resolve("m", "2").require_ready()


@pytest.mark.parametrize(
    ("ready_when", "is_ready"),
    [
        ("all", False),
        ("any", True),
        ("sound", True),
        ("sound,other", True),
        ("sound,broken", False),
        ("sound,nowhere", False),
    ],
)
def test_an_operator_says_which_models_make_the_server_ready(ready_when, is_ready):
    registry = ModelRegistry(ready_when)
    for name, version in {"sound": READY, "other": READY, "broken": FAILED}.items():
        registry_of(version, name=name, registry=registry)

    assert registry.is_ready is is_ready
    assert registry.missing == (["nowhere"] if "nowhere" in ready_when else [])


def test_a_version_that_drains_goes_before_one_that_failed():
    registry = registry_of(READY, FAILED)
    registry.drain()

    assert registry.resolve("m").version == "1"


def test_a_broken_new_version_leaves_the_server_ready():
    assert registry_of(READY, FAILED).is_ready
    assert not registry_of(FAILED, FAILED).is_ready


def test_the_server_is_not_ready_before_every_version_was_tried():
    assert not registry_of(READY, LOADING).is_ready
