"""Which parts of TensorRT's Python API are used, so that a test can tell whether they exist.

The modules of all versions and editions have the same classes; what differs between them
shows here, and not when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

Attributes = Mapping[str, tuple[str, ...]]

RUNTIME_ATTRIBUTES: Attributes = {
    "DataType": ("BF16", "BOOL", "FLOAT", "FP8", "HALF", "INT32", "INT64", "INT8", "UINT8"),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "ICudaEngine": (
        "create_execution_context",
        "create_runtime_config",
        "device_memory_size_v2",
        "get_device_memory_size_for_profile_v2",
        "get_tensor_dtype",
        "get_tensor_location",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "get_tensor_profile_values",
        "get_tensor_shape",
        "is_shape_inference_io",
        "num_aux_streams",
        "num_io_tensors",
        "num_optimization_profiles",
        "streamable_weights_size",
    ),
    "IExecutionContext": (
        "execute_async_v3",
        "get_tensor_shape",
        "infer_shapes",
        "set_device_memory",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_output_allocator",
        "set_tensor_address",
    ),
    "ILogger": ("ERROR", "INFO", "INTERNAL_ERROR", "VERBOSE", "WARNING", "log"),
    "IOutputAllocator": (),  # its methods are ours to define; the class names none
    "IRuntimeConfig": ("set_execution_context_allocation_strategy",),
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "TensorIOMode": ("INPUT",),
    "TensorLocation": ("HOST",),
}
"""What every module has."""

BUILDER_ATTRIBUTES: Attributes = {
    "Builder": (
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
    ),
    "IBuilderConfig": (
        "add_optimization_profile",
        "builder_optimization_level",
        "progress_monitor",
        "set_memory_pool_limit",
    ),
    "INetworkDefinition": ("get_input", "get_output", "num_inputs", "num_outputs"),
    "IOptimizationProfile": ("set_shape", "set_shape_input"),
    "IProgressMonitor": ("phase_finish", "phase_start", "step_complete"),
    "ITensor": ("dtype", "is_shape_tensor", "name", "shape"),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("get_error", "num_errors", "parse", "parse_from_file"),
    "ParserError": ("code", "desc", "func", "node", "node_name", "node_operator"),
}
"""What modules that build plans have besides."""

RTX_ATTRIBUTES: Attributes = {
    "ComputeCapability": (),  # its members are listed to the user as they are
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
    "EngineInvalidityDiagnostics": (
        "INSUFFICIENT_GPU_MEMORY",
        "MALFORMED_ENGINE",
        "OLD_CUDA_DRIVER",
        "OLD_CUDA_RUNTIME",
        "UNSUPPORTED_CC",
        "VERSION_MISMATCH",
    ),
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
    "IExecutionContext": ("is_stream_capturable",),
    "IRuntimeCache": ("deserialize", "serialize"),
    "IRuntimeConfig": (
        "create_runtime_cache",
        "dynamic_shapes_kernel_specialization_strategy",
        "set_runtime_cache",
    ),
    "Runtime": ("get_engine_validity",),
}
"""What `tensorrt_rtx` alone has; used only where `Binding.is_rtx` says so."""


def _merge(*tables: Attributes) -> Attributes:
    merged: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for name, attributes in table.items():
            merged[name] = (*merged.get(name, ()), *attributes)
    return merged


USED_ATTRIBUTES = _merge(RUNTIME_ATTRIBUTES, BUILDER_ATTRIBUTES, RTX_ATTRIBUTES)
"""All of the above. A name that is not unusual in Python is easily forgotten here: whoever uses
one more attribute adds it."""
