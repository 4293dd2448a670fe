"""Bundles that must be refused: made of a good one by damage, by swaps, and by graphs that attack with honest hashes."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from service.manifest import FILES, MANIFEST

Make = Callable[[Path, random.Random], None]
SCORER = "scorer.onnx"


def flip(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice((*FILES, MANIFEST))
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    rewrite(path, bytes(content))


def truncate(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice((*FILES, MANIFEST))
    content = path.read_bytes()
    rewrite(path, content[: draw.randrange(len(content))])


def lengthen(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice(FILES)
    rewrite(path, path.read_bytes() + draw.randbytes(draw.randint(1, 100)))


def swap(folder: Path, draw: random.Random) -> None:
    one, other = draw.sample(FILES, 2)
    contents = (folder / one).read_bytes(), (folder / other).read_bytes()
    rewrite(folder / one, contents[1])
    rewrite(folder / other, contents[0])


def remove(folder: Path, draw: random.Random) -> None:
    (folder / draw.choice((*FILES, MANIFEST))).unlink()


def link(folder: Path, draw: random.Random) -> None:
    """A link, even to the right bytes; a link into nothing or without end; a pipe; a folder."""
    path = folder / draw.choice((*FILES, MANIFEST))
    beside = path.with_suffix(".moved")
    path.rename(beside)
    kind = draw.randrange(5)
    if kind == 4:
        os.mkfifo(path)
    elif kind == 3:
        path.mkdir()
    else:
        path.symlink_to((beside, "/dev/zero", path)[kind])


def edit_manifest(folder: Path, draw: random.Random) -> None:
    """A value of another type, a member less or more, and numbers that are none: anywhere in the manifest."""
    document = json.loads((folder / MANIFEST).read_bytes())
    calibration, golden, feature = document["calibration"]["scores"], document["golden"], document["features"]
    edits: list[Callable[[], Any]] = [
        lambda: document.update(threshold=float("nan")),
        lambda: document.update(threshold=document["threshold"] * 1.01),
        lambda: document.update(threshold=1e308),
        lambda: document.update(alpha=draw.choice([0, 1, -1, 2, 1e-9, document["alpha"] / 2, float("inf")])),
        lambda: document.update(schema_version=draw.choice([0, 2, "1", None])),
        lambda: document.update(name=draw.choice(["other", "", "../x", "a" * 101])),
        lambda: document.update({draw.choice(["extra", "__class__"]): 1}),
        lambda: document.pop(draw.choice(sorted(document.keys() - {"dropped", "warnings"}))),
        lambda: calibration.__setitem__(draw.randrange(len(calibration)), float("nan")),
        lambda: calibration.reverse(),
        lambda: calibration.clear(),
        lambda: calibration.append(1e39),
        lambda: golden.clear(),
        lambda: draw.choice(golden).update(score=draw.uniform(100, 1e38)),
        lambda: draw.choice(golden).update(elbo=-1e30),
        lambda: draw.choice(golden)["contributions"].append(0.0),
        lambda: draw.choice(golden)["contributions"].__setitem__(0, 1e6),
        lambda: [one.update(contributions=one["contributions"][:-1]) for one in golden],
        lambda: draw.choice(golden)["x"].pop(),
        lambda: golden[0]["x"].__setitem__(0, -1e39),
        lambda: feature.pop(draw.randrange(len(feature))),
        lambda: feature.append(feature[0]),
        lambda: draw.choice(feature).update(kind="text"),
        lambda: document["files"].pop(SCORER),
        lambda: document["files"].update({"more.onnx": document["files"][SCORER]}),
        lambda: document["files"][SCORER].update(bytes=draw.choice([-1, 1 << 40, 0])),
        lambda: document["files"][SCORER].update(sha256="../../../../etc/passwd"),
        lambda: document.update(training=nest(draw.randint(300, 100_000))),
    ]
    draw.choice(edits)()
    write_manifest(folder, document)


def alter_weights(folder: Path, draw: random.Random) -> None:
    """Other weights under honest hashes: so much that any record's score changes."""
    model = onnx.load(folder / SCORER)
    weights = [
        tensor for tensor in model.graph.initializer if tensor.name.startswith(("ensemble", "nets")) or tensor.data_type == 1
    ]
    multiplied = {name for node in model.graph.node if node.op_type in ("Gemm", "MatMul") for name in node.input}
    tensor = draw.choice([tensor for tensor in weights if tensor.name in multiplied and len(tensor.dims) == 2])
    values = numpy_helper.to_array(tensor).copy()
    tenfold_is_the_same = tensor.name.endswith((".pull", ".likelier"))  # of which only ratios count, or what is impossible anyway
    values *= draw.choice([-3.0, 0.0] if tenfold_is_the_same else [-3.0, 0.0, 10.0])
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    write_graph(folder, model)


