from __future__ import annotations

import pytest

from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings, SchedulingSettings, read_model_settings


def read(folder, text):
    file = folder / "model.toml"
    file.write_text(text)
    return read_model_settings(file)


def problems(folder, text):
    """The lines of the error without the path of the file."""
    with pytest.raises(ConfigError) as raised:
        read(folder, text)
    message = str(raised.value)
    assert message.startswith(f"{folder / 'model.toml'}: ")
    lines = message.removeprefix(f"{folder / 'model.toml'}: ").split("\n")
    return [line.strip() for line in lines if not line.endswith(" problems")]


def test_a_model_without_a_file_has_the_defaults(tmp_path):
    settings = read_model_settings(tmp_path / "model.toml")

    assert settings == ModelSettings()
    assert (settings.backend, settings.batching, settings.max_queue_delay_ms) == ("auto", None, 2.0)
    assert settings.profiles is None
    assert settings.onnxruntime.threads is None


def test_every_key_is_read(tmp_path):
    settings = read(
        tmp_path,
        """
        backend = "onnxruntime"
        batching = false
        max_queue_delay_ms = 3
        [onnxruntime]
        threads = 2
        [samples]
        X = 1.5

        [padding]
        dimension = "tokens"
        inputs = { X = 1 }
        values = { X = -1 }
        outputs = { Y = 1 }
        buckets = [16, 64]
        [scheduling]
        latency_target_ms = 50
        priority_levels = 5
        default_priority = 3
        [tensorrt]
        runners = { online = 2 }
        shared_scratch = [["offline", "night"]]
        workspace_mib = 1024
        optimization_level = 3
        compute_capabilities = ["8.9", "12.0"]
        allow_host_code = true
        self_check = false
        poll = false
        [[profiles]]
        name = "online"
        tensors.X = { min = [1, 3], opt = [2, 3], max = [4, 3] }
        max_queue_delay_ms = 0.5
        [[profiles]]
        """,
    )

    assert settings.model_dump() == {
        "backend": "onnxruntime",
        "batching": False,
        "max_queue_delay_ms": 3.0,
        "samples": {"X": 1.5},
        "padding": {
            "dimension": "tokens",
            "inputs": {"X": 1},
            "values": {"X": -1},
            "outputs": {"Y": 1},
            "buckets": (16, 64),
        },
        "onnxruntime": {"threads": 2},
        "scheduling": {"latency_target_ms": 50.0, "priority_levels": 5, "default_priority": 3},
        "tensorrt": {
            "runners": {"online": 2},
            "shared_scratch": (("offline", "night"),),
            "workspace_mib": 1024,
            "optimization_level": 3,
            "compute_capabilities": ("8.9", "12.0"),
            "allow_host_code": True,
            "self_check": False,
            "poll": False,
        },
        "profiles": (
            {
                "name": "online",
                "tensors": {"X": {"min": (1, 3), "opt": (2, 3), "max": (4, 3)}},
                "max_queue_delay_ms": 0.5,
            },
            {"name": None, "tensors": {}, "max_queue_delay_ms": None},
        ),
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "batch = true",
            "batch: unknown key; did you mean 'batching'? allowed here: "
            "backend, batching, max_queue_delay_ms, profiles, padding, samples, onnxruntime, "
            "scheduling, tensorrt",
        ),
        ("[onnxruntime]\ncores = 1", "onnxruntime.cores: unknown key; allowed here: threads"),
        (
            "[[profiles]]\nshape = 1",
            "profiles[0].shape: unknown key; allowed here: name, tensors, max_queue_delay_ms",
        ),
        (
            "[[profiles]]\n[[profiles]]\n"
            "tensors.min = { min = [1], opt = [1], max = [1], mid = 1 }",
            "profiles[1].tensors.min.mid: unknown key; "
            "did you mean 'min'? allowed here: min, opt, max",
        ),
        (
            'backend = "cuda"',
            'backend: is "cuda", but must be '
            "'auto', 'onnxruntime', 'tensorrt', 'tensorrt-rtx' or 'simulated'",
        ),
        ('batching = "yes"', 'batching: is "yes", but must be true or false'),
        (
            "max_queue_delay_ms = -1",
            "max_queue_delay_ms: is -1, but must be greater than or equal to 0",
        ),
        ("max_queue_delay_ms = nan", "max_queue_delay_ms: is NaN, but must be a finite number"),
        ("profiles = []", "profiles: is [], but must have at least one entry"),
        ("[profiles]", "profiles: is a table, but must be a list"),
        (
            "tensors = 1",
            "tensors: unknown key; did you mean 'tensorrt'? allowed here: "
            "backend, batching, max_queue_delay_ms, profiles, padding, samples, onnxruntime, "
            "scheduling, tensorrt",
        ),
        (
            '[[profiles]]\ntensors."a.b" = { min = [1.5], opt = [1], max = [1] }',
            'profiles[0].tensors."a.b".min[0]: is 1.5, but must be an integer',
        ),
        (
            "[[profiles]]\ntensors.X = { min = [1], opt = [1] }",
            "profiles[0].tensors.X.max: is missing",
        ),
        (
            '[tensorrt]\nshared_scratch = [["a"], ["b", "c"]]',
            'tensorrt.shared_scratch: is [["a"], ["b", "c"]], '
            "but must be lists of two or more profiles each",
        ),
        (
            '[tensorrt]\nshared_scratch = [["a", "b"], ["c", "a"]]',
            'tensorrt.shared_scratch: is [["a", "b"], ["c", "a"]], '
            "but must name each profile once; repeated: a",
        ),
        (
            '[tensorrt]\nshared_scratch = ["a"]',
            'tensorrt.shared_scratch[0]: is "a", but must be a list',
        ),
        (
            "[onnxruntime]\nthreads = 0",
            "onnxruntime.threads: is 0, but must be greater than or equal to 1",
        ),
        (
            "[scheduling]\nlatency_target_ms = 0",
            "scheduling.latency_target_ms: is 0, but must be greater than 0",
        ),
        (
            "[scheduling]\npriority_levels = 101",
            "scheduling.priority_levels: is 101, but must be less than or equal to 100",
        ),
        (
            "[scheduling]\npriority_levels = 2\ndefault_priority = 3",
            "scheduling.default_priority: is 3, but must be at most priority_levels, which is 2",
        ),
        (
            "[scheduling]\ndefault_priority = 4",
            "scheduling.default_priority: is 4, but must be at most priority_levels, which is 3",
        ),
        (
            "[[profile]]",
            "profile: unknown key; did you mean 'profiles'? allowed here: "
            "backend, batching, max_queue_delay_ms, profiles, padding, samples, onnxruntime, "
            "scheduling, tensorrt",
        ),
        (
            '[[profiles]]\ntensors.X = { min = "1x8", opt = [1, 8], max = [1, 8] }',
            'profiles[0].tensors.X.min: is "1x8", but must be a list, such as [1, 8]',
        ),
        ("onnxruntime = 4", "onnxruntime: is 4, but must be a table"),
        (
            "[tensorrt]\nrunners = { online = 0 }",
            "tensorrt.runners.online: is 0, but must be greater than or equal to 1",
        ),
        (
            '[tensorrt]\ncompute_capabilities = ["sm_89"]',
            'tensorrt.compute_capabilities[0]: is "sm_89", but must be a compute capability '
            'such as "8.9"',
        ),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_key_and_what_is(tmp_path, text, problem):
    assert problems(tmp_path, text) == [problem]


