"""The part of a graph that some of its outputs need, cut out of the graph's bytes.

onnxruntime can be told to run no more than that, but then it looks at every node of the whole graph all the same, and makes fewer
of them into one: a record alone takes a sixth longer.
"""

from __future__ import annotations

from collections.abc import Iterable

from service.wire import announced, fields, read

GRAPH, NODE, INITIALIZER, OUTPUT = 7, 1, 5, 12  # numbers of fields in a model, and in its graph


def needed_by(outputs: Iterable[str], content: bytes) -> bytes:
    """A model that gives these outputs alone, from one that service/graph.py has found good; what is left stays as it is."""
    return b"".join(
        announced(GRAPH, _graph(set(outputs), value)) if number == GRAPH else bytes(whole)
        for number, whole, value in fields(memoryview(content))
    )


def _graph(wanted: set[str], content: memoryview) -> bytes:
    outputs, every, left = set(wanted), list(fields(content)), []
    for number, whole, value in reversed(every):  # a node stands behind those that make what it takes
        if number == NODE:
            node = read(value, "NodeProto")
            if wanted.isdisjoint(node["output"]):
                continue
            wanted.update(node.get("input", []))
        left.append((number, whole, value))
    return b"".join(
        whole
        for number, whole, value in reversed(left)
        if (number != OUTPUT or read(value, "ValueInfoProto")["name"] in outputs)
        and (number != INITIALIZER or read(value, "TensorProto")["name"] in wanted)
    )
