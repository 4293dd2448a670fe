"""A graph cut down to what its scores need says of every record what the whole one does, bit for bit."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from service.bundle import read_bundle
from service.graph import check
from service.session import NAMES, SLICE, load
from service.subgraph import needed_by

EXAMPLE = next((Path(__file__).parents[2] / "models" / "example").glob("2*"))
SCORES = NAMES[:3]


@pytest.fixture(scope="module", params=["tiny", "example"])
def graph(request, bundle):
    return (bundle if request.param == "tiny" else read_bundle(EXAMPLE)).files["scorer.onnx"]


def test_the_answers_are_the_same_bits(graph):
    whole, part = load(graph, "cpu"), load(needed_by(SCORES, graph), "cpu")
    assert [output.name for output in part.get_outputs()] == list(SCORES)
    random = np.random.default_rng(0)
    x = random.normal(size=(700, whole.get_inputs()[0].shape[1])).astype(np.float32) * 3
    x[random.random(x.shape) < 0.1] = np.nan
    x[::50] *= 1e30
    for size in (1, 7, 512):
        for start in range(0, len(x), size):
            rows = {"x": x[start : start + size]}
            for got, want in zip(part.run(SCORES, rows), whole.run(SCORES, rows), strict=True):
                np.testing.assert_array_equal(got, want)


def test_only_what_is_needed_is_left(graph):
    known, cut = onnx.load_from_string(graph), needed_by(SCORES, graph)
    left = onnx.load_from_string(cut)
    onnx.checker.check_model(left)
    check(cut, SLICE)
    assert list(left.graph.input) == list(known.graph.input)
    asked = set(SCORES).union(*(node.input for node in left.graph.node))
    assert all(asked.intersection(node.output) for node in left.graph.node)
    assert {constant.name for constant in left.graph.initializer} <= asked
    kept = {node.name for node in left.graph.node}
    assert [node for node in known.graph.node if node.name in kept] == list(left.graph.node)
    assert len(left.graph.node) < len(known.graph.node)


def test_all_outputs_need_the_whole(graph):
    assert onnx.load_from_string(needed_by(NAMES, graph)) == onnx.load_from_string(graph)
