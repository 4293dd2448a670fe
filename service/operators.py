"""The operators that a graph may have: the shapes that each makes and its work, by its rule. One without a rule is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from service.shapes import (
    FEW,
    INT64,
    LARGE,
    GraphError,
    Node,
    Rows,
    Tensor,
    broadcast,
    constant,
    counted,
    fixed,
    known,
    widest,
    without_rows,
)

Rule = Callable[[Node, list[Tensor]], tuple[list[Tensor], int]]


def _each(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    return [Tensor(broadcast([given.shape for given in inputs]))], 0


def _arithmetic(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    """Element by element, and worked out where shapes are made of the result."""
    shape = broadcast([given.shape for given in inputs])
    parts = [given.numbers for given in inputs]
    numbers = None
    if math.prod(shape) <= FEW and all(part is not None for part in parts):
        try:
            numbers = np.asarray(ARITHMETIC[node.op](*parts), dtype=object)
        except (TypeError, ZeroDivisionError):  # of n in a way that is no bound: the result is no shape then
            numbers = None
        if numbers is not None and not all(0 <= number < LARGE for number in numbers.flat):
            numbers = None
    return [Tensor(shape, None, numbers)], 0


def _same(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    return [Tensor(inputs[0].shape, None, inputs[0].numbers)], 0


def _cast(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    return [Tensor(inputs[0].shape, None, inputs[0].numbers if node.whole("to", 0) == INT64 else None)], 0


def _constant(node: Node, _: list[Tensor]) -> tuple[list[Tensor], int]:
    return [constant(node.attributes["value"]["t"])], 0


def _shape(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    sizes = inputs[0].shape[node.whole("start", 0) : node.attributes.get("end", {}).get("i")]
    return [Tensor((len(sizes),), None, np.array(sizes, dtype=object))], 0


def _filled(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    return [Tensor(tuple(counted(size) for size in known(inputs[0])))], 0


def _gather(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    data, places = inputs
    axis = range(len(data.shape))[node.whole("axis", 0)]
    numbers = None
    if data.numbers is not None and places.numbers is not None:
        numbers = np.asarray(
            data.numbers.take(np.asarray(fixed(places), dtype=np.int64).reshape(places.shape), axis), dtype=object
        )
    return [Tensor(data.shape[:axis] + places.shape + data.shape[axis + 1 :], None, numbers)], 0


def _gather_elements(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    data, places = inputs
    if len(data.shape) != len(places.shape):
        raise GraphError("places of another rank")
    return [Tensor(places.shape)], 0


def _slice(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    data, starts, ends, *more = inputs
    axes = fixed(more[0]) if more else range(starts.cells)
    steps = fixed(more[1]) if len(more) > 1 else [1] * starts.cells
    shape, cut = list(data.shape), [slice(None)] * len(data.shape)
    for axis, start, end, step in zip(axes, known(starts), known(ends), steps, strict=True):
        if not any(isinstance(size, Rows) for size in (shape[axis], start, end)):
            cut[axis] = slice(start, end, step)
            shape[axis] = len(range(*cut[axis].indices(shape[axis])))
        elif data.numbers is not None:
            raise GraphError("a part of a shape that depends on n")
        elif end >= 0 and step > 0:
            shape[axis] = Rows(min(shape[axis], end))  # at most; what is left when n is small is less
    numbers = None if data.numbers is None else np.asarray(data.numbers[tuple(cut)], dtype=object)
    return [Tensor(tuple(shape), None, numbers)], 0


def _concat(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    first = inputs[0].shape
    axis = range(len(first))[node.whole("axis", 0)]
    if any(len(given.shape) != len(first) for given in inputs):
        raise GraphError("inputs of another rank")
    shape = tuple(
        sum(sizes) if at == axis else widest(sizes) for at, sizes in enumerate(zip(*(i.shape for i in inputs), strict=True))
    )
    parts = [given.numbers for given in inputs if given.numbers is not None]
    few = len(parts) == len(inputs) and math.prod(shape) <= FEW
    return [Tensor(shape, None, np.concatenate(parts, axis) if few else None)], 0


def _unsqueeze(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    data, axes = inputs
    rank = len(data.shape) + axes.cells
    new, sizes = {range(rank)[axis] for axis in fixed(axes)}, iter(data.shape)
    shape = tuple(1 if axis in new else next(sizes) for axis in range(rank))
    return [Tensor(shape, None, None if data.numbers is None else data.numbers.reshape(shape))], 0


def _squeeze(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    data, axes = inputs
    rank = len(data.shape)
    gone = {range(rank)[axis] for axis in fixed(axes)}
    if any(data.shape[axis] != 1 for axis in gone):
        raise GraphError("an axis that is not 1 cannot be left out")
    return [Tensor(tuple(data.shape[axis] for axis in range(rank) if axis not in gone))], 0


def _split(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    data, sizes = inputs
    axis, parts = range(len(data.shape))[node.whole("axis", 0)], fixed(sizes)
    if isinstance(data.shape[axis], Rows) or min(parts) < 0 or sum(parts) != data.shape[axis] or len(parts) != node.outputs:
        raise GraphError("parts that are not those of the whole")
    return [Tensor((*data.shape[:axis], part, *data.shape[axis + 1 :])) for part in parts], 0


def _transpose(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    shape = inputs[0].shape
    order = node.attributes.get("perm", {}).get("ints", range(len(shape))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise GraphError("an order that is none")
    return [Tensor(tuple(shape[axis] for axis in order))], 0


def _top(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    shape = list(inputs[0].shape)
    (kept,) = fixed(inputs[1])
    shape[node.whole("axis", -1)] = counted(kept)
    return [Tensor(tuple(shape))] * 2, inputs[0].cells * 16


def _largest(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    shape = inputs[0].shape
    axis = range(len(shape))[node.whole("axis", 0)]
    return [Tensor(shape[:axis] + (1,) * node.whole("keepdims", 1) + shape[axis + 1 :])], inputs[0].cells


def _reduced(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    data, axes = inputs
    gone = {range(len(data.shape))[axis] for axis in fixed(axes)}
    if not node.whole("keepdims", 1):
        raise GraphError("axes that are not kept")
    return [Tensor(tuple(1 if axis in gone else size for axis, size in enumerate(data.shape)))], data.cells


def _reshape(_: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    """To rows of so many values: (n, W) to (n W / P, P)."""
    data, sizes = inputs
    rows, width = fixed(sizes)
    values = int(math.prod(data.shape[1:]))
    if rows != -1 or not isinstance(data.shape[0], Rows) or not 1 <= width <= data.shape[0] * values:
        raise GraphError("not to rows of so many values")
    return [Tensor((data.shape[0] * values // width, width))], 0


def _product(node: Node, inputs: list[Tensor]) -> tuple[list[Tensor], int]:
    """MatMul and Gemm: of matrices, their constants finite."""
    if any(given.constant is not None and not np.isfinite(given.constant).all() for given in inputs):
        raise GraphError("a weight that is not finite")
    a, b = (given.shape for given in inputs[:2])
    if min(len(a), len(b)) < 2:
        raise GraphError("not of matrices")
    a = (*a[:-2], a[-1], a[-2]) if node.whole("transA", 0) else a
    b = (*b[:-2], b[-1], b[-2]) if node.whole("transB", 0) else b
    shape = (*broadcast([a[:-2], b[:-2]]), a[-2], b[-1])
    made = Tensor(broadcast([shape, *(given.shape for given in inputs[2:])]))
    return [made], made.cells * int(max(a[-1], b[-2]))


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Mul": np.multiply,
    "Sub": lambda a, b: np.subtract(*without_rows(a, b)),
    "Div": np.floor_divide,  # of numbers that are not negative, as all are here
    "Min": lambda *parts: np.minimum.reduce(without_rows(*parts)),
}
ELEMENT_BY_ELEMENT = (
    *("Abs", "Atan", "Clip", "Equal", "Exp", "Greater", "IsNaN", "Less", "LessOrEqual", "Log", "Max"),
    *("Neg", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Tanh", "Where"),
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    **dict.fromkeys(ELEMENT_BY_ELEMENT, _each),
    "ArgMax": _largest,
    "ArgMin": _largest,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _product,
    "Identity": _same,
    "MatMul": _product,
    "ReduceMax": _reduced,
    "ReduceMin": _reduced,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _same,
    "Split": _split,
    "Squeeze": _squeeze,
    "TopK": _top,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
