"""Requests of different lengths that share launches, on ONNX Runtime: to the last bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.gpu_models import served_on_lanes
from helpers.models import contents
from helpers.padded import FEATURES, PADDING, expected_outputs, make_request, save_padded
from lanewise.backends.repository import find_models, load_model
from lanewise.clock import SystemClock
from lanewise.errors import ExecutionFailed, NoProfileAdmits, ShapeMismatch
from lanewise.scheduler.routing import Router
from lanewise.settings.model import read_model_settings


@pytest.fixture(scope="module")
def submit_all(tmp_path_factory):
    with served_on_lanes(save_padded(tmp_path_factory.mktemp("padded"))) as submit_all:
        yield submit_all


def all_contents(outputs):
    return {name: contents(array) for name, array in outputs.items()}


shapes = st.tuples(st.integers(1, 40), st.integers(1, 64))


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=12))
def test_every_request_gets_its_own_rows_and_its_own_length_back(submit_all, shapes):
    requests = [make_request(*shape, seed=i) for i, shape in enumerate(shapes)]

    results = submit_all(*requests)

    for inputs, result in zip(requests, results, strict=True):
        assert all_contents(result.outputs) == all_contents(expected_outputs(inputs))


def test_requests_of_different_lengths_share_a_launch(submit_all):
    lengths = [3, 5, 9, 20, 31, 33, 50, 64] * 2

    results = submit_all(*(make_request(1, length) for length in lengths))

    launches = [launch for result in results for launch in result.launches]
    shared = [launch for launch in launches if launch.batch_rows > 1]
    assert len(shared) >= 4, "only what finds an idle device has to leave alone"
    for length, launch in zip(lengths, launches, strict=True):
        assert launch.padded_length in launch.profile.lengths
        assert launch.padded_length >= length


def test_a_request_that_is_split_is_cut_back_before_it_is_joined(submit_all):
    inputs = make_request(40, 9)

    (result,) = submit_all(inputs)

    assert len(result.launches) > 1
    assert all_contents(result.outputs) == all_contents(expected_outputs(inputs))


def test_each_profile_pads_a_request_to_the_next_length_it_executes(tmp_path):
    (source,) = find_models(save_padded(tmp_path))
    loaded = load_model(source, read_model_settings(source.settings_file), clock=SystemClock())
    router = Router(loaded.spec)

    def lengths(length):
        inputs = make_request(1, length)
        route = router.route({name: array.shape for name, array in inputs.items()})
        return route.fits, route.lengths, route.shapes

    assert [profile.lengths for profile in loaded.spec.profiles] == [(1, 2, 4, 8, 16), (16, 32, 64)]
    assert lengths(2) == ((0, 1), (2, 16), ((2,), (2,), (2, FEATURES)))
    assert lengths(3) == ((0, 1), (4, 16), ((4,), (4,), (4, FEATURES)))
    assert lengths(17) == ((1,), (0, 32), ((32,), (32,), (32, FEATURES)))


def test_inputs_that_disagree_on_the_length_are_refused(submit_all):
    inputs = make_request(1, 5) | {"mask": make_request(1, 6)["mask"]}

    with pytest.raises(ShapeMismatch) as raised:
        submit_all(inputs)

    assert str(raised.value) == (
        "model 'padded': the inputs disagree on tokens: 'ids' has 5 (dimension 1), 'mask' has 6 "
        "(dimension 1), 'X' has 5 (dimension 1); send the same in each"
    )


@pytest.mark.parametrize("length", [0, 65])
def test_a_length_that_no_launch_has_is_refused_with_what_is_admitted(submit_all, length):
    with pytest.raises(NoProfileAdmits, match=f"of 'ids' is {length}, admitted are 1 to 64"):
        submit_all(make_request(1, length))


def refusal(file):
    with pytest.raises(ExecutionFailed) as raised, served_on_lanes(file):
        pass
    return str(raised.value)


def test_a_model_with_an_output_that_would_come_back_padded_does_not_serve(tmp_path):
    file = save_padded(tmp_path, PADDING.replace("running = 1, echo = 1", "running = 1"))

    assert refusal(file) == (
        "model 'padded': output 'echo' is [1, 1, 2] or [1, 16, 2], depending on tokens; say in "
        "padding.outputs which dimension is to be cut back"
    )


def test_a_model_with_an_output_that_cannot_be_cut_back_does_not_serve(tmp_path):
    assert refusal(save_padded(tmp_path, doubled=True)) == (
        "model 'padded': output 'echo' came back as [1, 2, 2] for 1 tokens, so it cannot be cut "
        "back in dimension 1; leave it out of padding.outputs if it does not grow with them, or "
        "leave out [padding]"
    )
