from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

import pytest

from helpers.trt_models import import_tensorrt
from lanewise.backends.trt import binding as binding_module
from lanewise.backends.trt.binding import EDITIONS, bind, make_binding
from lanewise.backends.trt.messages import Severity
from lanewise.errors import ConfigError
from lanewise.model.tensors import DType

SERVED = {
    "BOOL": DType.BOOL,
    "UINT8": DType.UINT8,
    "INT8": DType.INT8,
    "INT32": DType.INT32,
    "INT64": DType.INT64,
    "HALF": DType.FP16,
    "FLOAT": DType.FP32,
    "BF16": DType.BF16,
    "FP8": DType.FP8_E4M3FN,
}


class Gate:
    """An import hook for which `names` are not installed, or raise `error` when imported."""

    def __init__(self, names, error=None):
        self._names, self._error = names, error

    def find_spec(self, name, path=None, target=None):
        if name not in self._names:
            return None
        if self._error is None:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return ModuleSpec(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise self._error


@pytest.fixture
def gate(monkeypatch):
    def put_up(names, error=None):
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Gate(names, error), *sys.meta_path])
        binding_module.bind.cache_clear()

    yield put_up
    binding_module.bind.cache_clear()


def modules(backend):
    return [edition.module for edition in EDITIONS[backend]]


@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_rtx"])
class TestEveryEdition:
    def test_maps_every_datatype_that_can_be_served_both_ways(self, name):
        module = import_tensorrt(name)
        binding = make_binding("tensorrt", "T", module)

        there = {each: binding.dtype(getattr(module.DataType, each), "X") for each in SERVED}
        back = {each: binding.trt_dtype(dtype) for each, dtype in SERVED.items()}

        assert there == SERVED
        assert back == {each: getattr(module.DataType, each) for each in SERVED}

    def test_refuses_every_other_datatype_by_the_name_of_the_tensor(self, name):
        module = import_tensorrt(name)
        binding = make_binding("tensorrt", "T", module)
        others = [
            dtype for each, dtype in module.DataType.__members__.items() if each not in SERVED
        ]

        assert others
        for dtype in others:
            with pytest.raises(ConfigError, match=f"tensor 'weights' .* datatype {dtype.name}, "):
                binding.dtype(dtype, "weights")

    def test_has_a_logger_that_keeps_what_it_is_told(self, name):
        module = import_tensorrt(name)
        binding = make_binding("tensorrt", "of this test alone", module)

        for severity in module.ILogger.Severity.__members__.values():
            binding.logger.log(severity, f"{severity.name} line")

        kept = {each.name: binding.messages.recent(each) for each in Severity}
        assert kept == {each.name: (f"{each.name} line",) for each in Severity}


def test_a_datatype_that_tensorrt_lacks_is_refused():
    binding = make_binding("tensorrt", "T", import_tensorrt("tensorrt_lean"))

    with pytest.raises(ConfigError, match="TensorRT has no datatype BYTES"):
        binding.trt_dtype(DType.BYTES)


def test_tensorrt_rtx_is_bound_once_and_named_with_its_version():
    module = import_tensorrt("tensorrt_rtx")

    binding = bind("tensorrt-rtx")

    assert bind("tensorrt-rtx") is binding
    assert binding.name == f"TensorRT-RTX {module.__version__}"
    assert (binding.is_rtx, binding.can_build) == (True, True)


def test_the_lean_runtime_serves_where_the_full_package_is_missing(gate):
    import_tensorrt("tensorrt_lean")
    gate(["tensorrt"])

    binding = bind("tensorrt")

    assert binding.title == "TensorRT lean runtime"
    assert (binding.is_rtx, binding.can_build) == (False, False)


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(gate, backend, extra):
    gate(modules(backend))

    with pytest.raises(ConfigError) as raised:
        bind(backend)

    assert str(raised.value) == (
        f"backend '{backend}' cannot be used: {' or '.join(modules(backend))} is not installed; "
        f"to install it: pip install 'lanewise[{extra}]'"
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError("libnvinfer.so.10: cannot open shared object file"),
        ImportError("libcudart.so.13: cannot open shared object file"),
        ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"),
    ],
)
def test_a_package_that_is_broken_is_not_passed_over(gate, error):
    gate(["tensorrt"], error)

    with pytest.raises(ConfigError, match=f"tensorrt is installed but cannot be .*: {error}; "):
        bind("tensorrt")
