from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from helpers.models import (
    InstantClock,
    profile_entry,
    random_array,
    save_simulated_echo,
    tensor,
)
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.errors import ConfigError
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings, ProfileSettings, read_model_settings

EXAMPLE = Path(__file__).parents[3] / "examples" / "simulated" / "models"
X = tensor("X")


def load(file, settings=None, clock=None):
    (source,) = find_models(file)
    return load_model(source, settings or ModelSettings(), clock=clock or InstantClock())


def refusal(file):
    with pytest.raises(ConfigError) as raised:
        load(file)
    message = str(raised.value)
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


def rows_of(count, seed=0):
    return random_array(DType.FP32, (count, 3), seed)


def test_a_checksum_of_every_executed_row_over_all_rowwise_inputs_in_their_order(tmp_path):
    text = tensor("text", DType.BYTES, (DYNAMIC,))
    file = save_simulated_echo(tmp_path / "m.sim.toml", [X, text], checksum=True)
    runner = load(file).runners[1]
    x = [rows_of(1, seed=1), rows_of(1, seed=2)]
    words = [np.array([b"a"], object), np.array([b"bc"], object)]

    outputs = runner.run(Batch({"text": words, "X": x}, rows=2, padded_rows=3))

    assert outputs["checksum"].dtype == np.int64
    assert outputs["checksum"].tolist() == [
        zlib.crc32(x[0].tobytes() + b"\1\0\0\0a"),
        zlib.crc32(x[1].tobytes() + b"\2\0\0\0bc"),
        zlib.crc32(bytes(12) + b"\0\0\0\0"),
    ]


def test_without_batching_there_is_one_checksum_of_all_inputs(tmp_path):
    inputs = [tensor("A", shape=(2,)), tensor("B", shape=())]
    file = save_simulated_echo(tmp_path / "m.sim.toml", inputs, checksum=True)
    a, b = np.array([1, 2], np.float32), np.array(3, np.float32)

    outputs = load(file).runners[0].run(Batch({"A": [a], "B": [b]}, 1, 1))

    assert outputs["checksum"].tolist() == [zlib.crc32(a.tobytes() + b.tobytes())]


def test_an_execution_takes_the_time_of_the_padded_rows_in_the_profiles_own_table(tmp_path):
    file = save_simulated_echo(
        tmp_path / "m.sim.toml",
        [X],
        latency_ms=3.0,
        more_latency="dynamic = { rows = [1, 11], ms = [1.0, 2.0] }",
    )
    clock = InstantClock()
    online, dynamic = load(file, clock=clock).runners

    online.run(Batch({"X": [rows_of(1)]}, 1, 1))
    dynamic.run(Batch({"X": [rows_of(4)]}, 4, 6))

    assert clock.blocked_ns == [3_000_000, 1_500_000]


def test_latencies_follow_the_names_in_the_file_when_settings_rename_profiles(tmp_path):
    file = save_simulated_echo(
        tmp_path / "m.sim.toml",
        [X],
        profiles=profile_entry("built", X=[(1, 3)] * 3),
        latency_ms=3.0,
        more_latency="built = { rows = [1], ms = [1.0] }",
    )
    clock = InstantClock()
    settings = ModelSettings(profiles=(ProfileSettings(name="renamed"),))
    (runner,) = load(file, settings, clock).runners

    runner.run(Batch({"X": [rows_of(1)]}, 1, 1))

    assert (runner.profile.name, clock.blocked_ns) == ("renamed", [1_000_000])


def test_the_example_serves_all_seven_profiles_it_carries_without_settings():
    (source,) = find_models(EXAMPLE)
    settings = read_model_settings(source.settings_file)

    model = load_model(source, settings, clock=InstantClock())

    assert not source.settings_file.exists()
    assert [runner.profile.name for runner in model.runners] == [
        "online-short",
        "online-long",
        "dynamic-32",
        "dynamic-128",
        "dynamic-512",
        "offline-32",
        "offline-128",
    ]
    for runner in model.runners:
        runner.warm_up()


IN = '[[inputs]]\nname = "X"\ndatatype = "FP32"\nshape = [-1, 3]\n'
OUT = '[[outputs]]\nname = "Y"\ndatatype = "FP32"\nshape = [-1, 3]\n'
COPY = OUT + 'copy_of = "X"\n'
LATENCY = "[latency]\ndefault = { rows = [1], ms = [1.0] }\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (IN + OUT + LATENCY, "outputs[0]: must have either copy_of or checksum = true"),
        (
            IN + COPY + "checksum = true\n" + LATENCY,
            "outputs[0]: must have either copy_of or checksum = true",
        ),
        (
            IN + OUT + 'copy_of = "Z"\n' + LATENCY,
            "outputs[0].copy_of: is 'Z', but the inputs are X",
        ),
        (
            IN + COPY.replace("FP32", "FP16") + LATENCY,
            "outputs[0]: must have datatype FP32 and shape [-1, 3] as the input 'X' it copies",
        ),
        (
            IN + OUT + "checksum = true\n" + LATENCY,
            "outputs[0]: a checksum must have datatype INT64 and one dimension",
        ),
        (IN + IN + COPY + LATENCY, "inputs[1].name: 'X' is the name of another one too"),
        (
            IN.replace("-1", "-2") + COPY.replace("-1", "-2") + LATENCY,
            "2 problems\n"
            "  inputs[0].shape: is [-2, 3], but sizes must be 0 or more, or -1 for any\n"
            "  outputs[0].shape: is [-2, 3], but sizes must be 0 or more, or -1 for any",
        ),
        (IN + COPY, "latency: is missing"),
        (IN + COPY + "[latency]\n", "latency.default: is missing"),
        (
            IN + COPY + LATENCY.replace("[1]", "[1, 2]"),
            "latency.default: has 2 rows and 1 ms; they are pairs",
        ),
        (
            IN + COPY + LATENCY.replace("[1]", "[2, 2]").replace("[1.0]", "[1, 2]"),
            "latency.default.rows: must ascend",
        ),
        (
            IN + COPY + LATENCY + "offline = { rows = [1], ms = [1] }",
            "latency.offline: no profile has this name; they are online, dynamic",
        ),
        (
            IN.replace("FP32", "FLOAT") + COPY + LATENCY,
            "inputs[0].datatype: is \"FLOAT\", but must be 'BOOL', 'UINT8', 'UINT16', 'UINT32', "
            "'UINT64', 'INT8', 'INT16', 'INT32', 'INT64', 'FP16', 'FP32', 'FP64', 'BF16', "
            "'BYTES', 'FP8_E4M3FN' or 'FP8_E5M2'",
        ),
        (
            IN + COPY + "delay = 1\n" + LATENCY,
            "outputs[0].delay: unknown key; allowed here: name, datatype, shape, copy_of, checksum",
        ),
        (
            IN + COPY + LATENCY + "[faults]\n",
            "faults: unknown key; allowed here: inputs, outputs, profiles, latency",
        ),
        (
            IN + COPY + "[latency.default]\nrows = [0]\nms = [-1]\n",
            "2 problems\n"
            "  latency.default.rows[0]: is 0, but must be greater than or equal to 1\n"
            "  latency.default.ms[0]: is -1, but must be greater than or equal to 0",
        ),
    ],
)
def test_an_impossible_file_is_refused_with_its_key_and_what_is_allowed(tmp_path, text, problem):
    file = tmp_path / "m.sim.toml"
    file.write_text(text)

    assert refusal(file) == problem
