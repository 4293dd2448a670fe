"""Tables of many columns: a graph has as many nodes as with few, and hardly anything in it grows with their square."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from service.graph import check
from service.session import SLICE, Session
from training.calibrate import build
from training.elbo import WIDE
from training.export import export
from training.preprocessing import Preprocessing
from training.vae import VAE

from .conftest import TINY
from .mixed import FEATURES, rows

TIMES = (2, 6)


@pytest.fixture(scope="module")
def made():
    """(scorer, its graphs, x) of a table that has all kinds of columns so many times, by how many."""

    config = dataclasses.replace(TINY, rules_weight=0, regressions_weight=0)  # of many columns drawn by chance some keep a rule

    def make(times):
        features = [feature.model_copy(update={"name": f"{feature.name}{i}"}) for i in range(times) for feature in FEATURES]
        x = np.hstack([rows(400, seed=i) for i in range(times)])
        preprocessing = Preprocessing(features, x)
        torch.manual_seed(0)
        nets = [VAE(preprocessing, TINY).eval() for _ in range(TINY.nets)]
        scorer, _ = build(preprocessing, nets, x, (np.arange(400) % TINY.nets).astype(np.int8), x[:0], config)
        return scorer, export(scorer), x

    return {times: make(times) for times in TIMES}


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "scorer.onnx"])
def test_a_graph_has_as_many_nodes_and_little_that_grows_with_the_square(made, name):
    (few, much), (many, more) = (
        (len(onnx.load_from_string(graphs[name]).graph.node), len(graphs[name])) for _, graphs, _ in made.values()
    )
    assert many == few
    assert more < 1.4 * TIMES[1] / TIMES[0] * much


def test_what_stands_side_by_side_is_averaged_in_the_graph_as_in_torch(made):
    scorer, graphs, x = made[TIMES[1]]
    assert scorer.preprocessing.slots > WIDE
    told = Session(graphs["scorer.onnx"], x.shape[1], "cpu").run(x[:50], explain=True)
    with torch.no_grad():
        meant = scorer(torch.from_numpy(x[:50]))
    for field in told._fields:
        np.testing.assert_allclose(
            getattr(told, field), getattr(meant, field).numpy().reshape(getattr(told, field).shape), rtol=1e-3, atol=1e-3
        )


def test_its_work_grows_little_faster_than_the_columns(made):
    few, many = (check(graphs["scorer.onnx"], SLICE) for _, graphs, _ in made.values())
    assert many < 1.7 * TIMES[1] / TIMES[0] * few


def test_each_column_gets_back_what_its_own_slots_say(made):
    """The slots of a record stand for the record; levels that share a slot for an unknown one."""
    preprocessing, x = made[TIMES[1]][0].preprocessing, made[TIMES[1]][2]
    x = x[:100]
    told = preprocessing.restore(preprocessing(torch.from_numpy(x)).y).numpy()
    there = ~np.isnan(x)
    for columns in (preprocessing.numeric, preprocessing.cyclic):
        some = there[:, columns]
        np.testing.assert_allclose(told[:, columns][some], x[:, columns][some], rtol=1e-3, atol=1e-3)
    some = there[:, preprocessing.boolean]
    assert ((told[:, preprocessing.boolean] > 0.6) == (x[:, preprocessing.boolean] == 1))[some].all()
    code, some = np.nan_to_num(x[:, preprocessing.category]), there[:, preprocessing.category]
    meant = np.where(code < preprocessing.shared.numpy(), code, preprocessing.unknown.numpy())
    assert len(preprocessing.category) > 1
    np.testing.assert_array_equal(told[:, preprocessing.category][some], meant[some])
