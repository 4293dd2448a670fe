"""A scorer graph beside its own matrix products: how much of its time is anything else.

    python benchmarks/graph.py models/example

The scores alone, as the service runs them, of as many records as it takes in one run, on one thread; and a graph of nothing but
the products by fixed matrices that are in it, of the same sizes. Interleaved, medians. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle import current_version, read_bundle
from service.session import NAMES, SLICE
from service.subgraph import needed_by

Array = NDArray[np.float32]


def products_of(graph: bytes, x: Array) -> tuple[bytes, dict[str, Array]]:
    """A graph of the products of matrices in a graph, by its own weights, and inputs for it of the sizes that records x give."""
    model = onnx.load_from_string(graph)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul") and node.input[1] in weights]
    sizes = shapes_of(model, [node.input[0] for node in found], x)
    nodes, kept, fed, outputs = [], [], dict[str, Array](), []
    draw = np.random.default_rng(0)
    for place, node in enumerate(found):
        size, output = sizes[node.input[0]], f"y{place}"
        source = f"x{'_'.join(map(str, size))}"
        fed.setdefault(source, draw.normal(size=size).astype(np.float32))
        kept += [numpy_helper.from_array(weights[name], f"{output}_{name}") for name in node.input[1:] if name in weights]
        node.input[0], node.input[1:] = source, [f"{output}_{name}" for name in node.input[1:] if name in weights]
        node.output[0] = output
        nodes.append(node)
        outputs.append(helper.make_node("Slice", [output, "first", "second", "first"], [f"{output}_part"]))  # few bytes leave
    kept += [numpy_helper.from_array(np.array([number]), name) for number, name in ((0, "first"), (1, "second"))]
    values = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in outputs]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(array.shape)) for name, array in fed.items()]
    made = helper.make_model(
        helper.make_graph(nodes + outputs, "products", inputs, values, kept), opset_imports=model.opset_import
    )
    made.ir_version = model.ir_version
    return made.SerializeToString(), fed


def shapes_of(model: Any, names: list[str], x: Array) -> dict[str, tuple[int, ...]]:
    """The shapes that values of a model have for records x."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    for name in set(names) - {output.name for output in seen.graph.output} - {"x"}:
        seen.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    asked = sorted(set(names) - {"x"})
    told = session(seen.SerializeToString()).run(asked, {"x": x}) if asked else []
    return {"x": x.shape, **{name: array.shape for name, array in zip(asked, told, strict=True)}}


def session(graph: bytes) -> Any:
    """A session as the service has them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def medians(works: Mapping[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Milliseconds of each, interleaved."""
    spent = {name: list[float]() for name in works}
    for _ in range(times):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            spent[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(took) for name, took in spent.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder of a model, MODELS_DIR/NAME")
    parser.add_argument("--records", type=int, default=SLICE, help=f"in a run (default {SLICE})")
    parser.add_argument("--times", type=int, default=100)
    options = parser.parse_args()
    bundle = read_bundle(options.model / current_version(options.model.parent, options.model.name))
    graph = needed_by(NAMES[:3], bundle.files["scorer.onnx"])
    golden = np.array([record.x for record in bundle.manifest.golden], np.float32)
    x = np.resize(golden, (options.records, golden.shape[1]))
    alone, fed = products_of(graph, x)
    whole, products = session(graph), session(alone)
    works = {"graph": lambda: whole.run(None, {"x": x}), "products": lambda: products.run(None, fed)}
    told = medians(works, options.times)
    ratio = told["graph"] / told["products"]
    print(
        f"{options.records} records: the graph {told['graph']:.2f} ms, its products {told['products']:.2f} ms: {ratio:.2f} times"
    )
    print(json.dumps({"records": options.records, "graph_ms": round(told["graph"], 3), "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
