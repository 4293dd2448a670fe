"""Golden records: among them are some of which each category and each part of a day is expected, and some that contradict
themselves, so that a graph with other weights anywhere is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from service.detector import Detector
from service.manifest import BundleError, Feature
from service.session import Session
from training.export import export
from training.parity import GOLDEN, contradicting, golden_records, with_others_expected

from .made import numbers, scorers_of
from .mixed import FEATURES as MIXED
from .mixed import rows

FEATURES = [
    Feature(name="kind", kind="categorical", categories=("a", "b", "c"), missing_rate=0.0),
    Feature(name="amount", kind="numeric", missing_rate=0.0),
    Feature(name="time", kind="datetime", missing_rate=0.0),
]
FIRST = np.array([0, 1])


def expected_of(codes, hours):
    """(n, 5) of so many records: the category, an amount of its own, hour, weekday and month."""
    n = len(codes)
    return np.column_stack([codes, np.arange(n), hours, np.full(n, 3.5), np.full(n, 6.5)]).astype(np.float32)


def test_each_category_and_octant_of_a_day_is_expected_of_two_records():
    codes, hours = np.zeros(100), np.full(100, 12.5)
    codes[[50, 60, 70]], codes[[51, 61, 71]] = 1, 3  # b, and one that is none of them
    hours[[80, 81, 82]] = 23.9
    chosen = with_others_expected(FIRST, expected_of(codes, hours), FEATURES)
    assert list(chosen[:2]) == [0, 1]
    assert sorted(chosen[2:]) == [50, 51, 60, 61, 80, 81]


def test_a_record_of_which_two_rare_things_are_expected_comes_before_two_of_one_each():
    codes, hours = np.zeros(50), np.full(50, 12.5)
    codes[[10, 20, 30]], hours[[20, 30, 40]] = 1, 2.5
    assert list(with_others_expected(FIRST, expected_of(codes, hours), FEATURES)) == [0, 1, 20, 30]


def test_what_one_record_alone_is_expected_of_has_that_one():
    codes = np.zeros(20)
    codes[7] = 2
    assert list(with_others_expected(FIRST, expected_of(codes, np.full(20, 1.0)), FEATURES)) == [0, 1, 7]


def test_so_many_categories_do_not_make_a_manifest_grow_without_end():
    chosen = with_others_expected(np.arange(13), expected_of(np.arange(500), np.full(500, 1.0)), FEATURES)
    assert len(chosen) == len(set(chosen)) == 2 * GOLDEN - 3


def test_numbers_alone_need_no_more_records():
    chosen = with_others_expected(FIRST, np.arange(30, dtype=np.float32)[:, None], FEATURES[1:2])
    assert list(chosen) == [0, 1]


def test_some_contradict_themselves_by_each_term_that_looks_for_it_without_gaps_and_with(exported):
    scorer, _ = exported("surprise")
    made = contradicting(scorer, rows(300, seed=5), MIXED)
    slots = scorer.preprocessing(torch.from_numpy(made))
    for told in (scorer.regressions, scorer.presence):
        assert (told(slots).value > 1).sum() >= 2
    assert 2 <= np.isnan(made).any(1).sum() <= len(made)
    assert len(contradicting(exported("elbo")[0], rows(300, seed=5), MIXED)) == 0


@pytest.mark.parametrize("module", ["regressions", "presence", "rules", "distances.0", "distances.1"])
def test_other_weights_of_any_term_are_seen(bundle, module):
    graph = onnx.load_from_string(bundle.files["scorer.onnx"])
    multiplied = {name for node in graph.graph.node if node.op_type in ("Gemm", "MatMul") for name in node.input}
    names = [tensor.name for tensor in graph.graph.initializer if tensor.name.startswith(module) and tensor.name in multiplied]
    assert names
    for name in names:
        graph = onnx.load_from_string(bundle.files["scorer.onnx"])
        tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(-3), name))
        with pytest.raises(BundleError, match="golden"):
            Detector(dataclasses.replace(bundle, files={**bundle.files, "scorer.onnx": graph.SerializeToString()}), "cpu")


def test_what_gaps_would_do_is_seen_where_training_has_none():
    """The graph of such a table fills gaps, too, doubts what it is told, and leaves relations aside of which a number lacks."""
    draw = np.random.default_rng(0)

    def sold(n):
        quantity, price = draw.integers(1, 9, n), np.round(draw.lognormal(3, 1, n), 2)
        fee, weight = np.round(draw.random(n), 2), draw.normal(size=n)
        total = np.round(quantity * price, 2)
        return np.column_stack([quantity, price, total, fee, total + fee, weight, weight + 0.3 * draw.normal(size=n)]).astype(
            "f4"
        )

    features = numbers(7)
    (scorer,) = scorers_of(features, sold(1_500), sold(300), rules_weight=(1.0,))
    graph = export(scorer)["scorer.onnx"]
    golden = golden_records(Session(graph, 7, "cpu"), scorer, sold(300), features)
    x = np.array([one.x for one in golden], np.float32)
    told = Session(graph, 7, "cpu").run(x, explain=True)
    names = [tensor.name for tensor in onnx.load_from_string(graph).graph.initializer]
    altered = [name for name in names if name.endswith((".doubt", ".uses", ".needs", ".inverse"))]
    assert {name.rsplit(".", 1)[1] for name in altered} == {"doubt", "uses", "needs", "inverse"}
    for name in altered:
        other = onnx.load_from_string(graph)
        tensor = next(tensor for tensor in other.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), name))
        now = Session(other.SerializeToString(), 7, "cpu").run(x, explain=True)
        assert any(np.abs(getattr(now, of) - getattr(told, of)).max() > 0.01 for of in ("score", "expected")), name


def test_the_manifest_says_which_numbers_the_others_tell_and_how_much_of_them(bundle):
    told = bundle.manifest.training["told_by_others"]
    numbers = {feature.name for feature in bundle.manifest.features if feature.kind == "numeric"}
    assert {"amount"} <= told.keys() < numbers
    assert sorted(told.values(), reverse=True) == list(told.values())
    assert all(0.25 <= share <= 1 for share in told.values())
