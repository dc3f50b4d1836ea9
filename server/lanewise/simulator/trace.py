"""Trace files: what was asked of a model and when, never with what data.

A JSON line each: a header; a definition of each combination of input shapes, before its first
use and with "define" as its first key; a request, without what has its default.

    {"format": "lanewise-trace", "version": 1, "model": "resnet50", "inputs": ["image"]}
    {"define": 0, "shapes": [[1, 3, 224, 224]]}
    {"at_ns": 1200345, "shapes": 0, "timeout_ns": 20000000}
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, TypeVar

import structlog
from pydantic import Field, ValidationError

from lanewise.errors import ConfigError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Shape
from lanewise.scheduler.request import DEFAULT_TARGET_NS, RequestOptions
from lanewise.settings.model import Table, describe_problems, settings_error
from lanewise.simulator.traffic import Arrival

FORMAT = "lanewise-trace"

MAX_SHAPES = 4096
"""Combinations of shapes with a number at a time. When there are more the numbers are given out
anew, so that hostile traffic does not fill the memory of the server that records it."""

BUFFER_BYTES = 1 << 16
"""Written at a time: some hundred requests, so that recording one costs microseconds."""

_log = structlog.get_logger(__name__)

_Nanoseconds = Annotated[int, Field(ge=0)]


class TraceWriter:
    """Writes a trace file, over what is there. Used by one thread.

    Writing may fail later on, when the disk is full, say: then the trace ends there, and a line
    in the log tells; the requests themselves must not suffer.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        self._path = path
        self._names = [tensor.name for tensor in spec.inputs]
        self._numbers: dict[tuple[Shape, ...], int] = {}
        self._began_ns: int | None = None
        self._file: TextIO | None = path.open("w", encoding="utf-8", buffering=BUFFER_BYTES)
        header = {"format": FORMAT, "version": 1, "model": spec.name, "inputs": self._names}
        try:
            self._put(header)
            self._file.flush()  # what cannot be written fails here, when the server starts
        except OSError:
            self._abandon()
            raise

    def record(self, shapes: Mapping[str, Shape], options: RequestOptions, now_ns: int) -> None:
        """Record a request, as a dispatcher's `when_arrived`; the first comes at 0."""
        if self._began_ns is None:
            self._began_ns = now_ns
        timeout_ns = target_ns = None
        if options.deadline_ns is not None:
            timeout_ns = max(0, options.deadline_ns - now_ns)
        elif options.target_ns != DEFAULT_TARGET_NS:
            target_ns = options.target_ns
        ordered = tuple(shapes[name] for name in self._names)
        at_ns = now_ns - self._began_ns
        about = timeout_ns, target_ns, options.priority, options.profile
        self.write(Arrival(at_ns, ordered, *about))

    def write(self, arrival: Arrival) -> None:
        """Append a request, which must not be earlier than the one before it."""
        if self._file is None:
            return
        try:
            self._append(arrival)
        except OSError as error:
            _log.error("trace ends: it cannot be written", file=str(self._path), error=str(error))
            self._abandon()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except OSError as error:
            _log.error("trace is cut off", file=str(self._path), error=str(error))

    def _append(self, arrival: Arrival) -> None:
        number = self._numbers.get(arrival.shapes)
        if number is None:
            if len(self._numbers) == MAX_SHAPES:
                self._numbers.clear()
            number = self._numbers[arrival.shapes] = len(self._numbers)
            self._put({"define": number, "shapes": arrival.shapes})
        line: dict[str, Any] = {"at_ns": arrival.at_ns, "shapes": number}
        if arrival.timeout_ns is not None:
            line["timeout_ns"] = arrival.timeout_ns
        if arrival.target_ns is not None:
            line["target_ns"] = arrival.target_ns
        if arrival.priority != 1:
            line["priority"] = arrival.priority
        if arrival.pin is not None:
            line["pin"] = arrival.pin
        if arrival.kind:
            line["kind"] = arrival.kind
        self._put(line)

    def _put(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _abandon(self) -> None:
        """Close the file without a second word about what is wrong with it."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


class _Header(Table):
    format: Literal["lanewise-trace"]
    version: Literal[1]
    model: str
    inputs: tuple[str, ...]


class _Definition(Table):
    define: Annotated[int, Field(ge=0, lt=MAX_SHAPES)]
    shapes: tuple[Shape, ...]


class _Request(Table):
    at_ns: _Nanoseconds
    shapes: Annotated[int, Field(ge=0)]
    timeout_ns: _Nanoseconds | None = None
    target_ns: _Nanoseconds | None = None
    priority: Annotated[int, Field(ge=1)] = 1
    pin: str | int | None = None
    kind: str = ""


_TableT = TypeVar("_TableT", bound=Table)


class TraceFile:
    """A trace on disk; each iteration reads it anew, a line at a time.

    Iterating raises ConfigError, which names the line, where the file is not as it should be.
    A last line that was cut off, because the server was killed, is left out.

    Attributes:
        model: name of the model that was asked.
        inputs: names of its inputs, in the order of an arrival's shapes.

    Raises:
        ConfigError: the file cannot be read or does not begin as a trace of this version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with self._open() as file:
                header = self._parse(_Header, file.readline(), 1)
        except OSError as error:
            raise settings_error(path, [f"cannot be read: {error.strerror}"]) from error
        self.model = header.model
        self.inputs = header.inputs

    def __iter__(self) -> Iterator[Arrival]:
        """Read the requests in order of arrival."""
        table: dict[int, tuple[Shape, ...]] = {}
        last_ns = 0
        with self._open() as file:
            file.readline()
            for number, line in enumerate(file, start=2):
                if not line.endswith("\n"):
                    return
                if line.startswith('{"define"'):
                    definition = self._parse(_Definition, line, number)
                    table[definition.define] = definition.shapes
                    continue
                request = self._parse(_Request, line, number)
                if request.at_ns < last_ns:
                    raise self._wrong(number, ["earlier than the request before it"])
                last_ns = request.at_ns
                if request.shapes not in table:
                    problem = f"shapes: {request.shapes} was not defined before"
                    raise self._wrong(number, [problem])
                yield Arrival(
                    request.at_ns,
                    table[request.shapes],
                    request.timeout_ns,
                    request.target_ns,
                    request.priority,
                    request.pin,
                    request.kind,
                )

    def _open(self) -> TextIO:
        # What is not UTF-8 is not JSON either, and reported as that, with its line.
        return self._path.open(encoding="utf-8", errors="replace")

    def _parse(self, table: type[_TableT], line: str, number: int) -> _TableT:
        try:
            return table.model_validate_json(line)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                raise self._wrong(number, ["is not JSON"]) from error
            raise self._wrong(number, describe_problems(error, table)) from error

    def _wrong(self, number: int, problems: list[str]) -> ConfigError:
        return settings_error(Path(f"{self._path}:{number}"), problems)
