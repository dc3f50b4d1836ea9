"""Finds out what a plan does not declare of its outputs by asking for their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lanewise.backends.trt.binding import Binding, TrtObject
from lanewise.backends.trt.introspect import EngineFacts
from lanewise.memory.device import Stream
from lanewise.model.tensors import DYNAMIC, Array, Shape, TensorSpec, merge_sizes

Values = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Question:
    """Inputs within a profile: shapes by name, and the values of shape tensors, row-major."""

    profile: int
    shapes: Mapping[str, Shape]
    values: Values


Answer = Mapping[str, Shape] | None
"""Shapes by output, -1 where it depends on the data; None if the inputs contradict each other."""


def observe_outputs(facts: EngineFacts, ask: Callable[[Question], Answer]) -> EngineFacts:
    """Complete `facts` by the outputs' shapes at the ends of every profile.

    Dimensions become dynamic in which the shapes differ: TensorRT-RTX 1.6 tells the sizes of a
    first profile that admits but one as if they were the plan's. Outputs become `rowless`
    whose dimension 0 is not the number of rows that was asked with.
    """
    answers = [(each, ask(each)) for each in _questions(facts)]
    answered = [(question, answer) for question, answer in answers if answer is not None]
    outputs = tuple(
        replace(t, shape=merge_sizes(t.shape, [answer[t.name] for _, answer in answered]))
        for t in facts.outputs
    )
    rowless = frozenset(
        t.name
        for t in outputs
        for question, answer in answered
        if _is_rowless(answer[t.name], _rows(facts.inputs, question))
    )
    return replace(facts, outputs=outputs, rowless=rowless)


class EngineShapes:
    """Asks an engine, by a context that runs nothing and has no memory of its own.

    A context manager; for one thread.
    """

    def __init__(self, binding: Binding, engine: TrtObject, facts: EngineFacts) -> None:
        strategies = binding.module.ExecutionContextAllocationStrategy
        self._messages = binding.messages
        self._context = engine.create_execution_context(strategies.USER_MANAGED)
        self._facts = facts
        self._stream = Stream()
        self._profile: int | None = None
        self._held: list[Array] = []  # TensorRT reads values where they lie, whenever it likes

    def __enter__(self) -> EngineShapes:
        return self

    def __exit__(self, *error: object) -> None:
        self._context = None
        self._stream.close()

    def __call__(self, question: Question) -> Answer:
        context = self._context
        if question.profile != self._profile:
            context.set_optimization_profile_async(question.profile, self._stream.number)
            self._stream.synchronize()
            self._profile = question.profile
        for name, shape in question.shapes.items():
            context.set_input_shape(name, shape)
        for tensor in self._facts.inputs:
            if tensor.name in question.values:
                self._held.append(np.array(question.values[tensor.name], tensor.dtype.numpy))
                context.set_tensor_address(tensor.name, self._held[-1].ctypes.data)
        if question.values:
            try:
                with self._messages.collecting():
                    context.infer_shapes()
            except RuntimeError:  # min, or max, of shapes and values need not go together
                return None
        answer = {
            tensor.name: tuple(int(size) for size in context.get_tensor_shape(tensor.name))
            for tensor in self._facts.outputs
        }
        is_valid = all(len(answer[t.name]) == len(t.shape) for t in self._facts.outputs)
        return answer if is_valid else None  # TensorRT's "invalid" comes out as ()


def _questions(facts: EngineFacts) -> Sequence[Question]:
    """List the ends of every profile; shapes and values vary independently of each other."""
    questions = []
    for index, profile in enumerate(facts.profiles):
        pairs = [("min", "min"), ("max", "max")]
        if profile.values:
            # Only the opts are sure to go together: the builder checks no others.
            pairs = [(a, b) for a in ("opt", "min", "max") for b in ("opt", "min", "max")]
        for shape_end, value_end in pairs:
            shapes = {name: getattr(each, shape_end) for name, each in profile.shapes.items()}
            values = {name: getattr(each, value_end) for name, each in profile.values.items()}
            questions.append(Question(index, shapes, values))
    return questions


def _rows(inputs: Sequence[TensorSpec], question: Question) -> int | None:
    """Get the rows of a question; None if its inputs have none or differ in them."""
    sizes = {
        question.shapes[each.name][0]
        for each in inputs
        if each.name in question.shapes and each.has_dynamic_rows
    }
    return sizes.pop() if len(sizes) == 1 else None


def _is_rowless(shape: Shape, rows: int | None) -> bool:
    return rows is not None and (not shape or shape[0] == DYNAMIC or shape[0] != rows)
