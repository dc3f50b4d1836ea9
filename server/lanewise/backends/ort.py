"""Backend "onnxruntime": ONNX models on the CPU."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import structlog

from lanewise.backends.default_profiles import format_template
from lanewise.backends.external_data import add_external_data, read_whole
from lanewise.backends.host_runner import HostRunner
from lanewise.backends.onnx_graph import read_graph
from lanewise.backends.profiles import plan_profiles
from lanewise.backends.runner import LoadedModel, ModelSource
from lanewise.backends.strings import decode_strings, encode_strings
from lanewise.clock import Clock
from lanewise.cores import usable_cores
from lanewise.errors import ConfigError, ExecutionFailed
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import DYNAMIC, Array, DType, TensorSpec
from lanewise.settings.model import ModelSettings, settings_error

_log = structlog.get_logger(__name__)

_DTYPES = {
    "tensor(bool)": DType.BOOL,
    "tensor(uint8)": DType.UINT8,
    "tensor(uint16)": DType.UINT16,
    "tensor(uint32)": DType.UINT32,
    "tensor(uint64)": DType.UINT64,
    "tensor(int8)": DType.INT8,
    "tensor(int16)": DType.INT16,
    "tensor(int32)": DType.INT32,
    "tensor(int64)": DType.INT64,
    "tensor(float16)": DType.FP16,
    "tensor(float)": DType.FP32,
    "tensor(double)": DType.FP64,
    "tensor(bfloat16)": DType.BF16,
    "tensor(string)": DType.BYTES,
    "tensor(float8e4m3fn)": DType.FP8_E4M3FN,
    "tensor(float8e5m2)": DType.FP8_E5M2,
}

# Element types that ONNX Runtime 1.32 does not pass as numpy arrays: numbers of
# onnx.TensorProto.DataType, needed to label the bytes.
_UNKNOWN_TO_NUMPY = {DType.BF16: 16, DType.FP8_E4M3FN: 17, DType.FP8_E5M2: 19}

onnxruntime.disable_telemetry_events()

_SILENT = 4
"""Log severity "fatal": every failure is raised, and logged where it is handled."""


def load(source: ModelSource, settings: ModelSettings, clock: Clock) -> LoadedModel:
    """Load an ONNX file once, and make one runner for each profile. See `LoadModel`."""
    session = OrtSession(source.file, settings.onnxruntime.threads)
    inputs = _complete_ranks(session.inputs, source, settings)
    plan = plan_profiles(
        inputs, session.outputs, settings, source.settings_file, needs_limits=False
    )
    if settings.profiles is None and plan.profiles[0].is_open:
        _log.info(
            "served with any shape",
            model=source.name,
            version=source.version,
            hint="a TensorRT plan needs limits; to set some, paste this into "
            f"{source.settings_file} and put in the sizes that requests have:\n"
            + format_template(inputs),
        )
    text_inputs = frozenset(t.name for t in inputs if t.dtype is DType.BYTES)
    spec = plan.make_spec(source, "onnxruntime", inputs, session.outputs, text_inputs)
    return LoadedModel(spec, tuple(_runner(spec, each, session) for each in spec.profiles))


def _runner(spec: ModelSpec, profile: Profile, session: OrtSession) -> HostRunner:
    options = onnxruntime.RunOptions()
    options.log_severity_level = _SILENT
    execute = functools.partial(session, options=options)
    return HostRunner(
        spec, profile, execute, functools.partial(setattr, options, "terminate", True)
    )


class OrtSession:
    """One loaded ONNX model, shared by its runners. May be run from several threads at once."""

    def __init__(self, file: Path, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        # Threads that spin while they wait for the next run take the cores from whoever
        # reads requests: with 1.32 on 2 cores, a run of 1 row every 2 ms cost 1.2 to 2.1 ms
        # of CPU time instead of 0.2, at no gain in execution time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Left to itself it counts the cores of the machine, not those it may use; its pool for
        # all sessions spins, whatever these ask for (1.32: 4.3 ms of CPU time instead of 1.3).
        options.intra_op_num_threads = threads or usable_cores()
        # From memory: it maps external data it reads itself, and whoever truncates such a file
        # under the server, as cp does, ends the process with SIGBUS (seen with 1.32).
        model = read_whole(file)
        held = add_external_data(options, file, model)
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no base class of their own
            raise ConfigError(f"{file}: ONNX Runtime cannot load it: {_one_line(error)}") from error
        del held  # it has copied what it needs
        self.inputs = _read_tensors("input", self._session.get_inputs(), file)
        self.outputs = _read_tensors("output", self._session.get_outputs(), file)
        self._output_names = [tensor.name for tensor in self.outputs]
        # What has to be converted for every run; most models have nothing of the kind.
        self._special_inputs = {
            tensor.name: tensor.dtype
            for tensor in self.inputs
            if tensor.dtype is DType.BYTES or tensor.dtype in _UNKNOWN_TO_NUMPY
        }
        self._special_outputs = {
            tensor.name: tensor.dtype
            for tensor in self.outputs
            if tensor.dtype is DType.BYTES or not tensor.shape
        }
        self._has_output_unknown_to_numpy = any(
            tensor.dtype in _UNKNOWN_TO_NUMPY for tensor in self.outputs
        )
        if self._has_output_unknown_to_numpy and DType.BYTES in self._special_inputs.values():
            raise ConfigError(
                f"{file}: string inputs beside BF16 or FP8 outputs cannot be served with "
                "ONNX Runtime; cast these outputs in the model"
            )

    def __call__(
        self, inputs: Mapping[str, Array], options: onnxruntime.RunOptions | None = None
    ) -> dict[str, Array]:
        """Execute the model; inputs are only read, outputs are new arrays of the caller's.

        Args:
            inputs: all of the model's.
            options: one run at a time uses them; setting their `terminate` ends it before its
                next operation.

        Raises:
            MalformedContents: an element of a BYTES input is not UTF-8.
            ExecutionFailed: ONNX Runtime refused the inputs or failed.
        """
        feeds: dict[str, object] = dict(inputs)
        for name, dtype in self._special_inputs.items():
            feeds[name] = _to_feed(name, inputs[name], dtype)
        if options is not None:
            options.terminate = False
        try:
            if self._has_output_unknown_to_numpy:
                arrays = self._run_with_values(feeds, options)
            else:
                arrays = self._session.run(self._output_names, feeds, options)
        except Exception as error:  # its exceptions have no base class of their own
            raise ExecutionFailed(f"ONNX Runtime failed: {_one_line(error)}") from error
        outputs = dict(zip(self._output_names, arrays, strict=True))
        for name, dtype in self._special_outputs.items():
            array = np.asarray(outputs[name])  # without dimensions it comes as a numpy scalar
            outputs[name] = encode_strings(array) if dtype is DType.BYTES else array
        return outputs

    def _run_with_values(
        self, feeds: Mapping[str, object], options: onnxruntime.RunOptions | None
    ) -> list[Array]:
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(feed)
            if isinstance(feed, np.ndarray)
            else feed
            for name, feed in feeds.items()
        }
        outputs = self._session.run_with_ort_values(self._output_names, values, options)
        return [
            _copy_elements(output, tensor.dtype)
            if tensor.dtype in _UNKNOWN_TO_NUMPY
            else np.array(output.numpy())
            for tensor, output in zip(self.outputs, outputs, strict=True)
        ]


def _read_tensors(
    role: str, found: Iterable[onnxruntime.NodeArg], file: Path
) -> tuple[TensorSpec, ...]:
    """Describe the inputs or outputs of a session; symbolic and unknown dimensions are dynamic.

    Raises:
        ConfigError: one has a type that no request could carry.
    """
    tensors = []
    for tensor in found:
        dtype = _DTYPES.get(tensor.type)
        if dtype is None:
            raise ConfigError(
                f"{file}: {role} '{tensor.name}' is a {tensor.type}, which cannot be served; "
                f"supported are {', '.join(_DTYPES)}"
            )
        # Some exporters write 0 or -1 for a dimension of any size.
        shape = tuple(s if isinstance(s, int) and s > 0 else DYNAMIC for s in tensor.shape)
        rows = tensor.shape[0] if tensor.shape else None
        rows_name = rows if isinstance(rows, str) else ""
        tensors.append(TensorSpec(tensor.name, dtype, shape, rows_name))
    return tuple(tensors)


def _complete_ranks(
    inputs: tuple[TensorSpec, ...], source: ModelSource, settings: ModelSettings
) -> tuple[TensorSpec, ...]:
    """Give inputs of unknown rank, which ONNX Runtime tells as scalars, that of the profiles.

    Raises:
        ConfigError: the profiles do not say it, or differ in it.
    """
    graph = None if all(each.shape for each in inputs) else read_graph(source.file)
    declared = graph.inputs if graph else {}
    completed = []
    for tensor in inputs:
        if declared.get(tensor.name, ()) is not None:
            completed.append(tensor)
            continue
        given = [
            p.tensors[tensor.name] for p in settings.profiles or () if tensor.name in p.tensors
        ]
        ranks = {len(each.opt) for each in given}
        if len(ranks) != 1:
            found = f"they give it {sorted(ranks)} dimensions" if ranks else "none gives it a shape"
            raise settings_error(
                source.settings_file,
                [
                    f"profiles: input '{tensor.name}' has no rank in the model, so that the "
                    f"profiles must say it, but {found}; give it min, opt and max of one rank in "
                    "every entry of [[profiles]], or export the model with shapes"
                ],
            )
        completed.append(replace(tensor, shape=(DYNAMIC,) * ranks.pop()))
    return tuple(completed)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _to_feed(name: str, array: Array, dtype: DType) -> object:
    if dtype is DType.BYTES:
        return decode_strings(array, name)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
        array.view(f"u{array.itemsize}"), _UNKNOWN_TO_NUMPY[dtype]
    )


def _copy_elements(value: onnxruntime.OrtValue, dtype: DType) -> Array:
    """Copy a value that cannot be read as a numpy array."""
    copy: Array = np.empty(tuple(value.shape()), dtype.numpy)
    if copy.nbytes:
        ctypes.memmove(copy.ctypes.data, value.data_ptr(), copy.nbytes)
    return copy