def poison_weights(folder: Path, draw: random.Random) -> None:
    """NaN or infinity in a single weight."""
    model = onnx.load(folder / SCORER)
    multiplied = {name for node in model.graph.node if node.op_type in ("Gemm", "MatMul") for name in node.input}
    value = draw.choice([np.nan, np.inf, -np.inf])
    tensor = draw.choice([t for t in model.graph.initializer if t.data_type == 1 and (np.isnan(value) or t.name in multiplied)])
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[draw.randrange(values.size)] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    write_graph(folder, model)


def change_node(folder: Path, draw: random.Random) -> None:
    """An operator that is not allowed, of another domain or of no domain's; inputs and outputs of other names; cycles."""
    model = onnx.load(folder / SCORER)
    graph = model.graph
    node = draw.choice(graph.node)
    body = helper.make_graph([], "body", [], [])
    edits: list[Callable[[], Any]] = [
        lambda: setattr(
            node, "op_type", draw.choice(["Loop", "If", "Scan", "Resize", "Tile", "Expand", "NonZero", "Nonsense", ""])
        ),
        lambda: setattr(node, "domain", draw.choice(["com.microsoft", "ai.onnx.ml", "evil"])),
        lambda: node.attribute.append(helper.make_attribute("body", body)),
        lambda: node.attribute.append(helper.make_attribute("text", "x" * 1000)),
        lambda: node.input.append("nothing"),
        lambda: node.output.__setitem__(0, graph.node[0].output[0] if node is not graph.node[0] else "x"),
        lambda: node.input.__setitem__(0, "score") if node.input else graph.node.pop(),
        lambda: setattr(graph.input[0], "name", "y"),
        lambda: setattr(graph.output[0], "name", "y"),
        lambda: setattr(graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
        lambda: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_value", draw.choice([1, 1000, -5, 1 << 40])),
        lambda: graph.output.pop(),
        lambda: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
        lambda: setattr(model.opset_import[0], "version", draw.choice([0, 65, 1 << 40])),
        lambda: setattr(model, "ir_version", draw.choice([0, 1 << 40])),
        lambda: model.functions.append(helper.make_function("evil", "f", [], [], [], [helper.make_opsetid("", 18)])),
        lambda: graph.sparse_initializer.add(),
        lambda: model.metadata_props.append(onnx.StringStringEntryProto(key="a", value="b")),
        lambda: graph.ClearField("node"),
    ]
    draw.choice(edits)()
    write_graph(folder, model)


def external_data(folder: Path, draw: random.Random) -> None:
    """A weight that is said to lie in another file."""
    model = onnx.load(folder / SCORER)
    tensor = draw.choice(model.graph.initializer)
    where = draw.choice(["encoder.onnx", "/etc/passwd", "../../../../etc/passwd", "weights.bin"])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=where))
    if draw.random() < 0.5:
        tensor.ClearField("raw_data")
    write_graph(folder, model)


