"""Costs are kept between starts, for the model they were measured on and no other."""

from __future__ import annotations

import dataclasses

import pytest
from structlog.testing import capture_logs

from helpers.measured import measured_model
from helpers.sim import mission_model, model, profile
from lanewise.clock import NS_PER_MS
from lanewise.errors import ConfigError
from lanewise.scheduler.costs.folder import CostFolder
from lanewise.scheduler.costs.table import Kind

FILE = "m-1.json"


def known():
    return measured_model({(0, 1): 1.0, (1, 4): 2.0}, beside={(0, 1): 1.5})


def of(spec):
    """The model as it is before anything was measured."""
    return measured_model({}, spec=spec)


@pytest.fixture
def folder(tmp_path):
    saved = CostFolder(tmp_path / "costs")
    saved.save(known())
    return saved


def load(folder, wanted):
    """Load; get the costs and what was logged, as (event, reason)."""
    with capture_logs() as logs:
        costs = folder.load(wanted)
    return costs, [(line["event"], line.get("reason")) for line in logs]


def test_costs_come_back_for_the_same_model(folder):
    costs, logged = load(folder, of(mission_model()))

    assert {kind: estimate.typical_ns for kind, estimate in costs.kinds()} == {
        Kind(0, 1, 0): NS_PER_MS,
        Kind(1, 4, 0): 2 * NS_PER_MS,
    }
    assert list(costs.pairs()) == [(0, 1, 1, 1.5)]
    assert logged == [("costs loaded", None)]


def test_a_queue_delay_is_no_reason_to_measure_again(folder):
    spec = mission_model()
    profiles = tuple(dataclasses.replace(each, max_queue_delay_ns=7) for each in spec.profiles)

    costs, _ = load(folder, of(dataclasses.replace(spec, profiles=profiles)))

    assert costs is not None


@pytest.mark.parametrize(
    ("wanted", "difference"),
    [
        (of(dataclasses.replace(mission_model(), backend="other")), "backend"),
        (of(model(profile(0, (1, 2, 4)), profile(1, (1, 4, 32)))), "profiles"),
        (measured_model({}, depth=2), "lanes"),
    ],
)
def test_costs_of_something_else_are_passed_over_and_the_log_tells_why(folder, wanted, difference):
    assert load(folder, wanted) == (
        None,
        [("costs are measured anew", f"they are of a model with other {difference}")],
    )


def test_a_file_that_cannot_be_read_is_passed_over_and_the_log_tells_why(folder, tmp_path):
    (tmp_path / "costs" / FILE).write_text("{")

    costs, ((event, reason),) = load(folder, known())

    assert (costs, event) == (None, "costs are measured anew")
    assert "is not valid JSON" in reason


def test_without_a_file_there_is_nothing_to_tell(tmp_path):
    assert load(CostFolder(tmp_path), known()) == (None, [])


def test_nothing_but_whole_files_is_left_in_the_folder(folder, tmp_path):
    folder.save(known())

    assert [file.name for file in (tmp_path / "costs").iterdir()] == [FILE]


def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_setting(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=f"--costs {tmp_path}/file: .* cannot be written"):
        CostFolder(tmp_path / "file").save(known())
