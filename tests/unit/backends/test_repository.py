from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from helpers.models import InstantClock, save_onnx_echo, save_simulated_echo, tensor
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import ModelSource
from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings


@contextmanager
def acting_as_nobody():
    """Act as a user whom permissions bind; in a folder of its own."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def add_model(repository, name, version="1", file="model.onnx"):
    path = repository / name / version / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def refusal(path):
    with pytest.raises(ConfigError) as raised:
        find_models(path)
    return str(raised.value)


class TestFindModels:
    def test_lists_models_by_name_and_versions_by_number(self, tmp_path):
        for name, version in [("b", "2"), ("b", "10"), ("a", "1"), ("b", "9")]:
            add_model(tmp_path, name, version)

        found = find_models(tmp_path)

        assert found == [
            ModelSource(
                name,
                version,
                tmp_path / name / version / "model.onnx",
                tmp_path / name / "model.toml",
            )
            for name, version in [("a", "1"), ("b", "2"), ("b", "9"), ("b", "10")]
        ]

    @pytest.mark.parametrize("file", ["model.onnx", "model.plan", "model.sim.toml"])
    def test_knows_every_kind_of_model_file(self, tmp_path, file):
        path = add_model(tmp_path, "m", file=file)

        assert [source.file for source in find_models(tmp_path)] == [path]

    @pytest.mark.parametrize(
        ("file", "name"),
        [("resnet.v2.onnx", "resnet.v2"), ("bert.sim.toml", "bert"), ("t5.plan", "t5")],
    )
    def test_a_single_file_is_a_model_of_its_name_with_the_settings_beside_it(
        self, tmp_path, file, name
    ):
        (tmp_path / file).write_text("")

        (source,) = find_models(tmp_path / file)

        assert source == ModelSource(name, "1", tmp_path / file, tmp_path / "model.toml")

    def test_what_has_no_place_in_the_layout_is_ignored_with_a_warning(self, tmp_path):
        add_model(tmp_path, "m")
        for stray in ["README.md", "m/notes.txt", "m/model.toml", ".gitignore", "m/.cache"]:
            (tmp_path / stray).write_text("")
        for stray in ["m/01", "m/0", "m/latest", "m/1/external-data"]:
            (tmp_path / stray).mkdir()

        with structlog.testing.capture_logs() as logs:
            found = find_models(tmp_path)

        assert [(source.version, source.problem) for source in found] == [("1", "")]
        assert {(entry["path"], entry["log_level"]) for entry in logs} == {
            (str(tmp_path / stray), "warning")
            for stray in ["README.md", "m/notes.txt", "m/01", "m/0", "m/latest"]
        }

    def test_a_broken_model_is_listed_with_its_problem_beside_the_sound_ones(self, tmp_path):
        add_model(tmp_path, "both", file="model.onnx")
        add_model(tmp_path, "both", file="model.plan")
        add_model(tmp_path, "fine")
        add_model(tmp_path, "misnamed", file="resnet.onnx")
        add_model(tmp_path, "unversioned", ".")

        found = find_models(tmp_path)

        assert [(each.name, each.version, each.problem.split(";")[0]) for each in found] == [
            ("both", "1", f"{tmp_path / 'both' / '1'}: holds model.onnx and model.plan"),
            ("fine", "1", ""),
            ("misnamed", "1", f"{tmp_path / 'misnamed' / '1'}: holds no model file"),
            ("unversioned", "", f"{tmp_path / 'unversioned'}: has no version"),
        ]

    def test_folders_that_are_no_models_are_ignored_with_a_warning(self, tmp_path):
        add_model(tmp_path, "m")
        strays = ["__pycache__", "lost+found", "empty"]
        for stray in strays:
            (tmp_path / stray).mkdir()
        (tmp_path / "__pycache__" / "x.pyc").write_text("")
        (tmp_path / "gone").symlink_to(tmp_path / "nothing")
        (tmp_path / "round").symlink_to(tmp_path / "round")
        (tmp_path / os.fsdecode(b"mod\xe8le")).mkdir()  # Latin-1
        add_model(tmp_path, os.fsdecode(b"caf\xe9"))

        with structlog.testing.capture_logs() as logs:
            found = find_models(tmp_path)

        assert [source.name for source in found] == ["m"]
        assert {entry["path"].removeprefix(f"{tmp_path}/"): entry["reason"] for entry in logs} == {
            **dict.fromkeys(strays, "it holds no version: 1, 2, ..."),
            **dict.fromkeys(["gone", "round"], "a link to nothing"),
            **dict.fromkeys(
                ["mod\\udce8le", "caf\\udce9"],
                "its name is not UTF-8, so no client could ask for it; rename it",
            ),
        }

    def test_what_belongs_to_another_user_is_its_own_problem_alone(self):
        with acting_as_nobody(), tempfile.TemporaryDirectory() as name:
            repository = Path(name) / "models"
            for model, version in [("fine", "1"), ("half", "1"), ("half", "2"), ("other", "1")]:
                add_model(repository, model, version)
            for locked in [repository / "other", repository / "half" / "2"]:
                locked.chmod(0)

            with structlog.testing.capture_logs() as logs:
                found = find_models(repository)

            for locked in [repository / "other", repository / "half" / "2"]:
                locked.chmod(0o700)
        assert [(each.name, each.version, each.problem) for each in found] == [
            ("fine", "1", ""),
            ("half", "1", ""),
            ("half", "2", f"{repository / 'half' / '2'}: cannot be read: Permission denied"),
        ]
        assert [(entry["path"], entry["reason"]) for entry in logs] == [
            (str(repository / "other"), "it cannot be read: Permission denied")
        ]

    def test_a_file_whose_name_no_client_could_send_is_refused(self, tmp_path):
        file = tmp_path / os.fsdecode(b"caf\xe9.onnx")
        file.write_text("")

        message = refusal(file)

        assert "is not UTF-8; rename it" in message
        assert message.isascii()

    def test_a_path_without_models_is_refused_with_the_layout(self, tmp_path):
        layout = (
            "expected <repository>/<model>/<version>/<file>, where <version> is 1, 2, ... and "
            "<file> one of model.onnx, model.plan, model.sim.toml; or one model file"
        )
        (tmp_path / "folder").mkdir()
        (tmp_path / "file.txt").write_text("")

        assert {
            place: refusal(tmp_path / place) for place in ["nowhere", "folder", "file.txt", "."]
        } == {
            "nowhere": f"{tmp_path / 'nowhere'}: does not exist; {layout}",
            "folder": f"{tmp_path / 'folder'}: holds no models; {layout}",
            "file.txt": f"{tmp_path / 'file.txt'}: is not a model file; {layout}",
            ".": f"{tmp_path}: holds no models; {layout}",
        }

    def test_a_path_next_to_the_repository_is_refused_with_what_may_have_been_meant(self, tmp_path):
        repository = tmp_path / "models"
        file = add_model(repository, "resnet")
        add_model(tmp_path / "flat", "resnet", ".")
        moved = tmp_path / "flat" / "resnet"

        assert {
            str(place.relative_to(tmp_path)): refusal(place)
            .removeprefix(f"{place}: ")
            .partition(" expected")[0]
            for place in [file.parent, file.parent.parent, tmp_path, tmp_path / "flat", moved]
        } == {
            "models/resnet/1": "is not a repository, but holds a model file; "
            f"did you mean {repository} or {file}?",
            "models/resnet": f"is the folder of one model; did you mean {repository}?",
            ".": f"holds no models; did you mean {repository}?",
            "flat": f"holds no models; did you mean to put {moved / 'model.onnx'} into "
            f"{moved / '1'}?",
            "flat/resnet": "is not a repository, but holds a model file; "
            f"did you mean {moved / 'model.onnx'}?",
        }

    def test_nothing_is_warned_of_where_there_is_no_model(self, tmp_path):
        (tmp_path / "src").mkdir()
        for stray in ["README.md", "src/main.py"]:
            (tmp_path / stray).write_text("")

        with structlog.testing.capture_logs() as logs:
            refusal(tmp_path)

        assert logs == []

    def test_tritons_settings_are_ignored_with_the_place_to_put_them_instead(self, tmp_path):
        add_model(tmp_path, "m")
        (tmp_path / "m" / "config.pbtxt").write_text('name: "m"')

        with structlog.testing.capture_logs() as logs:
            find_models(tmp_path)

        (entry,) = logs
        assert entry["path"] == str(tmp_path / "m" / "config.pbtxt")
        assert entry["reason"].startswith("it is not read; ")
        assert "model.toml" in entry["reason"]
        assert "'Coming from Triton' in docs/models.md" in entry["reason"]

    def test_a_file_of_an_ending_alone_names_no_model(self, tmp_path):
        (tmp_path / ".onnx").write_text("")

        assert "needs a name before '.onnx'" in refusal(tmp_path / ".onnx")


class TestLoadModel:
    @pytest.fixture
    def files(self, tmp_path):
        return {
            "onnx": save_onnx_echo(tmp_path / "m.onnx", [tensor("X")]),
            "simulated": save_simulated_echo(tmp_path / "m.sim.toml", [tensor("X")]),
            "plan": tmp_path / "m.plan",
        }

    def load(self, file, backend="auto", override=None):
        source = ModelSource("m", "3", file, file.parent / "model.toml")
        settings = ModelSettings(backend=backend)
        return load_model(source, settings, backend_override=override, clock=InstantClock())

    def test_takes_the_backend_for_the_kind_of_file(self, files):
        specs = [self.load(files[kind]).spec for kind in ("onnx", "simulated")]

        assert [(spec.name, spec.version, spec.backend) for spec in specs] == [
            ("m", "3", "onnxruntime"),
            ("m", "3", "simulated"),
        ]

    def test_an_override_goes_before_the_settings(self, files):
        assert self.load(files["onnx"], "tensorrt", "auto").spec.backend == "onnxruntime"

    def test_a_backend_that_does_not_read_the_file_is_refused(self, files):
        with pytest.raises(ConfigError) as raised:
            self.load(files["onnx"], "simulated")

        assert str(raised.value) == (
            f"{files['onnx']}: backend 'simulated' reads .sim.toml files; set backend to 'auto', "
            "or to one for this file: there are 'tensorrt' (.plan, .onnx), 'tensorrt-rtx' (.plan, "
            ".onnx), 'onnxruntime' (.onnx), 'simulated' (.sim.toml)"
        )

    def test_a_backend_that_is_not_built_in_is_refused_with_those_that_are(self, files):
        with pytest.raises(ConfigError, match="'openvino' is not part of this build; there"):
            self.load(files["onnx"], override="openvino")

    def test_a_plan_that_is_none_is_refused(self, files):
        files["plan"].write_text("")

        with pytest.raises(ConfigError, match=r"m\.plan: is not a TensorRT plan"):
            self.load(files["plan"])

    def test_a_source_with_a_problem_is_refused_for_it(self, tmp_path):
        source = ModelSource("m", "1", tmp_path, tmp_path / "model.toml", "holds no model file")

        with pytest.raises(ConfigError, match="holds no model file"):
            load_model(source, ModelSettings(), clock=InstantClock())


def run_python(code):
    """Run `code` in an interpreter that has imported nothing yet; get what it prints."""
    setup = f"import sys; sys.path[:0] = {sys.path!r}\n"
    finished = subprocess.run(
        [sys.executable, "-c", setup + code], capture_output=True, text=True, check=True, timeout=50
    )
    return finished.stdout.strip()


def test_no_backend_is_imported_before_a_model_asks_for_it():
    code = """
import lanewise.backends.repository
backends = ("onnxruntime", "tensorrt", "lanewise.backends.ort")
print([name for name in backends if name in sys.modules])
"""
    assert run_python(code) == "[]"


def test_a_backend_whose_package_is_missing_says_how_to_install_it(tmp_path):
    file = save_onnx_echo(tmp_path / "m.onnx", [tensor("X")])
    code = f"""
from pathlib import Path
sys.modules["onnxruntime"] = None  # importing it now fails as if it were not installed
from lanewise.clock import SystemClock
from lanewise.backends.repository import find_models, load_model
from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings
(source,) = find_models(Path({str(file)!r}))
try:
    load_model(source, ModelSettings(), clock=SystemClock())
except ConfigError as error:
    print(error)
"""
    message = run_python(code)

    assert message.startswith("backend 'onnxruntime' cannot be used: ")
    assert message.endswith("; to install it: pip install 'lanewise[cpu]'")
