from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import helper

from lanewise.backends.onnx_graph import external_files
from lanewise.backends.ort import OrtSession
from lanewise.errors import ConfigError

WEIGHTS = np.arange(50_000, dtype=np.float32)


def save_with_external_data(folder, location="model.onnx.data", per_tensor=False):
    """A model that looks numbers up in two tables, which lie in files of their own."""
    nodes = [
        helper.make_node("Gather", ["A", "X"], ["a"]),
        helper.make_node("Gather", ["B", "X"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["Y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("X", onnx.TensorProto.INT64, ("rows",))],
        [helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, ("rows",))],
        [onnx.numpy_helper.from_array(WEIGHTS, name) for name in ("A", "B")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(exist_ok=True)
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=not per_tensor,
        location=None if per_tensor else location,
    )
    return folder / "model.onnx"


def look_up(session, index):
    return float(session({"X": np.array([index])})["Y"][0])


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("fate", ["truncated", "emptied", "removed"])
def test_what_happens_to_the_weights_on_disk_changes_nothing_once_they_are_loaded(
    tmp_path, per_tensor, fate
):
    file = save_with_external_data(tmp_path, per_tensor=per_tensor)
    session = OrtSession(file, None)

    for data in set(tmp_path.iterdir()) - {file}:
        match fate:
            case "truncated":
                os.truncate(data, 4096)
            case "emptied":
                data.write_bytes(b"")
            case "removed":
                data.unlink()

    assert look_up(session, 49_999) == 2 * 49_999


def test_all_files_that_a_model_names_are_found(tmp_path):
    names = {each: f"{each}.data" for each in ["short", "a-much-longer-name-" * 10]}
    for name in names.values():
        file = save_with_external_data(tmp_path / name[:5], location=name)
        assert external_files(file.read_bytes()) == (name,)
        assert look_up(OrtSession(file, None), 7) == 14


def test_files_of_tensors_in_attributes_and_inner_graphs_are_found():
    def constant(location):
        tensor = onnx.numpy_helper.from_array(WEIGHTS[:4], location)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return helper.make_node("Constant", [], [location], value=tensor)

    branches = {
        name: helper.make_graph([constant(f"{name}.bin")], name, [], [])
        for name in ("then_branch", "else_branch")
    }
    nodes = [constant("here.bin"), helper.make_node("If", ["c"], ["y"], **branches)]
    model = helper.make_model(helper.make_graph(nodes, "graph", [], []))

    found = external_files(model.SerializeToString())

    assert sorted(found) == ["else_branch.bin", "here.bin", "then_branch.bin"]


def test_a_location_in_the_notes_of_a_model_is_no_file(tmp_path):
    file = save_with_external_data(tmp_path)
    model = onnx.load(file, load_external_data=False)
    model.metadata_props.add(key="location", value="../Paris")
    file.write_bytes(model.SerializeToString())

    assert look_up(OrtSession(file, None), 7) == 14


@pytest.mark.parametrize("name", [os.fsdecode(b"mod\xe8les"), "modèles", "a b"])
def test_the_folder_may_have_any_name(tmp_path, name):
    file = save_with_external_data(tmp_path / "models")
    folder = (tmp_path / "models").rename(tmp_path / name)

    assert look_up(OrtSession(folder / file.name, None), 3) == 6


def test_a_file_that_is_missing_is_named(tmp_path):
    file = save_with_external_data(tmp_path)
    (tmp_path / "model.onnx.data").unlink()

    with pytest.raises(ConfigError, match=r"model\.onnx\.data: cannot be read: No such file"):
        OrtSession(file, None)


def test_a_file_that_is_cut_off_before_it_is_loaded_fails_its_model(tmp_path):
    file = save_with_external_data(tmp_path)
    os.truncate(tmp_path / "model.onnx.data", 4096)

    with pytest.raises(ConfigError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        OrtSession(file, None)


def test_files_outside_the_folder_of_the_model_are_not_read(tmp_path):
    file = save_with_external_data(tmp_path / "models")
    file.write_bytes(file.read_bytes().replace(b"model.onnx.data", b"../../secret.it"))

    with pytest.raises(ConfigError, match=r"'\.\./\.\./secret\.it', outside its folder"):
        OrtSession(file, None)
