"""Memory for outputs whose shape depends on the data, without a device."""

from __future__ import annotations

import pytest

from helpers.trt_models import import_tensorrt
from lanewise.errors import ExecutionFailed

pytest.importorskip("cuda.bindings")

from cuda.bindings import runtime as cuda

from lanewise.backends.trt.growing_outputs import GrowingOutputs, make_allocator
from lanewise.memory.device import CudaError

NO_MEMORY = CudaError(
    cuda.cudaError_t.cudaErrorMemoryAllocation, "allocate 64 bytes", is_sticky=False
)
LOST = CudaError(cuda.cudaError_t.cudaErrorIllegalAddress, "allocate 64 bytes", is_sticky=True)


def failing(error):
    def reserve(name, nbytes):
        raise error

    return reserve


@pytest.fixture
def outputs():
    return GrowingOutputs()


@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_rtx"])
def test_what_tensorrt_asks_and_tells_is_handed_on(outputs, name):
    module = import_tensorrt(name)
    allocator = make_allocator(module, outputs)
    outputs.begin(lambda name, nbytes: {("Y", 64): 4096}[name, nbytes])

    assert isinstance(allocator, module.IOutputAllocator)
    assert allocator.reallocate_output_async("Y", 0, 64, 256, 7) == 4096
    assert allocator.reallocate_output("Y", 0, 64, 256) == 4096
    allocator.notify_shape("Y", module.Dims((4, 4)))
    outputs.raise_failure()
    assert outputs.shape("Y") == (4, 4)


def test_too_little_memory_is_told_to_tensorrt_and_kept_with_the_outputs_name(outputs):
    outputs.begin(failing(NO_MEMORY))

    assert outputs.allocate("Y", 64) == 0
    with pytest.raises(
        ExecutionFailed, match=r"^output 'Y', .* needs 64 bytes: allocate"
    ) as raised:
        outputs.raise_failure()
    assert raised.value.__cause__ is NO_MEMORY


@pytest.mark.parametrize("error", [LOST, ZeroDivisionError("a bug")])
def test_other_failures_are_kept_as_they_are(outputs, error):
    outputs.begin(failing(error))

    assert outputs.allocate("Y", 64) == 0
    with pytest.raises(type(error)) as raised:
        outputs.raise_failure()
    assert raised.value is error


def test_the_next_execution_knows_nothing_of_the_last(outputs):
    outputs.begin(failing(NO_MEMORY))
    outputs.allocate("Y", 64)
    outputs.tell("Y", (1,))
    outputs.begin(lambda name, nbytes: 4096)

    outputs.raise_failure()
    with pytest.raises(ExecutionFailed, match="TensorRT did not tell it"):
        outputs.shape("Y")


def test_memory_before_the_first_execution_is_refused(outputs):
    assert outputs.allocate("Y", 64) == 0
    with pytest.raises(ExecutionFailed, match="before the first execution"):
        outputs.raise_failure()
