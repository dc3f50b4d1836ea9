"""Cost files hold all that decides, and say what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from helpers.measured import SCALAR_BUCKET, measured_model
from helpers.sim import model, profile
from lanewise.clock import NS_PER_MS
from lanewise.errors import ConfigError
from lanewise.scheduler.costs.file import HostCosts, load_costs, save_costs

REPOSITORY = Path(__file__).parents[4]
EXAMPLES = sorted((REPOSITORY / "examples" / "costs").glob("*.json"))


def all_of(measured):
    """Everything a cost file has to keep, as plain values."""
    costs = measured.costs
    return (
        dataclasses.replace(measured.spec, outputs=()),
        [(lane.lane_id, lane.profile, lane.depth, lane.row_counts) for lane in measured.lanes],
        {kind: (one.samples_ns, one.behind_samples_ns) for kind, one in costs.kinds()},
        list(costs.pairs()),
        costs.change_ns,
        costs.switch_ns,
        costs.ahead,
        measured.host,
        measured.source,
    )


def full_model():
    measured = measured_model(
        {(0, 1): (1.0, 1.5, 0.5), (1, 4): 2.0, (2, 128): 10.0},
        beside={(0, 1): 1.5, (2, 0): 1.0},
        change_ms={1: 0.25},
        switch_ms=1.3,
        depth=2,
        host=HostCosts(request_ns=100, launch_ns=200, late_ns=(3, 4), back_ns=(5,)),
    )
    measured.lanes[1].row_counts = (1, 4, 32)
    measured.costs.ahead = {2: 0.4}
    for took_ns in (5, 9, 7):
        measured.costs.record(2, 128, SCALAR_BUCKET, took_ns, waited_ns=100 * NS_PER_MS)
    measured.costs.record_beside(0, 2, 32, 1.25)
    measured.costs.record_beside(0, 2, 128, 1.75)
    return dataclasses.replace(measured, source="a test")


def test_costs_that_are_saved_and_loaded_are_the_same(tmp_path):
    path = tmp_path / "costs.json"

    save_costs(path, full_model())

    assert all_of(load_costs(path)) == all_of(full_model())


def test_a_model_with_items_survives_too(tmp_path):
    path = tmp_path / "costs.json"
    spec = model(profile(0, (1, 4, 8), [(1, 16, 64), (3, 3, 3)]))
    measured = measured_model({(0, 4): 1.0}, spec=spec)

    save_costs(path, measured)

    assert all_of(load_costs(path)) == all_of(measured)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_sound_and_tell_their_source(path):
    assert "measured on" in load_costs(path).source


def test_there_are_examples():
    assert EXAMPLES


def _change(path, steps, value):
    content = json.loads(path.read_text())
    place = content
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("steps", "value", "message"),
    [
        (["format"], "other", "format: is \"other\", but must be 'lanewise-costs'"),
        (["version"], 2, "version: is 2, but must be 1"),
        (["lane"], [], "lane: unknown key; did you mean 'lanes'?"),
        (["lanes"], [], "lanes: is [], but must have at least one entry"),
        (["lanes", 0, "profile"], 3, "lanes[0].profile: is 3, there are 3 profiles"),
        (["lanes", 1, "row_counts"], [4, 1, 32], "lanes[1].row_counts: must ascend"),
        (["lanes", 1, "row_counts"], [1, 4], "must be at least 1 and end with 32"),
        (["costs", "launches", 0, "samples_ns"], [], "must have at least one entry"),
        (["costs", "launches", 0, "samples_ns"], [-1], "samples_ns[0]: is -1"),
        (["costs", "launches", 0, "profile"], 7, "costs.launches[0].profile: is 7"),
        (["costs", "beside", 0, "slowdown"], 0.5, "costs.beside[0].slowdown: is 0.5"),
        (["model", "rowwise"], ["Z"], "model.rowwise: 'Z' is no input"),
        (["model", "profiles", 0, "ranges"], {}, "ranges: has none, the model 'X'"),
        (["model", "profiles", 1, "rows", "opt"], 64, "rows: must be min <= opt <= max"),
        (["model", "inputs", 0, "dtype"], "FP99", 'model.inputs[0].dtype: is "FP99"'),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_with_the_key(tmp_path, steps, value, message):
    path = tmp_path / "costs.json"
    save_costs(path, full_model())
    _change(path, steps, value)

    with pytest.raises(ConfigError) as caught:
        load_costs(path)

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "costs.json"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="is not valid JSON"):
        load_costs(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_costs(tmp_path / "costs.json")
