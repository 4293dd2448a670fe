"""What a graph may hold and what it would cost, known before onnxruntime sees its bytes.

A graph of 130 bytes can ask for gigabytes. So the shape of every tensor is worked out here, for the largest run that the service
makes. A graph is refused that has an operator without a rule in operators.py, needs too much memory or work, or holds NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.operators import RULES
from service.shapes import GraphError, Node, Rows, Tensor, constant
from service.wire import Message, WireError, read

__all__ = ["GraphError", "check"]

MAX_NODES = 1 << 18  # some 400 are usual; older bundles, with some for each column, had up to 110,000
MAX_CELLS = 1 << 29  # values held at one time: 2 GiB as float32; a hundred categories of ten levels take 19 million
MAX_WORK = 1 << 40  # multiplications and additions: half a minute of one core
MAX_VERSION = 64  # of the operators and of the format: those to come are refused by onnxruntime itself


def check(content: bytes, rows: int) -> int:
    """The multiplications and additions of a run of so many rows. Raises GraphError where these bytes may not be run on them."""
    try:
        model = read(memoryview(content))
    except WireError as error:
        raise GraphError(str(error)) from None
    graph = model.get("graph", {})
    versions = [(opset.get("domain", ""), opset.get("version", 0)) for opset in model.get("opset_import", [])]
    if len(versions) != 1 or versions[0][0] or not 1 <= versions[0][1] <= MAX_VERSION:
        raise GraphError("operators must be of ONNX's own domain, of one version")
    if not 3 <= model.get("ir_version", 0) <= MAX_VERSION:
        raise GraphError("of an unknown version of the format")
    nodes = graph.get("node", [])
    if len(nodes) > MAX_NODES:
        raise GraphError(f"{len(nodes)} nodes, more than {MAX_NODES}")
    tensors = {"": Tensor(())}  # an optional input that is left out
    for given in graph.get("initializer", []):
        _name(tensors, given.get("name", ""), constant(given))
    for given in graph.get("input", []):
        _name(tensors, given.get("name", ""), _input(given, rows))
    return _run(nodes, [given.get("name", "") for given in graph.get("output", [])], tensors)


def _input(given: Message, rows: int) -> Tensor:
    declared = given.get("type", {}).get("tensor_type", {})
    dims = declared.get("shape", {}).get("dim", [])
    if declared.get("elem_type") != 1 or len(dims) != 2 or "dim_value" in dims[0] or dims[1].get("dim_value", 0) < 1:
        raise GraphError("an input that is not (n, columns) of float32")
    return Tensor((Rows(rows), dims[1]["dim_value"]))


def _run(nodes: Sequence[Message], outputs: Sequence[str], tensors: dict[str, Tensor]) -> int:
    """Goes through the nodes as onnxruntime will, without the values: what is held at any time, and the work of all, returned."""
    last = {name: place for place, node in enumerate(nodes) for name in node.get("input", [])}
    last |= dict.fromkeys(outputs, len(nodes))
    held = work = 0
    for place, node in enumerate(nodes):
        op = node.get("op_type", "")
        rule = RULES.get(op)
        if rule is None or node.get("domain"):
            raise GraphError(
                f"operator {node.get('domain') or 'ai.onnx'}.{op[:40]}, which is not on the list of service/operators.py"
            )
        names, made = node.get("input", []), node.get("output", [])
        if lacking := [name for name in names if name not in tensors]:
            raise GraphError(f"{op} of {lacking[0][:80]}, which nothing before it makes")
        try:
            given = Node(op, {attribute.get("name", ""): attribute for attribute in node.get("attribute", [])}, len(made))
            results, steps = rule(given, [tensors[name] for name in names])
        except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
            reason = error if isinstance(error, GraphError) else "inputs or attributes that do not fit"
            raise GraphError(f"{op} {node.get('name', '')[:80]}: {reason}") from None
        for name, result in zip(made, results, strict=False):
            _name(tensors, name, result)
            held += result.cells
        work += steps + sum(result.cells for result in results)
        if held > MAX_CELLS or work > MAX_WORK:
            raise GraphError(f"{op} {node.get('name', '')[:80]}: needs too much memory or work")
        for name in {*names, *made}:
            if last.get(name, place) == place and name and tensors[name].constant is None:
                held -= tensors[name].cells
    if lacking := [name for name in outputs if name not in tensors]:
        raise GraphError(f"an output {lacking[0][:80]}, which nothing makes")
    return int(work)


def _name(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in tensors:
        raise GraphError(f"two tensors called {name[:80]!r}")
    tensors[name] = tensor
