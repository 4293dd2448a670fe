"""The tensors of the Open Inference Protocol v2: JSON or raw bytes -> values, and arrays -> either.

Numbers become float64, NaN for a JSON null, as in every other kind of request: so that the same value has the same x. Raw bytes
are little-endian and in row order; a text of BYTES has its length in 4 bytes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from service.arrow import Floats
from service.encoding import to_float64

DTYPES = {
    "BOOL": "?",
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
DATATYPES = (*DTYPES, "BYTES")
_OF_DTYPE = {"bool": "BOOL", "float32": "FP32", "float64": "FP64"}
_NONE = type(None)


class Output(NamedTuple):
    """An array (N, ...) to be told."""

    name: str
    values: NDArray[Any]
    binary: bool


def from_json(datatype: str, shape: Sequence[int], data: Any) -> Floats | list[str | None]:
    """The values of a tensor, flat, from its `data`: flat itself or nested as the shape is. Raises ValueError: what is wrong."""
    values = _flat(data, shape)
    allowed, words = _json_types(datatype)
    wrong = next((place for place, value in enumerate(values) if type(value) not in allowed), None)
    if wrong is not None:
        raise ValueError(f"element {wrong} is not {words}, as {datatype} has")
    if datatype == "BYTES":
        return values
    numbers = to_float64(values)
    if "INT" in datatype:
        if (numbers != np.floor(numbers))[~np.isnan(numbers)].any():
            raise ValueError(f"a value is not a whole number, as {datatype} has")
        bounds = np.iinfo(DTYPES[datatype])
        if ((numbers < bounds.min) | (numbers > bounds.max)).any():
            raise ValueError(f"a value is beyond what {datatype} holds")
    return numbers


def from_bytes(datatype: str, shape: Sequence[int], raw: memoryview) -> Floats | list[str | None]:
    """The values of a tensor, flat, from its bytes. Raises ValueError: what is wrong."""
    n = prod(shape)
    if datatype == "BYTES":
        return _texts(n, raw)
    dtype = np.dtype(DTYPES[datatype])
    if len(raw) != n * dtype.itemsize:
        raise ValueError(f"has {len(raw)} bytes, its shape and {datatype} make {n * dtype.itemsize}")
    if datatype == "BOOL":
        values = np.frombuffer(raw, np.uint8)
        if values.max(initial=0) > 1:
            raise ValueError("a byte of BOOL is neither 0 nor 1")
    else:
        values = np.frombuffer(raw, dtype)
    return values.astype(np.float64)


def write(head: dict[str, Any], outputs: Sequence[Output]) -> tuple[bytes, int]:
    """The body of an answer: JSON with the outputs in it, then the bytes of those that are binary. And the length of the JSON
    where bytes follow, else 0."""
    told, parts = list[dict[str, Any]](), list[bytes]()
    for name, values, binary in outputs:
        datatype = _OF_DTYPE[values.dtype.name]
        tensor = {"name": name, "datatype": datatype, "shape": values.shape}
        if binary:
            parts.append(np.ascontiguousarray(values).astype(DTYPES[datatype], copy=False).tobytes())
            told.append({**tensor, "parameters": {"binary_data_size": len(parts[-1])}})
        else:
            told.append({**tensor, "data": np.ascontiguousarray(values).reshape(-1)})
    document = orjson.dumps({**head, "outputs": told}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([document, *parts]), len(document) if parts else 0


def _flat(data: Any, shape: Sequence[int]) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError("must have its data as a list, or as bytes after the JSON with a binary_data_size")
    if not any(type(value) is list for value in data):
        if len(data) != prod(shape):
            raise ValueError(f"has {len(data)} values, its shape makes {prod(shape)}")
        return data
    level = [data]
    for size in shape:
        if any(type(part) is not list or len(part) != size for part in level):
            raise ValueError("its data is not nested as its shape says")
        level = [value for part in level for value in part]
    return level


def _json_types(datatype: str) -> tuple[frozenset[type], str]:
    if datatype == "BYTES":
        return frozenset({str, _NONE}), "a text"
    if datatype == "BOOL":
        return frozenset({bool, _NONE}), "true or false"
    return frozenset({int, float, _NONE}), "a number"  # 3.0 for an INT too: some clients write all numbers so


def _texts(n: int, raw: memoryview) -> list[str | None]:
    texts: list[str | None] = []
    place, end = 0, len(raw)
    while place < end and len(texts) <= n:
        size = int.from_bytes(raw[place : place + 4], "little")
        place += 4
        if place + size > end:
            raise ValueError("a text of BYTES ends after its bytes do")
        try:
            texts.append(str(raw[place : place + size], "utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"element {len(texts)} is not UTF-8") from None
        place += size
    if len(texts) != n:
        raise ValueError(f"has {'more' if len(texts) > n else len(texts)} texts, its shape makes {n}")
    return texts