def test_every_problem_of_a_file_is_told_at_once(tmp_path):
    found = problems(tmp_path, "batching = 1\n[[profiles]]\nname = 2\n[[profiles]]\nnam = 'x'\n")

    assert found == [
        "batching: is 1, but must be true or false",
        "profiles[0].name: is 2, but must be a string",
        "profiles[1].nam: unknown key; did you mean 'name'? "
        "allowed here: name, tensors, max_queue_delay_ms",
    ]


def test_a_syntax_error_is_told_with_its_line(tmp_path):
    (problem,) = problems(tmp_path, 'backend = "auto"\nbatching =\n')

    assert problem.startswith("is not valid TOML: ")
    assert "line 2" in problem


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "model.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match=r"model\.toml: is not valid TOML: .*utf-8"):
        read_model_settings(tmp_path / "model.toml")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_model_settings(tmp_path)


@pytest.mark.parametrize(("asked", "given"), [(0, 2), (1, 1), (3, 3), (4, 2), (2**40, 2)])
def test_a_priority_that_a_model_does_not_have_is_its_default(asked, given):
    assert SchedulingSettings().resolve_priority(asked) == given


def test_a_default_priority_beyond_the_levels_is_the_least_important():
    assert SchedulingSettings(priority_levels=1).resolve_priority(0) == 1
