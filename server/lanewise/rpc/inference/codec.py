"""Inference messages to arrays and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from lanewise.errors import (
    DTypeMismatch,
    InvalidRegion,
    InvalidRequest,
    MalformedContents,
    ShapeMismatch,
    UnknownTensor,
    Unsupported,
)
from lanewise.model.raw_contents import array_from_raw, raw_from_array
from lanewise.model.regions import NO_PLACEMENTS, RegionSlice, RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array, DType, Shape, TensorSpec, element_count, format_shape
from lanewise.rpc.inference.parameters import (
    REGION,
    read_slice,
    refuse_output_parameters,
    write_slice,
)
from lanewise.scheduler.results import InferResult
from lanewise_client.contents import read_typed
from lanewise_client.datatypes import TYPED_LISTS
from lanewise_client.protos.inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)

MAX_RANK = 32
"""The most dimensions an array of numpy 1 can have."""

# Far above what a message holds, far below where sizes in bytes overflow 64 bits. Without
# it a few bytes of shape could ask numpy, or Python's integers, for the impossible.
_MAX_ELEMENTS = 2**48

FindRoute: TypeAlias = Callable[[Mapping[str, Shape], str | int | None], object]

# Stands in for an input until its contents are read.
_NOT_READ = RegionSlice("", 0, 0)


@dataclass(frozen=True, slots=True)
class OutputSelection:
    """The outputs of a response, in their order.

    Attributes:
        raw: whether they are sent as raw contents, or else as typed ones.
        placements: those that are written to shared memory instead, by name.
    """

    tensors: tuple[TensorSpec, ...]
    raw: bool
    placements: Mapping[str, RegionSlice] = field(default_factory=dict)


class Codec:
    """Decodes the requests of one version of a model, and encodes their responses.

    Looks up once, not for each request, what they need of the model.
    """

    def __init__(self, spec: ModelSpec, route: FindRoute | None = None) -> None:
        """Make the codec of a model.

        Args:
            spec: of the model.
            route: raises if a request has no route, see `Router.route`; asked before costly
                contents are read. None: they are read in any case.
        """
        self.spec = spec
        self._route = route
        self._inputs = {tensor.name: (tensor.dtype, tensor.dtype.value) for tensor in spec.inputs}
        self._outputs = {tensor.name: tensor for tensor in spec.outputs}
        self._output_datatypes = {tensor.name: tensor.dtype.value for tensor in spec.outputs}
        self._every_output = OutputSelection(spec.outputs, raw=True, placements=NO_PLACEMENTS)

    def decode_inputs(
        self, request: ModelInferRequest, profile: str | int | None = None
    ) -> dict[str, Array | RegionTensor]:
        """Get an array in host memory, or a reference to shared memory, for every input.

        Shapes are checked against the contents; routing checks them against the model. Contents
        that cost time for each element, typed ones and BYTES, are read last, once the request
        is known to have a route.

        Args:
            request: the outputs are not read.
            profile: name or index of the only profile allowed; None: any.

        Returns:
            By input name, in the datatypes of the model. Raw contents become read-only views;
            BYTES become arrays of `bytes` objects.

        Raises:
            UnknownTensor: an input the model lacks, or one of its inputs is missing.
            DTypeMismatch: a datatype other than the model's.
            ShapeMismatch: a shape that no array can have.
            ShapeMismatch, UnknownProfile, NoProfileAdmits: typed contents or BYTES of a request
                without a route, see `Router.route`.
            MalformedContents: contents that do not make up the shape.
            InvalidRequest: an input is sent twice.
            InvalidRegion: a slice of shared memory of another size than the tensor has.
            Unsupported: typed contents of a datatype that has none.
        """
        # A list: protobuf would make the objects anew in each of two loops.
        inputs, raw_contents = list(request.inputs), request.raw_input_contents
        if raw_contents:
            self._check_raw_entries(inputs, len(raw_contents))
        next_raw = iter(raw_contents)
        arrays: dict[str, Array | RegionTensor] = {}
        costly: list[tuple[str, bytes | InferTensorContents]] = []
        for sent in inputs:
            name = sent.name
            if name not in self._inputs:
                raise UnknownTensor(
                    f"{self._title(name)}: no such input; the model has {_listed(self._inputs)}"
                )
            if name in arrays:
                raise InvalidRequest(f"{self._title(name)}: sent twice; send each input once")
            where = read_slice(sent.parameters, self._title(name)) if sent.parameters else None
            dtype, datatype = self._inputs[name]
            if sent.datatype != datatype:
                raise self._wrong_datatype(name, sent.datatype)
            shape = tuple(sent.shape)
            self._check_shape(name, shape)
            if where is not None:
                arrays[name] = _in_region(where, dtype, shape, sent.contents, self._title(name))
            elif not raw_contents or dtype is DType.BYTES:
                costly.append((name, next(next_raw) if raw_contents else sent.contents))
                arrays[name] = RegionTensor(_NOT_READ, dtype, shape)
            else:
                try:
                    arrays[name] = array_from_raw(next(next_raw), dtype, shape)
                except ValueError as error:
                    raise MalformedContents(f"{self._title(name)}: {error}") from error
        if len(arrays) != len(self._inputs):
            raise self._missing(arrays)
        if costly:
            self._read_costly(costly, arrays, profile)
        return arrays

    def _read_costly(
        self,
        costly: Iterable[tuple[str, bytes | InferTensorContents]],
        arrays: dict[str, Array | RegionTensor],
        profile: str | int | None,
    ) -> None:
        """Put the arrays of `costly` contents in the place of what stands in for them."""
        shapes = {name: each.shape for name, each in arrays.items()}
        if self._route is not None:
            self._route(shapes, profile)
        for name, contents in costly:
            arrays[name] = self._read_one(name, contents, shapes[name])

    def _read_one(self, name: str, contents: bytes | InferTensorContents, shape: Shape) -> Array:
        dtype, datatype = self._inputs[name]
        if not isinstance(contents, bytes):
            return _array_from_typed(contents, datatype, shape, self._title(name))
        try:
            return array_from_raw(contents, dtype, shape)
        except ValueError as error:
            raise MalformedContents(f"{self._title(name)}: {error}") from error

    def select_outputs(self, request: ModelInferRequest, *, raw: bool) -> OutputSelection:
        """Get the outputs that a request names, or all of them, in the order of the model.

        Args:
            request: only its requested outputs are read.
            raw: whether outputs are sent as raw contents, or else as typed ones.

        Raises:
            UnknownTensor: an output the model lacks.
            InvalidRequest: an output is named twice.
            Unsupported: classification, or a datatype that has no typed contents.
        """
        if raw and not request.outputs:
            return self._every_output
        tensors, placements = self.spec.outputs, NO_PLACEMENTS
        if request.outputs:
            tensors, placements = self._named_outputs(request)
        if not raw:
            for tensor in tensors:
                if tensor.dtype.value not in TYPED_LISTS and tensor.name not in placements:
                    raise Unsupported(
                        f"model '{self.spec.name}', output '{tensor.name}': {tensor.dtype.value} "
                        "has no typed contents; leave out the request parameter "
                        "'binary_data_output'"
                    )
        return OutputSelection(tensors, raw, placements)

    def encode_response(
        self, request_id: str, selection: OutputSelection, result: InferResult, profile: str
    ) -> ModelInferResponse:
        """Build the response to a request.

        Its parameters are `profile`, see `profile_names`; `padded_rows` and `batch_rows`,
        summed over its launches; `launches`, their number; and `cold` if the request waited for
        a shape to be compiled.
        """
        response = ModelInferResponse(
            model_name=self.spec.name, model_version=self.spec.version, id=request_id
        )
        for tensor in selection.tensors:
            name = tensor.name
            placed = result.placed.get(name)
            found = result.outputs[name] if placed is None else placed
            output = response.outputs.add(
                name=name, datatype=self._output_datatypes[name], shape=found.shape
            )
            # An output in shared memory has an empty raw entry, as in Triton's responses, which
            # clients rely on.
            raw = b""
            if isinstance(found, RegionTensor):
                write_slice(output.parameters, found.where)
            elif selection.raw:
                raw = raw_from_array(found, tensor.dtype)
            else:
                elements = getattr(output.contents, TYPED_LISTS[tensor.dtype.value])
                elements.extend(found.ravel().tolist())
            if selection.raw:
                response.raw_output_contents.append(raw)
        padded_rows = batch_rows = 0
        for launch in result.launches:
            padded_rows += launch.padded_rows
            batch_rows += launch.batch_rows
        parameters = response.parameters
        parameters["profile"].string_param = profile
        parameters["padded_rows"].int64_param = padded_rows
        parameters["batch_rows"].int64_param = batch_rows
        parameters["launches"].int64_param = len(result.launches)
        if result.was_cold:
            parameters["cold"].bool_param = True
        return response

    def _title(self, name: str) -> str:
        return f"model '{self.spec.name}', input '{name}'"

    def _check_raw_entries(
        self, inputs: Iterable[ModelInferRequest.InferInputTensor], entries: int
    ) -> None:
        """Refuse typed contents beside raw ones, and a wrong number of raw ones.

        There is one for each input that is not in shared memory, in their order.
        """
        wanted = 0
        for sent in inputs:
            if sent.HasField("contents") and sent.contents.ListFields():
                raise MalformedContents(
                    f"{self._title(sent.name)}: typed contents beside raw_input_contents; "
                    "send all inputs raw or all typed"
                )
            if REGION not in sent.parameters:
                wanted += 1
        if entries != wanted:
            raise MalformedContents(
                f"model '{self.spec.name}': {entries} entries in raw_input_contents for {wanted} "
                "inputs that are not in shared memory; send one for each"
            )

    def _wrong_datatype(self, name: str, sent: str) -> DTypeMismatch:
        wanted = self._inputs[name][1]
        if sent in DType.__members__:
            problem = f"datatype {sent}, but the model takes {wanted}"
        else:
            problem = f"unknown datatype '{sent}'; the model takes {wanted} here"
        return DTypeMismatch(f"{self._title(name)}: {problem}")

    def _missing(self, sent: Mapping[str, object]) -> UnknownTensor:
        missing = [name for name in self._inputs if name not in sent]
        return UnknownTensor(
            f"model '{self.spec.name}': {_listed(missing)} missing among the inputs; "
            f"send all of {_listed(self._inputs)}"
        )

    def _check_shape(self, name: str, shape: Shape) -> None:
        """Refuse shapes that no array can have, without computing with them first."""
        if len(shape) > MAX_RANK:
            raise ShapeMismatch(
                f"{self._title(name)}: {len(shape)} dimensions; at most {MAX_RANK} are allowed"
            )
        elements = 1
        for size in shape:
            if size < 0:
                raise ShapeMismatch(
                    f"{self._title(name)}: shape {list(shape)} has a negative dimension; "
                    "send the actual sizes"
                )
            # A zero does not make the rest harmless: numpy multiplies the other dimensions.
            elements *= size or 1
        if elements > _MAX_ELEMENTS:
            raise ShapeMismatch(
                f"{self._title(name)}: shape {list(shape)} is larger than any message"
            )

    def _named_outputs(
        self, request: ModelInferRequest
    ) -> tuple[tuple[TensorSpec, ...], dict[str, RegionSlice]]:
        placements: dict[str, RegionSlice] = {}
        chosen: dict[str, TensorSpec] = {}
        for wanted in request.outputs:
            name = wanted.name
            title = f"model '{self.spec.name}', output '{name}'"
            if name not in self._outputs:
                raise UnknownTensor(
                    f"{title}: no such output; the model has {_listed(self._outputs)}"
                )
            if name in chosen:
                raise InvalidRequest(f"{title}: requested twice; name each output once")
            if wanted.parameters:
                refuse_output_parameters(wanted.parameters, title)
                where = read_slice(wanted.parameters, title)
                if where is not None:
                    placements[name] = where
            chosen[name] = self._outputs[name]
        return tuple(chosen.values()), placements


def profile_names(result: InferResult) -> str:
    """Join the names of the profiles by commas: each once, in launch order."""
    launches = result.launches
    if len(launches) == 1:
        return launches[0].profile.name
    return ",".join(dict.fromkeys(launch.profile.name for launch in launches))


def _in_region(
    where: RegionSlice, dtype: DType, shape: Shape, contents: InferTensorContents, title: str
) -> RegionTensor:
    """Refer to an input in shared memory; its slice must be exactly as long as its contents."""
    if contents.ListFields():
        raise MalformedContents(f"{title}: typed contents beside shared memory; send one of them")
    if dtype is not DType.BYTES:
        wanted = element_count(shape) * dtype.numpy.itemsize
        if where.byte_size != wanted:
            raise InvalidRegion(
                f"{title}: {where.byte_size} bytes of shared memory, but shape "
                f"{format_shape(shape)} of {dtype.value} takes {wanted}"
            )
    return RegionTensor(where, dtype, shape)


def _array_from_typed(
    contents: InferTensorContents, datatype: str, shape: Shape, title: str
) -> Array:
    """Copy typed contents into a new array of `shape`; no list but that of `datatype` is filled."""
    wanted = TYPED_LISTS.get(datatype)
    if wanted is None:
        raise Unsupported(f"{title}: {datatype} has no typed contents; send it raw")
    for filled, _ in contents.ListFields():
        if filled.name != wanted:
            raise MalformedContents(
                f"{title}: {filled.name} is filled, but {datatype} belongs into {wanted}"
            )
    sent = len(getattr(contents, wanted))
    if sent != element_count(shape):
        raise MalformedContents(
            f"{title}: {sent} elements in {wanted}, but shape "
            f"{format_shape(shape)} takes {element_count(shape)}"
        )
    try:
        elements = read_typed(contents, datatype)
    except ValueError as error:
        raise MalformedContents(f"{title}: {error}") from error
    return elements.reshape(shape)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
