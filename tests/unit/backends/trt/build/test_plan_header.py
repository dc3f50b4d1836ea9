from __future__ import annotations

import pytest

from helpers.trt_models import plan_header, save_plan
from lanewise.backends.trt.build.plan_header import PlanHeader, read_plan_header
from lanewise.errors import ConfigError


@pytest.mark.parametrize(("tag", "backend"), [(b"ftrt", "tensorrt"), (b"vtrt", "tensorrt-rtx")])
def test_a_plan_tells_its_backend_and_the_version_that_built_it(tmp_path, tag, backend):
    file = save_plan(tmp_path, plan_header(tag) + b"engine")

    assert read_plan_header(file) == PlanHeader(backend, "10.7.0.23")


@pytest.mark.parametrize("content", [b"", b"ftrt", b"garbage" * 100, plan_header(b"ftrx")])
def test_a_file_that_is_no_plan_is_refused_with_what_to_do(tmp_path, content):
    file = save_plan(tmp_path, content)

    with pytest.raises(ConfigError) as raised:
        read_plan_header(file)

    assert str(raised.value).startswith(f"{file}: is not a TensorRT plan, or is cut off")
    assert str(raised.value).endswith("lanewise build MODEL.onnx -o MODEL.plan")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_plan_header(tmp_path / "model.plan")