def bomb(folder: Path, draw: random.Random) -> None:
    """A few bytes of graph in front of the good one, that ask for gigabytes or hours."""
    model = onnx.load(folder / SCORER)
    much = draw.randint(1 << 20, 1 << 45)

    def whole(name: str, values: list[int]) -> TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    node = helper.make_node
    doubling = [node("Concat", [f"b{i}", f"b{i}"], [f"b{i + 1}"], axis=1) for i in range(60)]
    bombs: list[tuple[list[onnx.NodeProto], list[TensorProto]]] = [
        ([node("ConstantOfShape", ["s"], ["b"])], [whole("s", [much, much])]),
        ([node("ConstantOfShape", ["s"], ["b"])], [whole("s", [-1, 5])]),
        ([node("Expand", ["x", "s"], ["b"])], [whole("s", [much, 1, 1])]),
        ([node("Tile", ["x", "s"], ["b"])], [whole("s", [1, much])]),
        ([node("Pad", ["x", "s"], ["b"])], [whole("s", [0, 0, 0, much])]),
        ([node("Range", ["s", "t", "u"], ["b"])], [whole("s", [0]), whole("t", [much]), whole("u", [1])]),
        ([node("Identity", ["x"], ["b0"]), *doubling], []),
        (
            [node("Shape", ["x"], ["s"]), node("Mul", ["s", "t"], ["u"]), node("ConstantOfShape", ["u"], ["b"])],
            [whole("t", [much])],
        ),
        (
            [node("Shape", ["x"], ["s"]), node("Sub", ["t", "s"], ["u"]), node("ConstantOfShape", ["u"], ["b"])],
            [whole("t", [much])],
        ),
        (
            [
                node("ConstantOfShape", ["s"], ["b"]),
                node("ConstantOfShape", ["t"], ["c"]),
                *[node("MatMul", ["b", "c"], [f"d{i}"]) for i in range(100)],
            ],
            [whole("s", [1 << 14, 1 << 14]), whole("t", [1 << 14, 1 << 14])],
        ),
        (
            [node("ConstantOfShape", ["s"], ["b"]), node("Transpose", ["b"], ["c"]), node("MatMul", ["b", "c"], ["d"])],
            [whole("s", [1 << 20, 1])],
        ),
        ([node("TopK", ["x", "s"], ["b", "c"], axis=1)], [whole("s", [much])]),
        ([node("Slice", ["x", "s", "t"], ["b"]), node("Gather", ["b", "s"], ["c"])], [whole("s", [much]), whole("t", [-1])]),
        ([node("Identity", ["x" if i == 0 else f"b{i}"], [f"b{i + 1}"]) for i in range(1 << 18)], []),
    ]
    nodes, weights = draw.choice(bombs[:-1] if draw.random() < 0.995 else bombs)
    if draw.random() < 0.5:
        values = [*model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *values])
    else:
        model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
    write_graph(folder, model)


def wrong_tensor(folder: Path, draw: random.Random) -> None:
    """Constants whose shapes, types and bytes do not agree."""
    model = onnx.load(folder / SCORER)
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.type == AttributeProto.TENSOR]
    tensor = draw.choice(tensors)
    edits: list[Callable[[], Any]] = [
        lambda: tensor.dims.append(draw.choice([0, -1, 2, 1 << 62])),
        lambda: setattr(tensor, "data_type", draw.choice([0, 8, 11, 99])),
        lambda: setattr(tensor, "raw_data", tensor.raw_data[:-1]),
        lambda: setattr(tensor, "raw_data", tensor.raw_data + bytes(4)),
        lambda: tensor.float_data.append(1.0),
        lambda: tensor.string_data.append(b"x"),
    ]
    draw.choice(edits)()
    write_graph(folder, model)


def garble(folder: Path, draw: random.Random) -> None:
    """Bytes of the graph itself overwritten, under honest hashes, where they are structure and not weights."""
    content = bytearray((folder / SCORER).read_bytes())
    for _ in range(draw.choice([1, 1, 4, 100])):
        content[draw.randrange(min(len(content), 60_000))] = draw.randrange(256)
    if draw.random() < 0.2:
        content = bytearray(draw.randbytes(draw.randint(0, 5_000)))
    write_graph(folder, bytes(content))


KINDS: tuple[Make, ...] = (
    *(flip, truncate, lengthen, swap, remove, link, edit_manifest, alter_weights),
    *(poison_weights, change_node, external_data, bomb, wrong_tensor, garble),
)


def nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(min(depth, 900)):
        value = [value]
    return {"deep": value}


def rewrite(path: Path, content: bytes) -> None:
    """Replaces a file, which may be a link to the good one's."""
    path.unlink()
    path.write_bytes(content)


def write_graph(folder: Path, model: onnx.ModelProto | bytes) -> None:
    """The graph with honest hashes."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    rewrite(folder / SCORER, content)
    document = json.loads((folder / MANIFEST).read_bytes())
    document["files"][SCORER] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_manifest(folder, document)


def write_manifest(folder: Path, document: Any) -> None:
    """The manifest, and the folder named after it, as an attacker would."""
    rewrite(folder / MANIFEST, json.dumps(document).encode())
