"""Pictures are drawn if matplotlib is there, and asked for by name if not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from helpers.measured import measured_model
from lanewise.errors import ConfigError
from lanewise.simulator.plot import draw, occupancy, require_plots
from lanewise.simulator.rivals.first_fit import FirstFitPolicy
from lanewise.simulator.simulation import simulate
from lanewise.simulator.traffic import Arrival


@pytest.fixture(scope="module")
def results():
    model = measured_model({(0, 1): 1.0, (1, 4): 2.0})
    traffic = [Arrival(i * 500_000, ((1 + 3 * (i % 2),),)) for i in range(20)]
    result = simulate(model, traffic, lambda _: FirstFitPolicy())
    return {"one policy": result, "another one": result}


def test_occupancy_is_the_busy_share_of_each_span():
    shares = occupancy([10, 20, 25, 40], np.array([0.0, 10, 20, 30, 40, 50]))

    assert shares.tolist() == [0.0, 1.0, 0.5, 1.0, 0.0]


def test_a_lane_that_never_ran_was_never_busy():
    assert occupancy([], np.array([0.0, 1, 2])).tolist() == [0.0, 0.0]


def test_a_picture_names_policies_kinds_and_lanes(results, tmp_path):
    pytest.importorskip("matplotlib", reason="needs lanewise[plots]")
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        draw(results, tmp_path / "x.svg")

    text = (tmp_path / "x.svg").read_text()
    for name in ("one policy", "another one", "1 row", "3-4 rows", "0 online", "1 dynamic"):
        assert name in text


def test_the_same_results_give_the_same_file(results, tmp_path):
    pytest.importorskip("matplotlib", reason="needs lanewise[plots]")

    draw(results, tmp_path / "x.svg")
    draw(results, tmp_path / "y.svg")

    assert (tmp_path / "x.svg").read_bytes() == (tmp_path / "y.svg").read_bytes()
    assert "<dc:date>" not in (tmp_path / "x.svg").read_text()


def test_nothing_that_happened_is_drawn_too(tmp_path):
    pytest.importorskip("matplotlib", reason="needs lanewise[plots]")
    nothing = simulate(measured_model({(0, 1): 1.0}), [], lambda _: FirstFitPolicy())

    draw({"one": nothing}, tmp_path / "x.png")

    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["x.docx", "missing/x.svg"])
def test_a_picture_that_cannot_be_written_is_refused(results, tmp_path, name):
    pytest.importorskip("matplotlib", reason="needs lanewise[plots]")

    with pytest.raises(ConfigError, match="cannot be drawn"):
        draw(results, tmp_path / name)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(ConfigError, match=r"pip install 'lanewise\[plots\]'"):
        require_plots()
