"""The bytes of an ONNX graph as dicts, read without onnx and before onnxruntime sees them.

Only the fields that a bundle's graphs use are known, and each once where there is one. A field that is not on the list (external
data, functions, subgraphs, sparse or quantized tensors, metadata) is refused: nothing can hide in what is not understood here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

# message -> field number -> (name, kind); kinds are int, float, text, bytes or a message, with * where there may be several.
# The numbers are those of onnx.proto; tests compare them with the onnx package.
FIELDS: dict[str, dict[int, tuple[str, str]]] = {
    "ModelProto": {
        1: ("ir_version", "int"),
        2: ("producer_name", "text"),
        3: ("producer_version", "text"),
        7: ("graph", "GraphProto"),
        8: ("opset_import", "OperatorSetIdProto*"),
    },
    "OperatorSetIdProto": {1: ("domain", "text"), 2: ("version", "int")},
    "GraphProto": {
        1: ("node", "NodeProto*"),
        2: ("name", "text"),
        5: ("initializer", "TensorProto*"),
        11: ("input", "ValueInfoProto*"),
        12: ("output", "ValueInfoProto*"),
    },
    "NodeProto": {
        1: ("input", "text*"),
        2: ("output", "text*"),
        3: ("name", "text"),
        4: ("op_type", "text"),
        5: ("attribute", "AttributeProto*"),
        6: ("doc_string", "text"),
        7: ("domain", "text"),
    },
    "AttributeProto": {
        1: ("name", "text"),
        2: ("f", "float"),
        3: ("i", "int"),
        5: ("t", "TensorProto"),
        8: ("ints", "int*"),
        20: ("type", "int"),
    },
    "TensorProto": {1: ("dims", "int*"), 2: ("data_type", "int"), 8: ("name", "text"), 9: ("raw_data", "bytes")},
    "ValueInfoProto": {1: ("name", "text"), 2: ("type", "TypeProto")},
    "TypeProto": {1: ("tensor_type", "Tensor")},
    "Tensor": {1: ("elem_type", "int"), 2: ("shape", "TensorShapeProto")},
    "TensorShapeProto": {1: ("dim", "Dimension*")},
    "Dimension": {1: ("dim_value", "int"), 2: ("dim_param", "text")},
}
VARINT, LENGTH, FOUR_BYTES = 0, 2, 5  # wire types
WIRE = {"int": VARINT, "float": FOUR_BYTES}


class WireError(ValueError):
    """The bytes are no graph of a bundle; the text says what was found."""


def read(content: memoryview, message: str = "ModelProto") -> Message:
    """The fields of a message by name: lists where a field may be repeated, and only those that are there. Raises WireError."""
    fields, found = FIELDS[message], dict[str, Any]()
    place, end = 0, len(content)
    while place < end:
        key, place = _varint(content, place)
        wire = key & 7
        if (key >> 3) not in fields:
            raise WireError(f"{message} with field {key >> 3}, which the graphs of a bundle do not have")
        name, kind = fields[key >> 3]
        repeated, kind = kind[-1] == "*", kind.rstrip("*")
        packed = repeated and kind == "int" and wire == LENGTH
        if wire != WIRE.get(kind, LENGTH) and not packed:
            raise WireError(f"{message}.{name} of wire type {wire}")
        value: Any
        if wire == VARINT:
            value, place = _varint(content, place)
            value = value - (1 << 64) if value >> 63 else value
        else:
            size, place = (4, place) if wire == FOUR_BYTES else _varint(content, place)
            if size > end - place:
                raise WireError(f"{message}.{name} ends before its time")
            value, place = content[place : place + size], place + size
            value = _packed(value) if packed else _value(value, kind, f"{message}.{name}")
        if repeated:
            found.setdefault(name, []).extend(value if packed else [value])
        elif name in found:
            raise WireError(f"{message}.{name} twice")
        else:
            found[name] = value
    return found


def fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Of each field of a message that `read` could read: its number, the bytes of all of it, and those of its value."""
    place = 0
    while place < len(content):
        begin = place
        key, place = _varint(content, place)
        if key & 7 == LENGTH:
            size, place = _varint(content, place)
            stop = place + size
        else:
            stop = place + 4 if key & 7 == FOUR_BYTES else _varint(content, place)[1]
        yield key >> 3, content[begin:stop], content[place:stop]
        place = stop


def announced(number: int, value: bytes) -> bytes:
    """A field of bytes with what announces it."""
    return _number(number << 3 | LENGTH) + _number(len(value)) + value


def _number(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _value(content: memoryview, kind: str, where: str) -> Any:
    if kind in FIELDS:
        return read(content, kind)
    if kind == "text":
        try:
            return str(content, "utf-8")
        except UnicodeDecodeError:
            raise WireError(f"{where} is no UTF-8 text") from None
    return content


def _packed(content: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(content):
        number, place = _varint(content, place)
        numbers.append(number - (1 << 64) if number >> 63 else number)
    return numbers


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it; at most 64 bits in 10 bytes."""
    number = shift = 0
    try:
        while True:
            byte = content[place]
            place += 1
            number |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise WireError("a number of more than 64 bits")
    except IndexError:
        raise WireError("a number ends before its time") from None
    if number >> 64:
        raise WireError("a number of more than 64 bits")
    return number, place
