"""What model.toml may say that inputs hold when no request has sent any, and what comes of it."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from helpers.models import profile_entry, tensor
from lanewise.backends.host_runner import HostRunner
from lanewise.backends.inputs import blank_batch, trial_inputs
from lanewise.backends.profiles import plan_profiles
from lanewise.backends.runner import Batch, ModelSource
from lanewise.errors import ConfigError
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings, read_model_settings

AUDIO = tensor("audio", DType.FP32, (DYNAMIC, DYNAMIC))
RATE = tensor("sr", DType.INT64, ())
TEXT = tensor("text", DType.BYTES, (DYNAMIC, 2))
FLAG = tensor("flag", DType.BOOL, (DYNAMIC,))
HALF = tensor("half", DType.BF16, (DYNAMIC, 3))
INPUTS = (AUDIO, RATE, TEXT, FLAG, HALF)
OUT = tensor("Y", DType.FP32, (DYNAMIC, 4))
PROFILE = profile_entry(
    "only",
    audio=[(1, 1), (2, 4), (8, 8)],
    text=[(1, 2), (2, 2), (8, 2)],
    flag=[(1,), (2,), (8,)],
    half=[(1, 3), (2, 3), (8, 3)],
)


def make_spec(samples, folder):
    file = folder / "model.toml"
    file.write_text(f"[samples]\n{samples}\n{PROFILE}")
    plan = plan_profiles(INPUTS, (OUT,), read_model_settings(file), file)
    return plan.make_spec(ModelSource("m", "1", folder, file), "simulated", INPUTS, (OUT,))


def held(samples, folder, name, shape, rows=1):
    shapes = {"audio": (1, 4), "sr": (), "text": (1, 2), "flag": (1,), "half": (1, 3)}
    batch = blank_batch(make_spec(samples, folder), shapes | {name: shape}, rows)
    return batch.pieces[name][0]


@pytest.mark.parametrize(
    ("samples", "asked", "wanted"),
    [
        ("sr = 16000", ("sr", (), 1), 16000),
        ("audio = 0.5", ("audio", (1, 3), 2), [[0.5] * 3] * 2),
        ("audio = [1, 2, 3]", ("audio", (1, 5), 2), [[1, 2, 3, 1, 2]] * 2),
        ("audio = [[1, 2], [3, 4]]", ("audio", (1, 2), 3), [[1, 2], [3, 4], [1, 2]]),
        ('text = "1.5"', ("text", (1, 2), 1), [[b"1.5", b"1.5"]]),
        ('text = ["é", "2"]', ("text", (1, 2), 1), [["é".encode(), b"2"]]),
        ("flag = true", ("flag", (1,), 2), [True, True]),
        ("half = [1, 2, 4]", ("half", (1, 3), 1), [[1, 2, 4]]),
        ("sr = 1", ("audio", (1, 2), 1), [[0, 0]]),
        ("sr = { random = [7, 7] }", ("sr", (), 1), 7),
    ],
)
def test_an_input_holds_its_sample_in_whatever_shape_is_asked_for(tmp_path, samples, asked, wanted):
    assert held(samples, tmp_path, *asked).tolist() == wanted


@pytest.mark.parametrize(
    ("name", "array", "wanted"),
    [
        ("audio", np.float32([[1, 2, 3]]), [[1, 2]]),
        ("text", np.array([["a", "é"]]), [[b"a", "é".encode()]]),
        ("half", np.float32([1, 2, 4]), [[1, 2, 4]]),
    ],
)
def test_a_file_is_found_beside_the_settings(tmp_path, name, array, wanted):
    np.save(tmp_path / "x.npy", array)

    found = held(f'{name} = {{ file = "x.npy" }}', tmp_path, name, (1, len(wanted[0])))

    assert found.tolist() == wanted


def test_random_numbers_lie_within_their_limits_and_are_the_same_every_time(tmp_path):
    drawn = held("audio = { random = [2, 3] }", tmp_path, "audio", (1, 100), 4)

    assert drawn.shape == (4, 100)
    assert drawn.min() >= 2
    assert drawn.max() <= 3
    assert drawn.std() > 0.1
    again = held("audio = { random = [2, 3] }", tmp_path, "audio", (1, 100), 4)
    np.testing.assert_array_equal(drawn, again)


def test_trials_hold_samples_too(tmp_path):
    spec = make_spec('sr = 16000\ntext = "1"', tmp_path)
    shapes = {"audio": (1, 4), "sr": (), "text": (1, 2), "flag": (1,), "half": (1, 3)}

    found = trial_inputs(spec, shapes)

    assert found["sr"] == 16000
    assert found["text"].tolist() == [[b"1", b"1"]]
    assert found["audio"].any()


def test_padding_rows_hold_the_sample(tmp_path):
    spec = make_spec("audio = [5, 6]", tmp_path)
    seen = []
    runner = HostRunner(
        spec,
        spec.profiles[0],
        lambda inputs: seen.append({k: v.copy() for k, v in inputs.items()}) or {},
    )
    shapes = {"audio": (1, 3), "sr": (), "text": (1, 2), "flag": (1,), "half": (1, 3)}
    pieces = blank_batch(spec, shapes, 1).pieces

    runner.run(Batch({**pieces, "audio": [np.float32([[1, 2, 3]])]}, 1, 3))

    assert seen[0]["audio"].tolist() == [[1, 2, 3], [5, 6, 5], [5, 6, 5]]
    assert not seen[0]["half"][1:].any()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ("wave = 1", "samples.wave: the model has no such input; it has audio [-1, -1], sr []"),
        ("sr = 1.5", "samples.sr: is 1.5, but INT64 needs an integer from"),
        ('audio = "a"', "samples.audio: is 'a', but FP32 needs a number"),
        ("text = 1", "samples.text: is 1, but BYTES needs a string"),
        ("flag = 1", "samples.flag: is 1, but BOOL needs true or false"),
        ("half = [1, 2]", "samples.half: is [2], which does not fit input 'half' [-1, 3]"),
        ("sr = [1]", "samples.sr: has 1 dimensions, but input 'sr' [] has 0"),
        ("audio = []", "samples.audio: is [0], which holds no value"),
        ("audio = [[1, 2], [3]]", "samples.audio: the lists inside it must have the same length"),
        ("audio = [[1], 2]", "samples.audio: the lists inside it must have the same depth"),
        ("text = { random = [0, 1] }", "samples.text: random is for numbers"),
        ("sr = { random = [0, 1.5] }", "samples.sr: random has 1.5, but INT64 needs an integer"),
        ("sr = { random = [2, 1] }", "samples.sr: is a table, but must have random = [low, high]"),
        ("sr = {}", "samples.sr: is a table, but must have either file"),
        ('sr = { fiel = "x" }', "fiel: unknown key; did you mean 'file'?"),
        ('sr = { file = "no.npy" }', "no.npy cannot be read: No such file or directory"),
        ('sr = { file = "model.toml" }', "model.toml is not a .npy file of numbers or text"),
        ('sr = { file = "f.npy" }', "f.npy holds float64, but INT64 needs int64"),
        ('audio = { file = "o.npy" }', "o.npy is not a .npy file of numbers or text"),
        ("sr = 1979-05-27", "samples.sr: is"),
    ],
)
def test_what_contradicts_the_model_is_told_with_its_key(tmp_path, samples, expected):
    np.save(tmp_path / "f.npy", np.float64(1))
    np.save(tmp_path / "o.npy", np.array([None]), allow_pickle=True)

    with pytest.raises(ConfigError) as raised:
        make_spec(samples, tmp_path)

    assert expected in str(raised.value)


def test_a_settings_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "model.toml").write_text("max_queue_delay_ms = 3.0", encoding="utf-8-sig")

    assert read_model_settings(tmp_path / "model.toml").max_queue_delay_ms == 3.0


def test_the_table_is_part_of_the_settings():
    settings = ModelSettings.model_validate(tomllib.loads('[samples]\nX = { file = "x.npy" }'))

    assert settings.samples["X"].file == "x.npy"
