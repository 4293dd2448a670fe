"""What a graph would cost is known from its bytes; a reader of few fields, compared with the onnx package."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import graph, wire
from service.bundle import Bundle
from service.graph import GraphError, check
from service.session import SLICE, load
from tests.service import tiny_bundle


def model(*nodes: onnx.NodeProto, **constants: np.ndarray) -> bytes:
    """A graph from x (n, 4) to y, whatever its shape."""
    info = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    inputs, outputs = [info("x", TensorProto.FLOAT, ["n", 4])], [info("y", TensorProto.FLOAT, None)]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    made.graph.output[0].type.tensor_type.shape.Clear()
    return bytes(made.SerializeToString())


node, whole = helper.make_node, lambda *values: np.array(values, np.int64)


def test_the_numbers_of_the_fields_are_those_of_onnx() -> None:
    nested = {"Tensor": onnx.TypeProto.Tensor, "Dimension": onnx.TensorShapeProto.Dimension}
    for message, fields in wire.FIELDS.items():
        there = nested.get(message, getattr(onnx, message, None)).DESCRIPTOR.fields_by_number
        for number, (name, kind) in fields.items():
            assert there[number].name == name
            assert there[number].is_repeated == kind.endswith("*")


@pytest.mark.parametrize("name", ["scorer.onnx", "encoder.onnx", "decoder.onnx"])
def test_a_graph_is_read_as_onnx_reads_it(bundle: Bundle, name: str) -> None:
    read, known = wire.read(memoryview(bundle.files[name])), onnx.load_from_string(bundle.files[name])
    nodes = read["graph"]["node"]
    assert [(n["op_type"], n.get("input", []), n["output"]) for n in nodes] == [
        (n.op_type, list(n.input), list(n.output)) for n in known.graph.node
    ]
    for mine, theirs in zip(read["graph"]["initializer"], known.graph.initializer, strict=True):
        assert (mine["name"], list(mine.get("dims", []))) == (theirs.name, list(theirs.dims))
        assert bytes(mine["raw_data"]) == theirs.raw_data
    numbers = [(a["name"], a.get("i", 0), list(a.get("ints", []))) for n in nodes for a in n.get("attribute", [])]
    assert numbers == [(a.name, a.i, list(a.ints)) for n in known.graph.node for a in n.attribute]
    check(bundle.files[name], SLICE)


def test_whatever_the_bytes_are_they_are_read_or_refused(bundle: Bundle) -> None:
    draw, content = random.Random(0), bundle.files["encoder.onnx"]
    refused = 0
    for _ in range(300):
        damaged = bytearray(content[: draw.randrange(3_000)] if draw.random() < 0.3 else content)
        for _ in range(draw.choice([1, 5, 50])):
            damaged[draw.randrange(min(len(damaged), 20_000))] = draw.randrange(256) if damaged else 0
        try:
            check(bytes(damaged), SLICE)
        except GraphError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    "content", [b"\xff" * 11, b"\x08" + b"\xff" * 9 + b"\x7f", b"\x08", b"\x3a\x05ab", b"\x08\x01\x08\x01", b"\x00"]
)
def test_bytes_that_are_no_message(content: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.read(memoryview(content))


BOMBS: dict[str, tuple[bytes, str]] = {
    "constant of a shape": (model(node("ConstantOfShape", ["s"], ["y"]), s=whole(1 << 20, 1 << 20)), "too much"),
    "a negative size": (model(node("ConstantOfShape", ["s"], ["y"]), s=whole(-1)), "do not fit"),
    "doubling": (
        model(
            node("Identity", ["x"], ["b0"]),
            *(node("Concat", [f"b{i}"] * 2, [f"b{i + 1}"], axis=1) for i in range(60)),
            node("Identity", ["b60"], ["y"]),
        ),
        "too much",
    ),
    "n times much": (
        model(
            node("Shape", ["x"], ["s"]), node("Mul", ["s", "t"], ["u"]), node("ConstantOfShape", ["u"], ["y"]), t=whole(1 << 20)
        ),
        "too much",
    ),
    "much less n": (
        model(
            node("Shape", ["x"], ["s"]), node("Sub", ["t", "s"], ["u"]), node("ConstantOfShape", ["u"], ["y"]), t=whole(1 << 20)
        ),
        "depends on the records",
    ),
    "much by n": (
        model(
            node("Shape", ["x"], ["s"]), node("Div", ["t", "s"], ["u"]), node("ConstantOfShape", ["u"], ["y"]), t=whole(1 << 20)
        ),
        "depends on the records",
    ),
    "an element at the length of a part": (
        model(
            node("Slice", ["x", "zero", "k", "zero"], ["p"]),
            node("Shape", ["p"], ["s"], start=0, end=1),
            node("Gather", ["t", "s"], ["u"]),
            node("ConstantOfShape", ["u"], ["y"]),
            zero=whole(0),
            k=whole(900),
            t=whole(*range(1, 901), 7),
        ),
        "do not fit",
    ),
    "an element at n": (
        model(
            node("Shape", ["x"], ["s"]),
            node("Gather", ["t", "s"], ["u"]),
            node("ConstantOfShape", ["u"], ["y"]),
            t=whole(*range(2000)),
        ),
        "depends on the records",
    ),
    "an overflow": (
        model(node("Mul", ["t", "t"], ["u"]), node("ConstantOfShape", ["u"], ["y"]), t=whole(1 << 40)),
        "depends on the records",
    ),
    "a shape of records": (
        model(node("Cast", ["x"], ["s"], to=7), node("ConstantOfShape", ["s"], ["y"])),
        "depends on the records",
    ),
    "an outer product": (
        model(
            node("ConstantOfShape", ["s"], ["b"]),
            node("Transpose", ["b"], ["c"]),
            node("MatMul", ["b", "c"], ["y"]),
            s=whole(1 << 20, 1),
        ),
        "too much",
    ),
    "hours of work": (
        model(
            node("ConstantOfShape", ["s"], ["b"]),
            *(node("MatMul", ["b", "b"], [f"c{i}"]) for i in range(40)),
            node("Identity", ["x"], ["y"]),
            s=whole(1 << 12, 1 << 12),
        ),
        "too much",
    ),
    "too many of the best": (model(node("TopK", ["x", "k"], ["y", "z"], axis=1), k=whole(1 << 40)), "too much"),
    "rows that are no rows": (model(node("Reshape", ["x", "s"], ["y"]), s=whole(-1, 1 << 40)), "not to rows"),
    "rows of a fixed number": (model(node("Reshape", ["x", "s"], ["y"]), s=whole(1 << 40, 4)), "not to rows"),
    "rows of n values": (model(node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])), "do not fit"),
    "an axis that is not there": (model(node("ReduceMin", ["x", "a"], ["y"]), a=whole(2)), "do not fit"),
    "an operator without a rule": (model(node("Tile", ["x", "s"], ["y"]), s=whole(1, 1 << 40)), "not on the list"),
    "an operator of another domain": (model(node("Abs", ["x"], ["y"], domain="com.microsoft")), "not on the list"),
    "a loop": (model(node("Loop", ["", "", "x"], ["y"], body=helper.make_graph([], "b", [], []))), "field 6"),
    "no input": (model(node("Abs", ["z"], ["y"])), "nothing before it makes"),
    "no output": (model(node("Abs", ["x"], ["z"])), "nothing makes"),
    "a name twice": (model(node("Abs", ["x"], ["y"]), node("Neg", ["x"], ["y"])), "two tensors"),
    "NaN": (model(node("Add", ["x", "w"], ["y"]), w=np.array([1, np.nan, 1, 1], np.float32)), "NaN"),
    "an infinite weight": (model(node("MatMul", ["x", "w"], ["y"]), w=np.full((4, 1), np.inf, np.float32)), "not finite"),
    "doubles": (model(node("Add", ["x", "w"], ["y"]), w=np.zeros(4)), "type 11"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_graph_that_asks_for_too_much_is_refused(name: str) -> None:
    content, words = BOMBS[name]
    with pytest.raises(GraphError, match=words):
        check(content, SLICE)


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (model(node("Reshape", ["x", "s"], ["y"]), s=whole(-1, 2)), (14, 2)),
        (model(node("Reshape", ["x", "s"], ["y"]), s=whole(-1, 28)), (1, 28)),
        (model(node("Softmax", ["x"], ["y"], axis=1)), (7, 4)),
        (model(node("ReduceMin", ["x", "a"], ["y"]), a=whole(1)), (7, 1)),
        (model(node("ArgMin", ["x"], ["z"], axis=1, keepdims=0), node("Cast", ["z"], ["y"], to=1)), (7,)),
        (model(node("TopK", ["x", "k"], ["y", "z"], axis=1), k=whole(3)), (7, 3)),
    ],
    ids=["more rows", "one row", "Softmax", "ReduceMin", "ArgMin", "TopK"],
)
def test_a_shape_is_the_one_that_onnxruntime_makes(made: bytes, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, tuple[int, ...]] = {}
    name = graph._name
    monkeypatch.setattr(graph, "_name", lambda all_, n, tensor: (known.update({n: tensor.shape}), name(all_, n, tensor)))
    check(made, 7)
    assert known["y"] == shape == load(made, "cpu").run(["y"], {"x": np.zeros((7, 4), np.float32)})[0].shape


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_NODES", 3)
    with pytest.raises(GraphError, match="nodes, more than 3"):
        check(tiny_bundle.scorer(tiny_bundle.FEATURES), SLICE)


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    made = onnx.load_from_string(tiny_bundle.scorer(tiny_bundle.FEATURES))
    change(made)
    return bytes(made.SerializeToString())


def external(made: onnx.ModelProto) -> None:
    tensor = made.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/passwd"))


CHANGES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "external data": external,
    "functions": lambda made: made.functions.add(),
    "sparse weights": lambda made: made.graph.sparse_initializer.add(),
    "metadata": lambda made: made.metadata_props.add(),
    "two domains": lambda made: made.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    "numbers beside the bytes": lambda made: made.graph.initializer[0].float_data.append(1),
    "fewer bytes": lambda made: setattr(made.graph.initializer[0], "raw_data", b""),
    "an input of doubles": lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
    "a weight called x": lambda made: setattr(made.graph.initializer[0], "name", "x"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_bundle_has_no_use_for_is_refused(name: str) -> None:
    with pytest.raises(GraphError):
        check(changed(CHANGES[name]), SLICE)


def test_the_example_needs_little(bundle: Bundle) -> None:
    """The limits are far from what real graphs need: a slice of 64 times as many rows is within them."""
    example = next((Path(__file__).parents[2] / "models" / "example").glob("2*"))
    check((example / "scorer.onnx").read_bytes(), SLICE * 64)
