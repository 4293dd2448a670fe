"""What is known of a graph's tensors before it runs: their shapes, and the values that shapes are made of.

Shapes that depend on the number of rows n are bounded from above: n may be added to, multiplied and divided, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.wire import Message

MAX_RANK = 8
LARGE = 1 << 62  # below which whole numbers of 64 bits do not overflow when two are added
FEW = 1 << 10  # whole numbers, up to which a tensor is worked out and not only its shape
INT64 = 7
DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), INT64: np.dtype("<i8"), 9: np.dtype("?")}  # by ONNX's numbers


class GraphError(ValueError):
    """A graph is not one that may be run; the text says why."""


class Rows(int):
    """A size that depends on n, as it is for the largest n; only what keeps it an upper bound may be done with it."""

    def __add__(self, other: int) -> Rows:
        return Rows(int(self) + int(counted(other)))

    def __mul__(self, other: int) -> Rows:
        return Rows(int(self) * int(counted(other)))

    def __floordiv__(self, other: int) -> Rows:
        if isinstance(other, Rows):
            raise TypeError("n divided by n")
        return Rows(int(self) // int(counted(other)))

    def __rfloordiv__(self, other: int) -> Rows:
        raise TypeError("divided by n: the fewer the more")

    __radd__, __rmul__ = __add__, __mul__


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's shape; its values where it is a constant, or a few whole numbers that shapes are made of (as objects)."""

    shape: Shape
    constant: NDArray[Any] | None = None
    numbers: NDArray[np.object_] | None = None

    @property
    def cells(self) -> int:
        """How many values it has."""
        return int(math.prod(self.shape))


def constant(given: Message) -> Tensor:
    """A tensor that the graph holds: its bytes must be all that its shape asks for, and no number NaN."""
    dtype, shape = DTYPES.get(given.get("data_type", 0)), tuple(given.get("dims", ()))
    if dtype is None:
        raise GraphError(f"a constant of type {given.get('data_type', 0)}")
    content = given.get("raw_data", b"")
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(content):
        raise GraphError("a constant whose bytes are not those of its shape")
    values: NDArray[Any] = np.frombuffer(content, dtype).reshape(shape)
    if dtype.kind == "f" and np.isnan(values).any():
        raise GraphError("a constant with NaN")
    few = dtype.kind != "f" and values.size <= FEW
    return Tensor(shape, values, np.array(values.tolist(), dtype=object) if few else None)


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with its attributes, and how many outputs are wanted of it."""

    op: str
    attributes: dict[str, Message]
    outputs: int

    def whole(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        return int(self.attributes.get(name, {}).get("i", default))


def counted(number: int) -> int:
    """A size; TypeError where it is negative."""
    if number < 0:
        raise TypeError("a negative size")
    return number


def widest(sizes: Sequence[int]) -> int:
    """The size of an axis that these are broadcast to; whether they can be, onnxruntime finds out."""
    if 0 in sizes:
        return 0
    return max(sizes)


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that all of these are broadcast to. Raises GraphError."""
    rank = max(map(len, shapes))
    if rank > MAX_RANK:
        raise GraphError("of too many dimensions")
    return tuple(widest(sizes) for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True))


def known(given: Tensor) -> list[int]:
    """The whole numbers of a tensor that a shape is made of."""
    if given.numbers is None or given.numbers.ndim > 1:
        raise GraphError("a shape that depends on the records")
    numbers: list[int] = given.numbers.reshape(-1).tolist()
    return numbers


def fixed(given: Tensor) -> list[int]:
    """Those of a tensor that may not depend on n."""
    return [int(number) for number in without_rows(np.asarray(known(given), dtype=object))[0]]


def without_rows(*parts: NDArray[np.object_]) -> tuple[NDArray[np.object_], ...]:
    """The same; TypeError where one of them depends on n."""
    if any(isinstance(number, Rows) for part in parts for number in np.asarray(part, dtype=object).reshape(-1)):
        raise TypeError("of n")
    return parts
