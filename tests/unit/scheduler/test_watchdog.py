from __future__ import annotations

import pytest

from helpers.sim import model, profile
from lanewise.clock import NS_PER_S
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.request import Launch, LaunchReason, Request
from lanewise.scheduler.routing import Router
from lanewise.scheduler.watchdog import HANGS_AFTER_NS, PATIENCE_NS, Watchdog

SPEC = model(profile(0, (1, 8, 8)))


@pytest.fixture
def lane():
    return Lane(LaneId(0), SPEC.profiles[0])


def launch_on(lane, *deadlines_ns):
    """A launch that begins at 0, with a request for each deadline."""
    route = Router(SPEC).route({"X": (1,)}, None)
    parts = [(Request(route, None, deadline), 0, 1) for deadline in deadlines_ns]
    launch = Launch(lane, parts, LaunchReason.IDLE)
    lane.in_flight.append(launch)
    return launch


def look(watchdog, lane, now_ns, gone=()):
    return watchdog.look([lane], lambda request: request not in gone, now_ns)


@pytest.mark.parametrize(
    ("deadlines_ns", "gone", "is_abandoned"),
    [
        ((None, None), (), False),
        ((None, None), (0,), False),
        ((None, None), (0, 1), True),
        ((1, None), (), False),
        ((1, None), (1,), True),
        ((1, 1), (), True),
        ((1, 10 * NS_PER_S), (), False),
    ],
)
def test_a_launch_is_abandoned_when_each_caller_has_gone_or_is_late(
    lane, deadlines_ns, gone, is_abandoned
):
    launch = launch_on(lane, *deadlines_ns)

    found = look(Watchdog(), lane, PATIENCE_NS, {launch.parts[i][0] for i in gone})

    assert found.abandoned == [launch] * is_abandoned


def test_a_short_launch_is_left_to_end_by_itself(lane):
    launch_on(lane, 1)

    assert look(Watchdog(), lane, PATIENCE_NS - 1).abandoned == []


def test_an_abandoned_launch_that_goes_on_hangs_until_it_ends(lane):
    launch = launch_on(lane, 1)
    watchdog = Watchdog()

    found = look(watchdog, lane, PATIENCE_NS)
    assert (found.hanging, found.has_changed) == ([], False)
    assert not watchdog.hangs(lane)
    found = look(watchdog, lane, PATIENCE_NS + HANGS_AFTER_NS)
    assert (found.abandoned, found.hanging, found.has_changed) == ([launch], [launch], True)
    assert watchdog.hangs(lane)
    found = look(watchdog, lane, PATIENCE_NS + HANGS_AFTER_NS + 1)
    assert (found.abandoned, found.hanging, found.has_changed) == ([launch], [], False)

    lane.in_flight.clear()
    assert not watchdog.hangs(lane)
    assert look(watchdog, lane, PATIENCE_NS + HANGS_AFTER_NS + 2).has_changed
    assert not watchdog.ending
