"""Lanes that share scratch memory."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime
import pytest

from helpers.models import InstantClock
from helpers.serving import DIGITS
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.settings.model import read_model_settings

RELATIVE_TOLERANCE = 5e-3  # convolutions may run in TF32; see test_digits.py
ROUNDS = 300

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def load():
    """Load the digits with groups that share scratch memory; runners by profile name."""
    made = []

    def load_digits(*groups):
        (source,) = find_models(DIGITS)
        settings = read_model_settings(source.settings_file)
        tensorrt = settings.tensorrt.model_copy(update={"shared_scratch": groups})
        settings = settings.model_copy(update={"backend": "tensorrt-rtx", "tensorrt": tensorrt})
        runners = load_model(source, settings, clock=InstantClock()).runners
        made.extend(runners)
        return {runner.profile.name: runner for runner in runners}

    yield load_digits
    for runner in made:
        runner.close()


def scratch_bytes(runners):
    return {name: runner.memory().scratch_bytes for name, runner in runners.items()}


def test_a_group_holds_the_most_that_one_of_it_needs_counted_on_the_first(load):
    own = scratch_bytes(load())
    shared = scratch_bytes(load(("offline", "dynamic")))
    assert shared == {
        "online": own["online"],
        "dynamic": max(own["dynamic"], own["offline"]),
        "offline": 0,
    }


def test_closing_one_of_a_group_leaves_the_memory_to_the_others(load):
    runners = load(("offline", "dynamic"))
    x = np.ones((128, 3, 28, 28), np.float32)
    before = runners["offline"].run(Batch({"X": [x]}, 128, 128))["logits"]
    runners["dynamic"].close()
    after = runners["offline"].run(Batch({"X": [x]}, 128, 128))["logits"]
    np.testing.assert_array_equal(after, before)


def test_lanes_that_share_scratch_memory_give_right_numbers_beside_each_other(load):
    runners = load(("offline", "dynamic"))
    session = onnxruntime.InferenceSession(
        DIGITS / "digits" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for runner in runners.values():
        runner.warm_up()
    wrong = []
    start = threading.Barrier(2, timeout=60)

    def work(name, rows):
        x = np.random.default_rng(rows).random((rows, 3, 28, 28), np.float32)
        (expected,) = session.run(None, {"X": x})
        tolerance = RELATIVE_TOLERANCE * np.abs(expected).max()
        start.wait()
        for _ in range(ROUNDS):
            got = runners[name].run(Batch({"X": [x]}, rows, rows))["logits"]
            if not np.allclose(got, expected, rtol=0, atol=tolerance):
                wrong.append((name, np.abs(got - expected).max()))

    launches = {name: runner.graph_counts().launches for name, runner in runners.items()}
    threads = [
        threading.Thread(target=work, args=arguments)
        for arguments in (("dynamic", 32), ("offline", 128))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    for name in ("dynamic", "offline"):
        assert runners[name].graph_counts().launches == launches[name] + ROUNDS
